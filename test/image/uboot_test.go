package image

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// From power-on to the kernel nothing that comes in on the serial line does anything,
// neither a key nor Control-C, and each start is counted: three of the first slot, then
// three of the other, in which there is nothing, and so all anew. No system is waited
// for: the plug is pulled as soon as the kernel has the machine.
func TestNoKeyStopsIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	newCard(ctx, t, imageFolder(t)).countStarts(ctx)
}

// The same with the U-Boot of the Raspberry Pi 3 and a card as it wants one. Its firmware
// is not seen.
func TestRaspberryPi(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	newCardOf(ctx, t, "rpi3", imageFolder(t)).countStarts(ctx)
}

// A card of the Raspberry Pi 3 comes up on one, as far as the emulator is one, and does
// what a gateway is for. Only its firmware is not seen, and Debian's kernel stands for
// the product's.
func TestRaspberryPiDelivers(t *testing.T) {
	nightly(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	w := newCardOf(ctx, t, "rpi3", imageFolder(t))
	w.put(ctx, "fieldgate.toml", w.file)
	started := time.Now()
	w.on(ctx)
	// As on the board there is no clock that goes on without power, and here no time server.
	w.await(ctx, "the clock to be set by hand", func() bool {
		_, err := w.shell(ctx, fmt.Sprintf("date -s @%d", time.Now().Unix()))
		return err == nil
	})
	figures := w.firstMessage(ctx, started)
	t.Logf("the first message after %v, %v of the emulator's", figures.wall, figures.emulator)
	w.await(ctx, "the card to say that all is well", func() bool {
		return strings.HasPrefix(w.status(ctx), "STATE    connected to hub.example\nNEXT     nothing: all is well\n")
	})
	w.expect(ctx, "tr '\\0' '\\n' </proc/device-tree/model", "Raspberry Pi 3 Model B")
	w.expect(ctx, "systemctl list-units --failed --plain --no-legend", "")
	w.awaitConfirmed(ctx)
}

func (w *twin) countStarts(ctx context.Context) {
	w.t.Helper()
	w.typed = keys("\x03 \x03\r\x03s\x1b")
	for n := range 4 {
		w.on(ctx)
		w.await(ctx, "the kernel to be started", func() bool { return strings.Count(w.said(), "Starting kernel") > n })
		w.off()
	}
	var states []string
	for _, m := range regexp.MustCompile(`boot state: copy \w+, (order .*)\r`).FindAllStringSubmatch(w.said(), -1) {
		states = append(states, m[1])
	}
	want := []string{
		"order A B, A 3, B 3", "order A B, A 2, B 3", "order A B, A 1, B 3",
		"order A B, A 0, B 3", "order A B, A 0, B 2", "order A B, A 0, B 1", "order A B, A 0, B 0",
	}
	if !slices.Equal(states, want) {
		w.t.Errorf("the starts were counted\n%s\nwant\n%s", strings.Join(states, "\n"), strings.Join(want, "\n"))
	}
	if n := strings.Count(w.said(), "no slot has a start left"); n != 1 {
		w.t.Errorf("all was begun anew %d times, want 1", n)
	}
}

// said is what the machine has said on its serial line, in all its starts.
func (w *twin) said() string {
	text, err := os.ReadFile(w.console.Name())
	must(w.t, err)
	return string(text)
}

// keys is somebody who types these for ever, some hundred keys a second.
type keys string

func (k keys) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return copy(p, k), nil
}
