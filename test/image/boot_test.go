package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What an image and the machine that it runs on may cost, at most. Wall time is not
// among it: how long a start takes here says most about what else this machine does.
const (
	maxCard     = 512e6    // bytes of the card as it is laid out
	maxDownload = 100e6    // bytes of it, packed
	maxMemory   = 80 << 20 // bytes that are not available of the memory
	maxDaemon   = 40 << 20 // bytes of the daemon's group, at its worst
)

// One boot of a blank card with the operator's file on it: a leaf's message arrives
// at the hub, and the system is as it should be.
func TestBoot(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	w := newCard(ctx, t, imageFolder(t))
	neighbour := newLAN(ctx, w)
	w.put(ctx, "fieldgate.toml", w.file)
	w.on(ctx)
	figures := w.firstMessage(ctx, started)
	w.awaitConfirmed(ctx)
	w.await(ctx, "the system to be up", func() bool {
		state, _ := w.shell(ctx, "systemctl is-system-running")
		return state == "running" || state == "degraded"
	})
	w.expect(ctx, "systemctl list-units --failed --plain --no-legend", "")
	w.checkDisk(ctx)
	w.checkDoors(ctx)
	neighbour.find(ctx, w.checkName(ctx))
	w.checkErrors(ctx)
	w.expect(ctx, "fw_printenv -n BOOT_A_LEFT", "3")
	w.expect(ctx, "stat -c %u:%a /var/lib/fieldgate /var/lib/fieldgate/machine.key", "900:700\n900:600")
	w.await(ctx, "the card to say that all is well", func() bool {
		return strings.HasPrefix(w.status(ctx), "STATE    connected to hub.example\nNEXT     nothing: all is well\n")
	})
	// Its room is overwritten once, by a process that is then gone: what is measured is how it is for years.
	w.await(ctx, "earlier versions on the card to be overwritten", func() bool {
		status := w.status(ctx)
		return strings.HasPrefix(status, "STATE ") && !strings.Contains(status, "\nCARD ")
	})
	w.figures(ctx, &figures)
	t.Log(figures.String())

	if err := w.switchOff(ctx); err != nil {
		t.Errorf("the machine does not switch itself off: %v", err)
	}
	w.noSecret()
}

// With 128 MiB of memory it works as well.
func TestSmall(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newCard(ctx, t, imageFolder(t))
	w.memory = 128
	w.put(ctx, "fieldgate.toml", w.file)
	started := time.Now()
	w.on(ctx)
	figures := w.firstMessage(ctx, started)
	w.await(ctx, "the system to be up", func() bool {
		state, _ := w.shell(ctx, "systemctl is-system-running")
		return state == "running" || state == "degraded"
	})
	w.expect(ctx, "systemctl list-units --failed --plain --no-legend", "")
	w.awaitConfirmed(ctx)
	for round := range 100 {
		body := fmt.Sprintf(`{"n":%d}`, round)
		w.await(ctx, body+" to be acknowledged", func() bool { return w.publish(body) == nil })
		w.await(ctx, body+" at the hub", func() bool { return w.arrived(body) })
	}
	w.expect(ctx, "journalctl -k | grep -c 'Out of memory'; true", "0")
	w.expect(ctx, "systemctl show --value -p NRestarts fieldgate", "0")
	w.figures(ctx, &figures)
	t.Log(figures.String())
}

// Whoever has only the card reads there what is wrong and what to do, mends it, and
// puts the card back; at last it works, and a reset takes all of it away again.
func TestStatusOnTheCard(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	w := newCard(ctx, t, imageFolder(t))
	for _, c := range []struct {
		name, file, want string
		then             func()
	}{
		{"nothing yet", "", "STATE    waits for its configuration\nNEXT     write fieldgate.toml on this card", nil},
		{
			"malformed", strings.Replace(w.file, "DeviceId=gate;", "DeviceId=gate;\" ", 1),
			"STATE    fieldgate.toml was not applied\nWRONG    fieldgate.toml:2:", nil,
		},
		{
			"wrong key", strings.Replace(w.file, w.deviceKey("gate"), "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3I=", 1),
			"NEXT     the hub refuses the gateway: write the connection string of an enabled device", nil,
		},
		{
			"wrong hub", strings.Replace(strings.Replace(w.file, "HostName=hub.example", "HostName=hub.invalid", 1), "address = \"10.", "# address = \"10.", 1),
			"NEXT     the name of the hub is wrong, or the network resolves no names", nil,
		},
		{"right", w.file, "STATE    connected to hub.example\nNEXT     nothing: all is well", func() {
			w.await(ctx, "the leaf to be acknowledged", func() bool { return w.publish("1") == nil })
			w.await(ctx, "the message at the hub", func() bool { return w.arrived("1") })
		}},
		{"reset", "RESET", "STATE    waits for its configuration\n", func() {
			w.await(ctx, "the card to be mended", func() bool {
				return exec.CommandContext(ctx, "mtype", "-i", w.card+"@@1M", "::RESET").Run() != nil
			})
			w.await(ctx, "earlier versions on the card to be overwritten", func() bool {
				status := w.status(ctx)
				return strings.HasPrefix(status, "STATE ") && !strings.Contains(status, "\nCARD ")
			})
		}},
	} {
		switch c.file {
		case "":
		case "RESET":
			w.run(ctx, "mdel", "-i", w.card+"@@1M", "::fieldgate.toml")
			w.put(ctx, "RESET", "")
		default:
			w.put(ctx, "fieldgate.toml", c.file)
		}
		w.on(ctx)
		w.await(ctx, c.name+": the card to say "+c.want, func() bool { return strings.Contains(w.status(ctx), c.want) })
		t.Logf("%s:\n%s", c.name, w.status(ctx))
		if c.then != nil {
			c.then()
		}
		w.off()
	}
	w.noSecret()
}

func nightly(t *testing.T) {
	t.Helper()
	if os.Getenv("FIELDGATE_NIGHTLY") == "" {
		t.Skip("part of make nightly")
	}
}

// firstMessage returns when a leaf's message is at the hub.
func (w *twin) firstMessage(ctx context.Context, started time.Time) figures {
	w.t.Helper()
	const body = `{"temperature": 21.5}`
	w.await(ctx, "the leaf to be acknowledged", func() bool { return w.publish(body) == nil })
	f := figures{wall: time.Since(started), emulator: w.spent()}
	w.await(ctx, "the message at the hub", func() bool { return w.arrived(body) })
	return f
}

// checkDisk looks at what is mounted how, and whether the journal is in memory.
func (w *twin) checkDisk(ctx context.Context) {
	w.t.Helper()
	w.expect(ctx, "findmnt -no FSTYPE / && touch /usr/x 2>/dev/null || echo read-only", "squashfs\nread-only")
	w.expect(ctx, "findmnt -no FSTYPE /data && findmnt -no OPTIONS /data | grep -o noatime", "ext4\nnoatime")
	w.expect(ctx, "findmnt -no FSTYPE /boot && findmnt -no OPTIONS /boot | grep -oE '^ro|noatime' | tr '\\n' ' '", "vfat\nro noatime")
	w.expect(ctx, "test $(findmnt -bno SIZE /data) -gt 600000000 && echo grown", "grown")
	w.expect(ctx, "swapon --noheadings --show=NAME", "/dev/zram0")
	w.expect(ctx, "ls /run/log/journal | wc -l; ls /var/log/journal 2>/dev/null | wc -l", "1\n0")
	mounts, err := w.shell(ctx, "cat /proc/mounts")
	if err != nil || !strings.Contains(mounts, " /data ") {
		w.t.Fatalf("mounts: %v\n%s", err, mounts)
	}
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		options := "," + fields[3] + ","
		if strings.Contains(options, ",rw,") && !strings.Contains(options, ",noexec,") {
			w.t.Errorf("what is written there can be executed: %s", line)
		}
	}
	w.expect(ctx, "printf '#!/bin/sh\\necho executed' >/run/x; chmod +x /run/x; /run/x 2>/dev/null; rm /run/x; grep -lE '^[^ ]+ .wx' /proc/[0-9]*/maps | wc -l", "0")
}

// checkErrors looks whether an error in the journal outlives the power.
func (w *twin) checkErrors(ctx context.Context) {
	w.t.Helper()
	w.expect(ctx, "echo an error to be kept | systemd-cat -p err && echo a word to be forgotten | systemd-cat -p info && journalctl --sync && "+
		"systemctl restart fieldgate-errors.service && grep -c 'to be' /data/lib/fieldgate-errors/errors", "1")
}

// figures is what a start has cost.
type figures struct {
	wall     time.Duration
	emulator time.Duration // processor time of the emulator, until the leaf was acknowledged
	rows     [][2]string
}

// figures asks the machine for the rest, and looks whether it is in its bounds.
func (w *twin) figures(ctx context.Context, f *figures) {
	w.t.Helper()
	numbers := func(command string) []float64 {
		w.t.Helper()
		out, err := w.shell(ctx, command)
		var all []float64
		for field := range strings.FieldsSeq(out) {
			n, wrong := strconv.ParseFloat(field, 64)
			if err != nil || wrong != nil {
				w.t.Fatalf("%s: %q, %v", command, out, err)
			}
			all = append(all, n)
		}
		return all
	}
	memory := numbers("grep -E 'MemTotal|MemAvailable' /proc/meminfo | grep -oE '[0-9]+'") // in KiB
	daemon := numbers("systemctl show --value -p MemoryCurrent -p CPUUsageNSec fieldgate; cat /sys/fs/cgroup/system.slice/fieldgate.service/memory.peak")
	busy := numbers("head -n 1 /proc/stat | cut -c 5- | cut -d' ' -f 2-4; cut -d' ' -f1 /proc/uptime") // user, nice and system in hundredths
	card := filepath.Join(w.image, "qemu_aarch64.img")
	info, err := os.Stat(card)
	must(w.t, err)
	packed := new(counter)
	xz := exec.CommandContext(ctx, "xz", "-0", "-T2", "-c", card)
	xz.Stdout = packed
	must(w.t, xz.Run())
	total, used := memory[0]*1024, (memory[0]-memory[1])*1024
	mib := func(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }
	f.rows = [][2]string{
		{"this machine", thisMachine()},
		{"the other", fmt.Sprintf("QEMU virt, 2 emulated Cortex-A53, %d MiB", w.memory)},
		{"power-on to the first leaf's acknowledgement", f.wall.Round(time.Second).String()},
		{"the emulator's processor time for that", f.emulator.Round(time.Second).String()},
		{"processor time in the machine, up to now", fmt.Sprintf("%.1f s in %.0f s", (busy[0]+busy[1]+busy[2])/100, busy[3])},
		{"the daemon's", fmt.Sprintf("%.1f s", daemon[1]/1e9)},
		{"memory in use, of what Linux has", fmt.Sprintf("%s of %s (at most %s)", mib(used), mib(total), mib(maxMemory))},
		{"the daemon's, and at its worst", fmt.Sprintf("%s, %s (at most %s)", mib(daemon[0]), mib(daemon[2]), mib(maxDaemon))},
		{"the card, laid out", fmt.Sprintf("%.0f MB (at most %.0f)", float64(info.Size())/1e6, maxCard/1e6)},
		{"the card, packed by xz -0", fmt.Sprintf("%.1f MB (at most %.0f)", float64(*packed)/1e6, maxDownload/1e6)},
	}
	for _, over := range []struct {
		what      string
		have, may float64
	}{
		{"memory in use", used, maxMemory},
		{"the daemon's memory", daemon[2], maxDaemon},
		{"the card", float64(info.Size()), maxCard},
		{"the packed card", float64(*packed), maxDownload},
	} {
		if over.have > over.may {
			w.t.Errorf("%s: %.0f bytes, at most %.0f", over.what, over.have, over.may)
		}
	}
}

func (f *figures) String() string {
	var out strings.Builder
	for _, row := range f.rows {
		fmt.Fprintf(&out, "\n%-46s %s", row[0], row[1])
	}
	return out.String()
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// processTime is what a process has had of processors: the fields utime and stime of
// proc_pid_stat(5), in hundredths of a second.
func processTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if err != nil || len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// thisMachine names the machine that the figures are of.
func thisMachine() string {
	name := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
			break
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%d processors, %s, load %s", runtime.NumCPU(), name, before)
}
