package image

import (
	"compress/gzip"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A kernel that would be unpacked over itself is refused when the card is made, and not
// by a gateway in the field that does not start.
func TestKernelMustFit(t *testing.T) {
	for _, c := range []struct {
		name  string
		needs uint64
		board string
		want  string
	}{
		{"on a Raspberry Pi", 41 << 20, "rpi3", "the kernel needs 42991616 bytes of memory, and U-Boot of rpi3 leaves it 40370176"},
		{"in QEMU", 61 << 20, "qemu_aarch64", "the kernel needs 63963136 bytes of memory, and U-Boot of qemu_aarch64 leaves it 62914560"},
		{"no kernel", 0, "rpi4", "Image.gz is no packed kernel of arm64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := t.TempDir()
			f, err := os.Create(filepath.Join(in, "Image.gz"))
			must(t, err)
			packed := gzip.NewWriter(f)
			_, err = packed.Write(binary.LittleEndian.AppendUint64(make([]byte, 16), c.needs))
			must(t, err)
			must(t, packed.Close())
			must(t, f.Close())
			slot := exec.CommandContext(t.Context(), root+"/board/common/slot.sh", c.board, in, in)
			slot.Env = append(os.Environ(), "VERSION=1.2.3")
			if out, err := slot.CombinedOutput(); err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v\n%s\nwant %s", err, out, c.want)
			}
		})
	}
}

// What boards say of U-Boot's addresses is what U-Boot's source says.
func TestKernelIsReadWhereTheBoardSays(t *testing.T) {
	s := newSource(t, "u-boot", "arm")
	for _, file := range boards(t) {
		board := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "fieldgate_"), "_defconfig")
		own := "board/raspberrypi/rpi/rpi.env"
		if board == "qemu_aarch64" {
			own = "board/emulation/qemu-arm/qemu-arm.env"
		}
		says := addressIn(t, filepath.Join(s.folder, own), "ramdisk_addr_r")
		if got := addressIn(t, filepath.Join(root, "board", board, "board.env"), "FIT"); got != says {
			t.Errorf("%s: the slot's kernel is read to %s, U-Boot says %s", board, got, says)
		}
	}
}

func addressIn(t *testing.T, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	m := regexp.MustCompile(`(?m)^` + name + `=(0x[0-9a-fA-F]+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s says no %s", file, name)
	}
	return string(m[1])
}
