package bluez

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Adapter is one radio as the daemon shows it.
type Adapter struct {
	Path        dbus.ObjectPath
	Address     string
	Powered     bool
	Discovering bool
	Monitors    bool // advertisement monitors are offered: passive scanning is possible
}

// Name is what the kernel calls the adapter, "hci0".
func (a *Adapter) Name() string { return string(a.Path[strings.LastIndexByte(string(a.Path), '/')+1:]) }

// Device is a peripheral as the daemon shows it.
type Device struct {
	Path      dbus.ObjectPath
	Address   string // of a bonded one its identity address
	Random    bool   // the address is a random one
	Name      string
	RSSI      int // dBm, 0 if not known
	Connected bool
	Resolved  bool // its services are known
	Paired    bool
	Bonded    bool // its keys are kept
	Seen      time.Time
}

// Characteristic is a value of a connected device.
type Characteristic struct {
	Path    dbus.ObjectPath
	Service string // UUID, in full, lower case
	UUID    string
	Flags   []string
}

// Sighting is one advertisement, as far as the daemon shows it: what is in it that
// has changed or was repeated.
type Sighting struct {
	Adapter dbus.ObjectPath
	Device  Device
	// Manufacturer is data by company, Service by UUID; nil when it was not in it.
	// Belong to the receiver.
	Manufacturer map[uint16][]byte
	Service      map[string][]byte
}

// apply brings one signal into the mirror.
func (c *Client) apply(s *dbus.Signal) {
	switch s.Name {
	case managerIface + ".InterfacesAdded":
		path, ifaces, ok := pair[dbus.ObjectPath, map[string]map[string]dbus.Variant](s.Body)
		if ok {
			c.added(path, ifaces)
		}
	case managerIface + ".InterfacesRemoved":
		path, ifaces, ok := pair[dbus.ObjectPath, []string](s.Body)
		if ok {
			c.removed(path, ifaces)
		}
	case propertiesIface + ".PropertiesChanged":
		iface, values, ok := pair[string, map[string]dbus.Variant](s.Body)
		if ok {
			var gone []string
			if len(s.Body) > 2 {
				gone, _ = s.Body[2].([]string)
			}
			c.changed(s, iface, values, gone)
		}
	}
}

// pair reads the first two values of a signal.
func pair[A, B any](body []any) (a A, b B, ok bool) {
	if len(body) < 2 {
		return a, b, false
	}
	a, okA := body[0].(A)
	b, okB := body[1].(B)
	return a, b, okA && okB
}

func (c *Client) added(path dbus.ObjectPath, ifaces map[string]map[string]dbus.Variant) {
	c.mu.Lock()
	o := c.objects[path]
	if o == nil {
		o = make(object)
		c.objects[path] = o
	}
	for name, values := range ifaces {
		o[name] = values
	}
	c.broadcastLocked()
	c.mu.Unlock()
	if values, ok := ifaces[deviceIface]; ok {
		c.sight(path, values)
	}
}

func (c *Client) removed(path dbus.ObjectPath, ifaces []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range ifaces {
		delete(c.objects[path], name)
	}
	if len(c.objects[path]) == 0 {
		delete(c.objects, path)
		delete(c.seen, path)
		delete(c.words, path)
	}
	c.broadcastLocked()
}

func (c *Client) changed(s *dbus.Signal, iface string, values map[string]dbus.Variant, gone []string) {
	path := s.Path
	c.mu.Lock()
	props := c.objects[path][iface]
	if props == nil {
		c.mu.Unlock()
		return // of something that we do not know (yet): it comes as a whole
	}
	quiet := true
	for name, v := range values {
		if name == "Connected" && iface == deviceIface && !c.wordLocked(path, s.Sequence) {
			continue
		}
		props[name] = v
		quiet = quiet && advertised[name]
	}
	for _, name := range gone {
		delete(props, name)
	}
	if !quiet || len(gone) > 0 && iface != deviceIface {
		c.broadcastLocked()
	}
	var value func([]byte)
	if _, is := values["Value"]; is && iface == charIface {
		value = c.values[path]
	}
	c.mu.Unlock()
	if b, ok := values["Value"].Value().([]byte); ok && value != nil {
		value(slices.Clone(b))
	}
	if iface == deviceIface {
		c.sight(path, values)
	}
}

// advertised are the properties that change all the time, and that nobody waits for.
var advertised = map[string]bool{
	"RSSI": true, "TxPower": true, "ManufacturerData": true, "ServiceData": true, "AdvertisingData": true, "Value": true,
}

// sight passes on what a device has advertised.
func (c *Client) sight(path dbus.ObjectPath, values map[string]dbus.Variant) {
	_, rssi := values["RSSI"]
	s := Sighting{}
	if m, ok := values["ManufacturerData"].Value().(map[uint16]dbus.Variant); ok {
		s.Manufacturer = make(map[uint16][]byte, len(m))
		for company, v := range m {
			if b, ok := v.Value().([]byte); ok {
				s.Manufacturer[company] = b
			}
		}
	}
	if m, ok := values["ServiceData"].Value().(map[string]dbus.Variant); ok {
		s.Service = make(map[string][]byte, len(m))
		for uuid, v := range m {
			if b, ok := v.Value().([]byte); ok {
				s.Service[strings.ToLower(uuid)] = b
			}
		}
	}
	if !rssi && s.Manufacturer == nil && s.Service == nil {
		return
	}
	c.mu.Lock()
	c.seen[path] = time.Now()
	s.Device = c.deviceLocked(path)
	s.Adapter = text[dbus.ObjectPath](c.objects[path][deviceIface], "Adapter")
	c.mu.Unlock()
	c.heard(s)
}

// text reads a property; the zero value if it is not there or of another type.
func text[T any](p properties, name string) (value T) {
	value, _ = p[name].Value().(T)
	return value
}

func (c *Client) broadcastLocked() {
	close(c.news)
	c.news = make(chan struct{})
}

// Adapter finds an adapter by its name or address, case aside; "" is the first. The
// daemon hands out names in the order of plugging.
func (c *Client) Adapter(name string) (a Adapter, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	paths := slices.SortedFunc(maps.Keys(c.objects), byNumber)
	for _, path := range paths {
		o := c.objects[path]
		if o[adapterIface] == nil {
			continue
		}
		a := c.adapterLocked(path)
		if name == "" || strings.EqualFold(name, a.Address) || strings.EqualFold(name, a.Name()) {
			return a, true
		}
	}
	return a, false
}

// byNumber puts hci2 before hci10.
func byNumber(a, b dbus.ObjectPath) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}

// AdapterAt returns the adapter at a path, as it is now.
func (c *Client) AdapterAt(path dbus.ObjectPath) (a Adapter, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adapterLocked(path), c.objects[path][adapterIface] != nil
}

func (c *Client) adapterLocked(path dbus.ObjectPath) Adapter {
	o := c.objects[path]
	p := o[adapterIface]
	_, monitors := o[monitorManagerIface]
	return Adapter{
		Path: path, Address: text[string](p, "Address"), Powered: text[bool](p, "Powered"),
		Discovering: text[bool](p, "Discovering"), Monitors: monitors,
	}
}

// Device finds a device of an adapter by its address, case aside.
func (c *Client) Device(adapter dbus.ObjectPath, address string) (d Device, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, o := range c.objects {
		p := o[deviceIface]
		if p != nil && strings.EqualFold(text[string](p, "Address"), address) && text[dbus.ObjectPath](p, "Adapter") == adapter {
			return c.deviceLocked(path), true
		}
	}
	return d, false
}

// DeviceAt returns the device at a path, as it is now.
func (c *Client) DeviceAt(path dbus.ObjectPath) (d Device, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deviceLocked(path), c.objects[path][deviceIface] != nil
}

// Devices lists the devices of an adapter that were heard since then, in no order.
func (c *Client) Devices(adapter dbus.ObjectPath, since time.Time) (all []Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, o := range c.objects {
		if p := o[deviceIface]; p != nil && text[dbus.ObjectPath](p, "Adapter") == adapter && !c.seen[path].Before(since) {
			all = append(all, c.deviceLocked(path))
		}
	}
	return all
}

func (c *Client) deviceLocked(path dbus.ObjectPath) Device {
	p := c.objects[path][deviceIface]
	return Device{
		Path: path, Address: strings.ToUpper(text[string](p, "Address")), Random: text[string](p, "AddressType") == "random",
		Name: text[string](p, "Name"), RSSI: strength(text[int16](p, "RSSI")),
		Connected: text[bool](p, "Connected"), Resolved: text[bool](p, "ServicesResolved"),
		Paired: text[bool](p, "Paired"), Bonded: text[bool](p, "Bonded"), Seen: c.seen[path],
	}
}

// strength is 0 for what a controller says that does not know it (Core Specification,
// volume 4, part E, section 7.7.65.2).
func strength(rssi int16) int {
	const unknown = 127
	if rssi == unknown {
		return 0
	}
	return int(rssi)
}

// Characteristics lists what a connected device has, in the order of its handles.
func (c *Client) Characteristics(device dbus.ObjectPath) (all []Characteristic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	prefix := string(device) + "/"
	for path, o := range c.objects {
		p := o[charIface]
		if p == nil || !strings.HasPrefix(string(path), prefix) {
			continue
		}
		home := c.objects[text[dbus.ObjectPath](p, "Service")][serviceIface]
		all = append(all, Characteristic{
			Path: path, UUID: strings.ToLower(text[string](p, "UUID")), Service: strings.ToLower(text[string](home, "UUID")),
			Flags: text[[]string](p, "Flags"),
		})
	}
	// Paths end in the handle, as four hexadecimal digits.
	slices.SortFunc(all, func(a, b Characteristic) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return all
}

// Await waits until met is true, looking at each change of what the daemon shows and
// once a second. The error is that of ctx, or why the client is lost.
func (c *Client) Await(ctx context.Context, met func() bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.mu.Lock()
		news := c.news
		c.mu.Unlock()
		if met() {
			return nil
		}
		select {
		case <-news:
		case <-tick.C:
		case <-c.over:
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// UUID16 is a short UUID of the Bluetooth SIG in full (Core Specification, volume 3,
// part B, section 2.5.1).
func UUID16(n uint16) string {
	s := strconv.FormatUint(uint64(n), 16)
	return "0000" + strings.Repeat("0", 4-len(s)) + s + "-0000-1000-8000-00805f9b34fb"
}
