package mqttsn_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
)

// FuzzSession plays a script against a whole link: arbitrary frames, from two
// addresses, between events of the gateway and the passing of time. Nothing may
// panic, hang, or be left running; each message that goes out can be read; nothing
// is acknowledged that was refused; each command has at most one word.
func FuzzSession(f *testing.F) {
	script := func(messages ...string) (b []byte) {
		for _, m := range messages {
			content := bytesOf(f, m)
			b = append(append(b, 0, byte(len(content))), content...)
		}
		return b
	}
	f.Add(script("__ 04 0C 01 003C 'n1'", "__ 07 30 'leaf/n1/alarm'", "__ 09 'gone'", "__ 0C 21 0001 0001 'x'"))
	f.Add(append(script("__ 04 00 01 003C 'n1'", "__ 12 20 0001 'leaf/n1/#'"), 4, 0, 1, 3, 6, 0, 1, 200))
	f.Add(append(script("__ 04 04 01 003C 'n1'", "__ 12 21 0001 0002", "04 18 0010"), 4, 0, 0, 4, 4, 0x16, 'n', '1', 1, 40))
	f.Add(script("04 FE 00 01 08 04 04 01 003C 'n2'", "04 FE 00 01 04 10 0001", "__ 0A 0000 0001 'leaf/n1/twin/get'", "__ 1C 'x'", "__ 1A 10 'leaf/n1/alarm'"))
	f.Add(append(script("__ 04 04 01 003C 'n1'", "__ 12 41 0001 0002"), 4, 0, 0, 4, 4, 0x0F, 0, 1, 1, 3, 0, 4, 4, 0x0E, 0, 1))
	f.Add(append(append([]byte{3, 1}, script("__ 04 04 01 0000 'n1'", "__ 0C 41 0001 0001 'x'", "04 10 0001")...), 2, 0, 3, 0, 5, 0))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4096 {
			return
		}
		synctest.Test(t, func(t *testing.T) { play(t, script) })
	})
}

func play(t *testing.T, script []byte) {
	b := newBench(t, nil, "n1", "n2")
	b.set(func(c *custody) { c.document = `{"desired":{}}` })
	refusing := false // from the first step on, so that nothing can be accepted
	watch := func(frame []byte) {
		if len(frame) > 4 && frame[1] == 0xFE {
			frame = frame[int(frame[0]):]
		}
		m, err := mqttsn.Parse(frame)
		if err != nil {
			t.Errorf("%X goes out: %v", frame, err)
			return
		}
		b.custody.mu.Lock()
		defer b.custody.mu.Unlock()
		if refusing && len(b.got) == 0 && m.Type == mqttsn.PubRec {
			t.Error("PUBREC for what was refused")
		}
	}
	b.line.tap(watch)
	var heard []<-chan gateway.Verdict
	next := func(n int) []byte {
		n = min(n, len(script))
		part := script[:n]
		script = script[n:]
		return part
	}
	for step := 0; len(script) > 1; step++ {
		op := next(2)
		n := int(op[1])
		switch op[0] % 7 {
		case 0: // a frame
			if content := next(n); len(content) > 0 {
				if _, err := b.line.end.Write(hdlc.Append(nil, content, true)); err != nil {
					t.Fatal(err)
				}
			}
		case 1:
			time.Sleep(time.Duration(n) * time.Second)
		case 2:
			b.release()
		case 3: // custody refuses, or waits, or takes
			b.set(func(c *custody) {
				c.held = n%3 == 1
				c.fate = nil
				if n%3 == 2 {
					refusing = step == 0
					c.fate = func(*gateway.Message) error { return gateway.ErrStoreFull }
				} else {
					refusing = false
				}
			})
		case 4:
			heard = append(heard, b.command([]string{"n1", "n2"}[n%2], "open", uint64(len(heard)+1), "x"))
		case 5: // raw bytes
			if _, err := b.line.end.Write(next(n)); err != nil {
				t.Fatal(err)
			}
		case 6:
			b.down.Desired("n1", []byte(`{"a":1}`), int64(step), func() {})
			if n%4 == 0 {
				b.line.unplug()
				b.plug()
				b.line.tap(watch)
			}
		}
		synctest.Wait()
	}
	b.release()
	b.stop()
	time.Sleep(2 * time.Minute) // locks at the hub end
	synctest.Wait()
	for i, h := range heard {
		if len(h) > 1 {
			t.Errorf("command %d has %d words", i+1, len(h))
		}
	}
}
