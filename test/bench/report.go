package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is what is measured.
type Plan struct {
	Env   Env
	Scale float64        // how much of each load is sent
	Only  *regexp.Regexp // what is measured, nil for all
	Bombs *regexp.Regexp // which bombs are thrown, nil for all
}

// Loads are the loads that all rigs are put through.
var Loads = []Load{
	{Name: "20 x 50, 200 B", Leaves: 20, Window: 50, Size: 200, Count: 200_000},
	{Name: "200 x 4, 200 B", Leaves: 200, Window: 4, Size: 200, Count: 100_000},
	{Name: "2,000/s, 200 B", Leaves: 20, Window: 50, Size: 200, Count: 20_000, Rate: 2000},
	{Name: "20 x 50, 1 KB", Leaves: 20, Window: 50, Size: 1000, Count: 100_000},
}

// scaled returns the load as the plan wants it.
func (p *Plan) scaled(l Load) Load {
	l.Count = max(l.Leaves, int(math.Round(float64(l.Count)*p.Scale)))
	return l
}

func (p *Plan) wants(what string) bool { return p.Only == nil || p.Only.MatchString(what) }

// Run measures and returns the report. Progress goes to log.
func (p *Plan) Run(ctx context.Context, log io.Writer) (string, error) {
	base, err := filepath.Abs(p.Env.Dir) // "" is the present folder
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(base, "bench-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	env := p.Env
	env.Dir = dir
	var b strings.Builder
	b.WriteString(heading(ctx, dir, p.Scale))
	for _, load := range Loads {
		results, err := p.compare(ctx, &env, p.scaled(load), log)
		if err != nil {
			return "", err
		}
		writeComparison(&b, load, results)
	}
	if err := p.special(ctx, &env, &b, log); err != nil {
		return "", err
	}
	return b.String(), nil
}

// rigNames are the names of Rigs.
var rigNames = []string{"fieldgate relay", "fieldgate disk", "mosquitto bridge"}

// compare puts a load through all rigs.
func (p *Plan) compare(ctx context.Context, env *Env, load Load, log io.Writer) (results []Result, err error) {
	for i, rig := range Rigs {
		if !p.wants(rigNames[i] + " " + load.Name) {
			continue
		}
		fmt.Fprintf(log, "%s: %s, %s\n", time.Now().Format(time.TimeOnly), rigNames[i], load.Name)
		r, err := Run(ctx, env, load, rig)
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	return results, nil
}

// writeComparison writes the table of one load, and how the gateways stand to the
// bridge.
func writeComparison(b *strings.Builder, load Load, results []Result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(b, "### %s, %d messages\n\n", load.Name, results[0].Count)
	b.WriteString("| | accepted/s | delivered/s | CPU s/100k | peak RSS | ack p50 / p99 | arrival p50 / p99 | flash B/B | lost | twice | leaves' CPU | far CPU |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.2f | %s | %s / %s | %s / %s | %.2f | %d | %d | %.2f | %.2f |\n",
			r.Rig, r.Accepted, r.Delivered, r.CPU, mebibytes(r.Peak), ms(r.AckP50), ms(r.AckP99), ms(r.ArriveP50), ms(r.ArriveP99),
			r.Written, r.Lost, r.Duplicates, r.LoadCPU, r.FarCPU)
	}
	b.WriteString("\n")
	bridge := results[len(results)-1]
	for _, r := range results[:len(results)-1] {
		fmt.Fprintf(b, "- %s against the bridge: delivered/s %.2f times, CPU per message %.2f times\n",
			r.Rig, r.Delivered/bridge.Delivered, r.CPU/bridge.CPU)
	}
	b.WriteString("\n")
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// heading says what was measured, when and where.
func heading(ctx context.Context, dir string, scale float64) string {
	var name unix.Utsname
	_ = unix.Uname(&name) // cannot fail: the argument is good
	model, _ := field("/proc/cpuinfo", "model name")
	if model == "" {
		model, _ = field("/proc/cpuinfo", "Model")
	}
	mosquitto := "not there"
	if program, err := findMosquitto(); err == nil {
		text, _ := exec.CommandContext(ctx, program, "-h").Output() // its exit code is not 0
		mosquitto, _, _ = strings.Cut(string(text), "\n")
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf(`# What the gateway costs beside a mosquitto bridge

Written by "make bench" on %s, scale %g. All leaves and both gateways use TLS on both sides; a leaf writes each message by itself.
Times of arrival at the hub are whole milliseconds. CPU is user and system of the whole gateway process.

- machine: %s, %d processors, Linux %s, %s
- load average when it began: %s
- fieldgate %s, %s; %s

`, time.Now().UTC().Format("2006-01-02 15:04"), scale, model, runtime.NumCPU(), unix.ByteSliceToString(name.Release[:]),
		fileSystem(dir), strings.Join(strings.Fields(string(load))[:3], " "), revision(ctx), runtime.Version(), mosquitto)
}

// revision is the commit that is measured.
func revision(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// fileSystem names that of a folder, by its magic number (statfs(2)).
func fileSystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return err.Error()
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("file system %#x", s.Type)
}

// handWritten begins the part of the file that people write.
const handWritten = "## What bounds it"

// WriteReport writes the report to a file, and keeps what people wrote there.
func WriteReport(file, report string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if i := strings.Index(string(old), handWritten); i >= 0 {
		report += string(old[i:])
	}
	return os.WriteFile(file, []byte(report), 0o644)
}
