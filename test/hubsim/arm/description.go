package arm

import "encoding/json"

// description is a hub as its operator reads and writes it, in JSON.
type description struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Type           string            `json:"type"`
	Location       string            `json:"location"`
	Tags           map[string]string `json:"tags"`
	ETag           string            `json:"etag"`
	SubscriptionID string            `json:"subscriptionid"`
	ResourceGroup  string            `json:"resourcegroup"`
	SKU            sku               `json:"sku"`
	Identity       json.RawMessage   `json:"identity,omitempty"`
	Properties     properties        `json:"properties"`
}

type sku struct {
	Name     string `json:"name"`
	Tier     string `json:"tier"`
	Capacity int    `json:"capacity"`
}

// properties of a hub. The fields up to Policies are the provider's to fill in,
// and raw ones are kept without being understood.
type properties struct {
	HostName          string     `json:"hostName"`
	State             string     `json:"state"`
	ProvisioningState string     `json:"provisioningState"`
	Locations         []location `json:"locations"`
	Policies          []policy   `json:"authorizationPolicies"`

	EventHubEndpoints struct {
		Events eventHub `json:"events"`
	} `json:"eventHubEndpoints"`
	CloudToDevice      cloudToDevice `json:"cloudToDevice"`
	MessagingEndpoints struct {
		FileNotifications queue `json:"fileNotifications"`
	} `json:"messagingEndpoints"`
	StorageEndpoints struct {
		Default *storage `json:"$default,omitempty"`
	} `json:"storageEndpoints"`
	FileUploadNotifications bool            `json:"enableFileUploadNotifications"`
	Routing                 json.RawMessage `json:"routing,omitempty"`
	Features                string          `json:"features"`
	MinTLSVersion           string          `json:"minTlsVersion,omitempty"`
	DisableLocalAuth        bool            `json:"disableLocalAuth"`
	DisableDeviceSAS        bool            `json:"disableDeviceSAS"`
	DisableModuleSAS        bool            `json:"disableModuleSAS"`
	PublicNetworkAccess     string          `json:"publicNetworkAccess,omitempty"`
	RestrictOutbound        json.RawMessage `json:"restrictOutboundNetworkAccess,omitempty"`
	AllowedFQDNs            json.RawMessage `json:"allowedFqdnList,omitempty"`
	IPFilterRules           json.RawMessage `json:"ipFilterRules,omitempty"`
	NetworkRuleSets         json.RawMessage `json:"networkRuleSets,omitempty"`
	DataResidency           json.RawMessage `json:"enableDataResidency,omitempty"`
	Comments                string          `json:"comments,omitempty"`
}

type location struct {
	Location string `json:"location"`
	Role     string `json:"role"` // primary or secondary
}

// policy is a policy of the registry. Keys are "" where they are not shown.
type policy struct {
	Name         string `json:"keyName"`
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
	Rights       rights `json:"rights"`
}

type eventHub struct {
	Retention    int      `json:"retentionTimeInDays"`
	Partitions   int      `json:"partitionCount"`
	PartitionIDs []string `json:"partitionIds"`
	Path         string   `json:"path"`
	Endpoint     string   `json:"endpoint"`
}

type cloudToDevice struct {
	MaxDelivery int      `json:"maxDeliveryCount"`
	TTL         Duration `json:"defaultTtlAsIso8601"`
	Feedback    queue    `json:"feedback"`
}

type queue struct {
	Lock        Duration `json:"lockDurationAsIso8601"`
	TTL         Duration `json:"ttlAsIso8601"`
	MaxDelivery int      `json:"maxDeliveryCount"`
}

type storage struct {
	SASTTL           Duration        `json:"sasTtlAsIso8601"`
	ConnectionString string          `json:"connectionString"`
	Container        string          `json:"containerName"`
	Authentication   string          `json:"authenticationType,omitempty"`
	Identity         json.RawMessage `json:"identity,omitempty"`
}

// clone returns a copy that shares nothing with d.
func (d *description) clone() description {
	b, err := json.Marshal(d)
	if err != nil {
		panic("arm: " + err.Error()) // what is raw in it was JSON before
	}
	var c description
	if err := json.Unmarshal(b, &c); err != nil {
		panic("arm: " + err.Error()) // just written
	}
	return c
}
