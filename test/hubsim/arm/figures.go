package arm

// figureRequests adds the requests that only tell: statistics, quotas, tiers.
func (p *Provider) figureRequests() {
	p.mux.HandleFunc("GET "+hubPath+"/iothubstats", p.answer(p.stats))
	p.mux.HandleFunc("GET "+hubPath+"/quotametrics", p.answer(p.quotas))
	p.mux.HandleFunc("GET "+hubPath+"/skus", p.answer(p.validTiers))
	p.mux.HandleFunc("GET "+hubPath+"/routingendpointshealth", p.answer(p.endpointHealth))
	p.mux.HandleFunc("GET "+providerPath+"/usages", p.answer(p.usages))
	p.mux.HandleFunc("GET /providers/microsoft.devices/operations", p.answer(listOperations))
}

// stats counts the devices of a hub.
func (p *Provider) stats(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	all, disabled := res.registry.List(0), 0
	for _, i := range all {
		if i.Disabled {
			disabled++
		}
	}
	return 200, map[string]int{
		"totalDeviceCount":    len(all),
		"enabledDeviceCount":  len(all) - disabled,
		"disabledDeviceCount": disabled,
	}, nil
}

// quotas says how much of a hub is used. Messages are counted since its start,
// which on a bench is about as long as a day.
func (p *Provider) quotas(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	type metric struct {
		Name    string `json:"name"`
		Current int    `json:"currentValue"`
		Max     int    `json:"maxValue"`
	}
	size := res.settings.SKU
	t, _ := tierOf(size.Name) // it was checked
	return 200, newList([]metric{
		{"TotalMessages", int(res.events.Stats().Total), t.messages * size.Capacity},
		{"TotalDeviceCount", len(res.registry.List(0)), t.devices},
	}), nil
}

// validTiers lists the tiers that a hub could change to: never from or to the
// free one.
func (p *Provider) validTiers(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	type capacity struct {
		Minimum   int    `json:"minimum"`
		Maximum   int    `json:"maximum"`
		Default   int    `json:"default"`
		ScaleType string `json:"scaleType"`
	}
	type valid struct {
		ResourceType string   `json:"resourceType"`
		SKU          sku      `json:"sku"`
		Capacity     capacity `json:"capacity"`
	}
	free := res.settings.SKU.Name == "F1"
	var found []valid
	for _, t := range tiers {
		scale := "Manual"
		if t.units == 1 {
			scale = "None"
		}
		if free == (t.name == "F1") {
			found = append(found, valid{hubType, sku{t.name, t.class, 1}, capacity{1, t.units, 1, scale}})
		}
	}
	return 200, newList(found), nil
}

// endpointHealth lists the health of endpoints that routes lead to, of which
// there are none: routes are kept but lead nowhere.
func (p *Provider) endpointHealth(r *request) (int, any, error) {
	if _, err := p.find(r); err != nil {
		return 0, nil, err
	}
	return 200, newList[struct{}](nil), nil
}

// How many hubs a subscription may have.
const (
	maxFree = 1
	maxPaid = 50
)

// usages counts the hubs of the subscription.
func (p *Provider) usages(*request) (int, any, error) {
	type name struct {
		Value     string `json:"value"`
		Localized string `json:"localizedValue"`
	}
	type usage struct {
		ID      string `json:"id"`
		Type    string `json:"type"`
		Unit    string `json:"unit"`
		Current int    `json:"currentValue"`
		Limit   int    `json:"limit"`
		Name    name   `json:"name"`
	}
	id := "/subscriptions/" + Subscription + "/providers/Microsoft.Devices/usages/"
	free := usage{id + "F1", hubType, "Count", 0, maxFree, name{"F1", "Free hubs"}}
	paid := usage{id + "Paid", hubType, "Count", 0, maxPaid, name{"Paid", "Paid hubs"}}
	for _, res := range p.all("") {
		if res.settings.SKU.Name == "F1" {
			free.Current++
		} else {
			paid.Current++
		}
	}
	return 200, newList([]usage{free, paid}), nil
}

// listOperations names what an operator could be allowed to do.
func listOperations(*request) (int, any, error) {
	type display struct {
		Provider    string `json:"provider"`
		Resource    string `json:"resource"`
		Operation   string `json:"operation"`
		Description string `json:"description"`
	}
	type operation struct {
		Name    string  `json:"name"`
		Display display `json:"display"`
	}
	var all []operation
	for _, o := range [][3]string{
		{"Read", "Get IotHub", "Reads a hub or lists hubs"},
		{"Write", "Create or update IotHub", "Creates a hub or changes it"},
		{"Delete", "Delete IotHub", "Deletes a hub"},
		{"listkeys/Action", "Get keys", "Reads the policies of a hub with their keys"},
		{"eventHubEndpoints/consumerGroups/Read", "Get consumer group", "Reads consumer groups"},
		{"eventHubEndpoints/consumerGroups/Write", "Add consumer group", "Adds a consumer group"},
		{"eventHubEndpoints/consumerGroups/Delete", "Delete consumer group", "Deletes a consumer group"},
		{"certificates/Read", "Get certificate", "Reads certificates"},
		{"certificates/Write", "Add certificate", "Uploads a certificate"},
		{"certificates/Delete", "Delete certificate", "Deletes a certificate"},
	} {
		all = append(all, operation{hubType + "/" + o[0], display{"Microsoft Devices", "IotHubs", o[1], o[2]}})
	}
	return 200, newList(all), nil
}
