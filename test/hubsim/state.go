package hubsim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fieldgate/fieldgate/test/hubsim/provisioning"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// stateFile keeps the hub's keys between starts, so that what was configured
// with them goes on working. Everything else is in memory only.
const stateFile = "state.json"

type state struct {
	Policies map[string]policyKeys `json:"policies"` // by name
	Devices  map[string]deviceKeys `json:"devices"`  // by id
	IDScope  string                `json:"id_scope"` // of provisioning
	GroupKey string                `json:"group_key"`
	BlobKey  string                `json:"blob_key"` // of the built-in blob server
}

type policyKeys struct {
	Primary   string          `json:"primary"`
	Secondary string          `json:"secondary"`
	Rights    registry.Rights `json:"rights"`
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
		s.Policies = make(map[string]policyKeys)
	}
	if s.Devices == nil {
		s.Devices = make(map[string]deviceKeys)
	}
	if len(s.Policies) == 0 {
		for name, rights := range registry.PolicyRights {
			s.Policies[name] = policyKeys{registry.NewKey(), registry.NewKey(), rights}
		}
	}
	s.IDScope = cmp.Or(s.IDScope, provisioning.NewIDScope())
	s.GroupKey = cmp.Or(s.GroupKey, registry.NewKey())
	s.BlobKey = cmp.Or(s.BlobKey, registry.NewKey())
	return s, nil
}

func (s *state) policies() []registry.Policy {
	var list []registry.Policy
	for name, keys := range s.Policies {
		list = append(list, registry.Policy{
			Name: name, PrimaryKey: keys.Primary, SecondaryKey: keys.Secondary, Rights: keys.Rights,
		})
	}
	return list
}

// keep notes the policies as they are now.
func (s *state) keep(policies []registry.Policy) {
	clear(s.Policies)
	for _, p := range policies {
		s.Policies[p.Name] = policyKeys{p.PrimaryKey, p.SecondaryKey, p.Rights}
	}
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
