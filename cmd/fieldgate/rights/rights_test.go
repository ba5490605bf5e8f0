package rights

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whose rights root lends follows from whose the files are; never root's group, which a
// folder keeps of which only the owner was changed.
func TestLend(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to others")
	}
	const stranger, other = 54321, 54322 // nobody has these numbers
	for _, c := range []struct {
		name                string
		uid, gid, configUID int
		want                User
		says                string
	}{
		{"all is root's", 0, 0, 0, User{}, ""},
		{"the daemon's data, root's configuration", stranger, stranger, 0, User{stranger, stranger}, ""},
		{"all is the daemon's", stranger, stranger, stranger, User{stranger, stranger}, ""},
		{"the daemon's data in root's group", stranger, 0, 0, User{}, "root's group"},
		{"another one's configuration", stranger, stranger, other, User{}, "another one"},
	} {
		dir := t.TempDir()
		data, config := filepath.Join(dir, "data"), filepath.Join(dir, "fieldgate.toml")
		for _, err := range []error{
			os.Mkdir(data, 0o700), os.WriteFile(config, nil, 0o600), os.Chown(data, c.uid, c.gid), os.Chown(config, c.configUID, c.configUID),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		who, err := Lend(config, data)
		if who != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", c.name, who, err)
		}
	}
}
