package hubsim

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// InfoFile is the file in which a hub says how it is reached.
const InfoFile = "hub.json"

// Info is how a hub is reached; the content of hub.json.
type Info struct {
	Host                     string                `json:"host"`
	Bind                     string                `json:"bind"`
	MQTTPort                 int                   `json:"mqtt_port"`
	AMQPPort                 int                   `json:"amqp_port"`
	HTTPSPort                int                   `json:"https_port"`
	CAFile                   string                `json:"ca_file"` // absolute path
	OwnerConnectionString    string                `json:"owner_connection_string"`
	EventHubConnectionString string                `json:"event_hub_connection_string"` // with EntityPath
	Devices                  map[string]DeviceInfo `json:"devices"`                     // by device id
	BlobEndpoint             string                `json:"blob_endpoint"`
	DPS                      DPSInfo               `json:"dps"`
	ARMEndpoint              string                `json:"arm_endpoint"`
}

// DeviceInfo is how one device connects.
type DeviceInfo struct {
	ConnectionString string `json:"connection_string"`
}

// DPSInfo is how devices register.
type DPSInfo struct {
	Host     string `json:"host"`
	IDScope  string `json:"id_scope"`
	Group    string `json:"group"`
	GroupKey string `json:"group_key"`
}

// Info returns how the hub is reached.
func (h *Hub) Info() Info {
	owner, service := h.hub.Registry.Policy("iothubowner"), h.hub.Registry.Policy("service")
	amqpPort := portOf(h.listeners.amqp)
	info := Info{
		Host: h.cfg.Host, Bind: h.cfg.Bind, CAFile: h.certificates.caFile,
		MQTTPort: portOf(h.listeners.mqtt), AMQPPort: amqpPort, HTTPSPort: portOf(h.listeners.https),
		OwnerConnectionString: "HostName=" + h.cfg.Host + ";SharedAccessKeyName=" + owner.Name + ";SharedAccessKey=" + owner.PrimaryKey,
		EventHubConnectionString: "Endpoint=sb://" + net.JoinHostPort(h.cfg.Bind, strconv.Itoa(amqpPort)) +
			"/;SharedAccessKeyName=" + service.Name + ";SharedAccessKey=" + service.PrimaryKey + ";EntityPath=messages/events",
		Devices: make(map[string]DeviceInfo),
	}
	https := "https://" + net.JoinHostPort(h.cfg.Bind, strconv.Itoa(info.HTTPSPort))
	info.ARMEndpoint, info.BlobEndpoint = https, h.blobEndpoint
	group := h.provisioning.Group()
	info.DPS = DPSInfo{Host: h.cfg.Bind, IDScope: h.provisioning.IDScope(), Group: group.ID, GroupKey: group.PrimaryKey}
	for _, i := range h.hub.Registry.List(0) {
		info.Devices[i.ID.Device] = DeviceInfo{h.connectionString(i)}
	}
	return info
}

func (h *Hub) connectionString(i registry.Identity) string {
	return "HostName=" + h.cfg.Host + ";DeviceId=" + i.ID.Device + ";SharedAccessKey=" + i.Auth.PrimaryKey
}

// save writes hub.json and the keys.
func (h *Hub) save() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state.keep(h.hub.Registry.Policies())
	if err := h.state.write(h.cfg.Dir); err != nil {
		return err
	}
	return writeJSON(filepath.Join(h.cfg.Dir, InfoFile), h.Info())
}

// ReadInfo reads the hub.json of dir.
func ReadInfo(dir string) (Info, error) {
	var info Info
	b, err := os.ReadFile(filepath.Join(dir, InfoFile))
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, fmt.Errorf("%s: %w", InfoFile, err)
	}
	return info, nil
}
