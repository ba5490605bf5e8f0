package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root who looks for what is wrong does not read for the daemon what the daemon may not
// read: whoever has taken that over could have root send it to a proxy of his.
func TestRootReadsAsTheDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to others")
	}
	const daemon = 54321 // nobody has this number
	dir := t.TempDir()
	file, secret, data := filepath.Join(dir, "fieldgate.toml"), filepath.Join(dir, "secret"), filepath.Join(dir, "data")
	text := "[gateway]\nname = \"gate\"\ndata_dir = \"data\"\n[hub]\nproxy = \"http://user@127.0.0.1:1\"\nproxy_password_file = \"secret\"\n"
	for _, err := range []error{
		os.Chmod(filepath.Dir(dir), 0o711), os.Mkdir(data, 0o700), os.WriteFile(file, []byte(text), 0o600), os.WriteFile(secret, []byte("root's"), 0o600),
		os.Chown(data, daemon, daemon), os.Chown(file, daemon, daemon), os.Chown(dir, daemon, daemon),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	denied := func() bool {
		x := examiner{file: file}
		for _, f := range x.checkConfig(t.Context()) {
			if strings.Contains(f.Why, "open "+secret+": permission denied") {
				return true
			}
		}
		return false
	}
	if !denied() {
		t.Error("a secret of root's was read for the daemon")
	}
	if err := os.Chown(secret, daemon, daemon); err != nil {
		t.Fatal(err)
	}
	if denied() {
		t.Error("its own secret was not read")
	}
	if err := os.Chown(file, daemon+1, daemon+1); err != nil {
		t.Fatal(err)
	}
	x := examiner{file: file}
	if all := x.checkConfig(t.Context()); len(all) != 1 || all[0].Result != resultError || !strings.Contains(all[0].Why, "another one") {
		t.Errorf("where it is not clear whose rights count: %+v", all)
	}
}
