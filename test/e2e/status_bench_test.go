package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// What an operator waits for who types "fieldgate status", of a gateway with 1,000
// leaves: the time of the whole process, and its memory.
func BenchmarkStatus(b *testing.B) {
	plan := site.Plan{Bin: bin, Dir: b.TempDir()}
	for i := range 1000 {
		plan.Leaves = append(plan.Leaves, site.Device{ID: fmt.Sprint("pump-", i), Kind: site.MQTT3})
	}
	s, err := site.New(b.Context(), plan)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.StartGateway(b.Context()); err != nil {
		b.Fatal(err)
	}
	var most int64
	for b.Loop() {
		c := exec.Command(filepath.Join(bin, "fieldgate"), "status", "--socket", filepath.Join(s.Dir(), "gateway", "control.sock"))
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		most = max(most, c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	b.ReportMetric(float64(most)/1024, "MiB")
}
