package hubsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// stateFile keeps the hub's keys between starts, so that what was configured
// with them goes on working. Everything else is in memory only.
const stateFile = "state.json"

// InfoFile is the file in which a hub says how it is reached.
const InfoFile = "hub.json"

type state struct {
	Policies map[string]string     `json:"policies"` // name to key
	Devices  map[string]deviceKeys `json:"devices"`
}

type deviceKeys struct {
	Generation string `json:"generation"`
	Primary    string `json:"primary"`
	Secondary  string `json:"secondary"`
}

// readState reads the state of dir; a new dir has an empty one. Policies that
// are missing get keys.
func readState(dir string) (*state, error) {
	s := &state{}
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, s); err != nil {
			return nil, fmt.Errorf("%s: %w", stateFile, err)
		}
	}
	if s.Policies == nil {
		s.Policies = make(map[string]string)
	}
	if s.Devices == nil {
		s.Devices = make(map[string]deviceKeys)
	}
	for name := range registry.PolicyRights {
		if s.Policies[name] == "" {
			s.Policies[name] = registry.NewKey()
		}
	}
	return s, nil
}

func (s *state) policies() []registry.Policy {
	var list []registry.Policy
	for _, name := range slices.Sorted(maps.Keys(registry.PolicyRights)) {
		list = append(list, registry.Policy{Name: name, Key: s.Policies[name], Rights: registry.PolicyRights[name]})
	}
	return list
}

func (s *state) write(dir string) error { return writeJSON(filepath.Join(dir, stateFile), s) }

// writeJSON replaces a file in one step. It holds keys, so it is for its owner.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Info is how a hub is reached; the content of hub.json. What is not served has
// port 0 and empty texts.
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

// DPSInfo is how devices register; it is not served yet.
type DPSInfo struct {
	Host     string `json:"host"`
	IDScope  string `json:"id_scope"`
	Group    string `json:"group"`
	GroupKey string `json:"group_key"`
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
