package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What an image is called: never something that RAUC takes for no version, as it does
// with 0.0.0-X, and later always something newer.
func TestVersion(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a", "GIT_COMMITTER_DATE=2026-11-01T10:00:00Z")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	script, err := os.ReadFile(root + "/board/common/version.sh")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "version.sh"), script, 0o755))
	run("git", "init", "-q")
	run("git", "add", ".")
	for _, step := range []struct{ tag, want string }{
		{"", `0\.0\.1-0\.20261101100000\.g[0-9a-f]+`},
		{"v1.2.3", `1\.2\.3`},
		{"", `1\.2\.4-0\.20261101100000\.g[0-9a-f]+`},
	} {
		run("git", "commit", "-q", "--allow-empty", "-m", "x")
		if step.tag != "" {
			run("git", "tag", step.tag)
		}
		if got := run("./version.sh"); !regexp.MustCompile("^" + step.want + "$").MatchString(got) {
			t.Errorf("the version is %s, want %s", got, step.want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "version.sh"), append(script, '\n'), 0o755))
	if got := run("./version.sh"); !strings.HasSuffix(got, "+dirty") {
		t.Errorf("with changes the version is %s", got)
	}
}
