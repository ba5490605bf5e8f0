package mqttsn_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

const clean, kept, withWill = "04", "00", "0C"

// bubble runs a test in which time passes when everybody waits.
func bubble(t *testing.T, f func(t *testing.T, b *bench), leaves ...string) {
	t.Helper()
	if leaves == nil {
		leaves = []string{"n1"}
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, leaves...)
		f(t, b)
		b.stop()
	})
}

// id is the topic id that REGISTER of a topic is answered with.
func (b *bench) register(topic string) string {
	b.t.Helper()
	b.line.send("__ 0A 0000 0101 '" + topic + "'")
	got := b.line.take()
	if len(got) != 1 || !strings.HasPrefix(got[0], "070B") || !strings.HasSuffix(got[0], "010100") {
		b.t.Fatalf("REGISTER of %s is answered by %q", topic, got)
	}
	return got[0][4:8]
}

// Sections 6.2, 6.5, 6.6: a leaf connects, registers a topic and publishes; what is
// not in custody is not acknowledged.
func TestPublish(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		id := b.register("leaf/n1/telemetry/room")
		b.set(func(c *custody) { c.held = true })
		b.line.ask("__ 0C 20 " + id + " 0007 'one'")
		b.line.ask("__ 0C A0 " + id + " 0007 'one'") // a copy, while it is under way
		b.release()
		b.line.want("07 0D " + id + " 0007 00")
		b.line.ask("__ 0C A0 "+id+" 0007 'one'", "07 0D "+id+" 0007 00") // a copy: the answer was lost
		b.line.ask("__ 0C 00 " + id + " 0000 'zero'")
		b.line.ask("__ 0C 31 0001 0008 'two'", "07 0D 0001 0008 00")
		b.line.ask("__ 0C 22 'al' 0009 'fire'", "07 0D 'al' 0009 00")
		b.wantTaken("one", "zero", "two", "fire")
		m := b.got[0]
		if m.Leaf != "n1" || m.Channel != "room" || m.Lane != gateway.LaneTelemetry || b.got[3].Lane != gateway.LaneAlarm || b.got[3].Channel != "door" {
			t.Errorf("messages %+v, %+v", m, b.got[3])
		}
		if p := b.got[2].Properties; len(p) != 1 || p[0].Name != "mqtt-retain" {
			t.Errorf("properties of what was retained: %v", p)
		}
	})
}

// What a leaf may not do is refused in words that a client knows.
func TestRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 04 04 01 003C 'n2'", "03 05 03") // not of this line
		b.line.ask("__ 04 04 02 003C 'n1'", "03 05 03") // another protocol
		b.out = everybody{"n1"}
		b.line.ask("__ 04 04 01 003C 'n1'", "03 05 03") // disabled
		b.out = nil
		b.line.ask("__ 0C 20 1234 0007 'x'", "02 18") // nobody
		b.line.ask("0216", "02 18")
		b.line.ask("__ 16 'n1'", "02 18") // a sleeper from before
		b.line.ask("0217")
		b.connect(clean, "n1")
		b.line.ask("__ 0C 20 1234 0007 'x'", "07 0D 1234 0007 02")
		b.line.ask("__ 0C 00 1234 0000 'x'", "07 0D 1234 0000 02")
		b.line.ask("__ 0A 0000 0001 'leaf/n2/telemetry'", "07 0B 0000 0001 03")
		b.line.ask("__ 0A 0000 0001 'leaf/n1/other'", "07 0B 0000 0001 03")
		b.line.ask("__ 0A 0000 0001 'leaf/n1/telemetry/+'", "07 0B 0000 0001 03")
		b.line.ask("__ 12 20 0002 'leaf/n2/#'", "08 13 20 0000 0002 03")
		b.line.ask("__ 12 20 0002 '#'", "08 13 20 0000 0002 03")
		b.line.ask("__ 12 21 0002 0009", "08 13 20 0000 0002 02")
		b.wantTaken()
	})
}

// A full store is congestion, and the leaf's own copy is taken later; a message that
// can never be taken is said to be so; a gateway that stops says nothing.
func TestCustodyRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		for _, c := range []struct {
			err  error
			code string
		}{
			{gateway.ErrStoreFull, "01"},
			{gateway.ErrStoreFailed, "01"},
			{gateway.ErrTooLarge, "03"},
			{gateway.ErrUnknownLeaf, "03"},
			{errTest, "01"},
			{gateway.ErrShuttingDown, ""},
		} {
			b.set(func(x *custody) { x.fate = func(*gateway.Message) error { return c.err } })
			for _, qos := range []string{"20", "40"} {
				b.line.send("__ 0C " + qos[:1] + "1 0001 0009 'x'")
				if c.code == "" {
					b.line.want()
				} else {
					b.line.want("07 0D 0001 0009 " + c.code)
				}
			}
		}
		b.set(func(x *custody) { x.fate = nil })
		b.line.ask("__ 0C A1 0001 0009 'x'", "07 0D 0001 0009 00")
		b.wantTaken("x")
	})
}

// Section 6.6, QoS 2: in custody once, however often it is sent.
func TestExactlyOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.ask("__ 0C 41 0001 0009 'x'", "04 0F 0009")
		b.line.ask("__ 0C C1 0001 0009 'x'", "04 0F 0009")
		b.connect(kept, "n1")
		b.line.ask("__ 0C C1 0001 0009 'x'", "04 0F 0009")
		b.line.ask("04 10 0009", "04 0E 0009")
		b.line.ask("04 10 0009", "04 0E 0009")
		b.line.ask("__ 0C 41 0001 0009 'x'", "04 0F 0009") // the next one, with the same id
		b.wantTaken("x", "x")
	})
}

// A leaf that has started anew gives the same message ids again: what it sends is
// not taken for a copy of what it sent before, even if it is the same and its
// original was lost. It would be acknowledged and be nowhere.
func TestMessageIDsBeginAnew(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		for range 3 {
			b.connect(clean, "n1")
			b.line.ask("__ 0C C1 0001 0009 'x'", "04 0F 0009")
		}
		b.wantTaken("x", "x", "x")
		for range 3 {
			b.connect(kept, "n1")
			b.line.ask("__ 0C A1 0001 0001 'y'", "07 0D 0001 0001 00")
		}
		b.wantTaken("x", "x", "x", "y", "y", "y")
		b.set(func(c *custody) { c.held = true })
		for range 2 { // also what is still on its way
			b.connect(clean, "n1")
			b.line.ask("__ 0C A1 0001 0001 'z'")
		}
		b.release()
		b.line.want("07 0D 0001 0001 00")
		b.wantTaken("x", "x", "x", "y", "y", "y", "z", "z")
	})
}

// A client that has but one message id must not have a new message taken for a copy
// of the last one.
func TestConstantMessageID(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		for range 2 {
			b.line.ask("__ 0C 21 0001 0001 'x'", "07 0D 0001 0001 00")
		}
		b.line.ask("__ 0C A1 0001 0001 'x'", "07 0D 0001 0001 00") // its original was lost
		b.wantTaken("x", "x", "x")
	})
}

// Section 6.8: without a connection, where it is clear who it is.
func TestPublishWithoutConnection(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 0C 61 0001 0000 'x'")
		b.line.ask("__ 0C 62 'al' 0000 'y'")
		b.line.ask("__ 0C 60 0001 0000 'z'")
		b.line.ask("__ 0C 62 'zz' 0000 'z'")
		b.wantTaken("x", "y")
		if s := b.state(); s.Discarded["topic_id"] != 2 || s.Leaves != 0 {
			t.Errorf("state %+v", s)
		}
	})
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 0C 61 0001 0000 'x'")
		b.wantTaken()
		if s := b.state(); s.Discarded["no_leaf"] != 1 {
			t.Errorf("state %+v", s)
		}
	}, "n1", "n2")
}

// Section 6.1.
func TestSearchGateway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("030100", "03 02 01")
		b.line.ask("05 FE 00 0102 030100", "05 FE 00 0102 03 02 01")
		b.line.unplug()
		b.plug()
		b.line.want("05 00 01 FFFF")
	})
}

// Sections 6.2 to 6.4: the will is asked for, and published when the leaf is lost.
func TestWill(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
		b.line.ask("__ 07 30 'leaf/n1/alarm/lost'", "02 08")
		b.line.ask("__ 07 30 'leaf/n1/alarm/lost'", "02 08") // a copy
		b.line.ask("__ 09 'gone'", "03 05 00")
		time.Sleep(89 * time.Second)
		b.wantTaken()
		b.line.ask("0216", "02 17")
		time.Sleep(89 * time.Second)
		b.wantTaken()
		time.Sleep(2 * time.Second)
		b.wantTaken("gone")
		if m := b.got[0]; m.Kind != gateway.Will || m.Lane != gateway.LaneAlarm || m.Properties[len(m.Properties)-1].Value != "Will" {
			t.Errorf("will %+v", m)
		}
		if s := b.state(); s.Leaves != 0 || s.Peers[0].Err == "" {
			t.Errorf("state %+v", s)
		}
		b.line.ask("0216", "02 18") // it is told that it is not connected
	})
}

// A goodbye takes the will along, and so does an empty one.
func TestWillIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		say := func() {
			b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
			b.line.ask("__ 07 30 'leaf/n1/alarm/lost'", "02 08")
			b.line.ask("__ 09 'gone'", "03 05 00")
		}
		say()
		b.line.ask("02 18", "02 18")
		b.line.ask("02 18", "02 18") // a copy
		time.Sleep(time.Hour)
		say()
		b.line.ask("02 1A", "03 1B 00")
		b.line.ask("__ 1C 'x'", "03 1D 03")
		time.Sleep(time.Hour)
		b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
		b.line.ask("02 07", "03 05 00")
		time.Sleep(time.Hour)
		b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
		b.line.ask("__ 07 00 'leaf/n2/alarm'", "03 05 03")
		b.wantTaken()
		say()
		b.line.ask("__ 1A 00 'leaf/n1/telemetry'", "03 1B 00")
		b.line.ask("__ 1C 'new'", "03 1D 00")
		time.Sleep(time.Hour)
		b.wantTaken("new")
	})
}

// Section 6.13: what is not answered is sent again, as often as the specification
// says.
func TestWillIsAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 04 0C 01 0000 'n1'", "02 06")
		time.Sleep(time.Minute)
		b.line.want("02 06", "02 06", "02 06", "02 06")
		b.line.ask("__ 07 00 'leaf/n1/alarm'") // too late
	})
}

// A will that the store does not take is tried until it does.
func TestWillWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
		b.line.ask("__ 07 30 'leaf/n1/alarm/lost'", "02 08")
		b.line.ask("__ 09 'gone'", "03 05 00")
		b.set(func(c *custody) { c.fate = func(*gateway.Message) error { return gateway.ErrStoreFull } })
		time.Sleep(time.Hour)
		b.wantTaken()
		b.set(func(c *custody) { c.fate = nil })
		time.Sleep(time.Minute)
		b.wantTaken("gone")
	})
}

// Strangers, and a leaf that wants ever more, cost no more than what there is for
// the leaves of the line, and disturb nobody.
func TestFlood(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		id := b.register("leaf/n1/telemetry")
		answers := make(map[string]int)
		b.line.tap(func(m []byte) { answers[fmt.Sprintf("%X", m[1:2])+fmt.Sprintf("%X", m[len(m)-1:])]++ })
		before := runtime.NumGoroutine()
		for i := range 3000 {
			for _, m := range []string{
				fmt.Sprintf("__ 04 04 01 003C 'x%d'", i),                     // nobody
				fmt.Sprintf("05 FE 00 %04X __ 04 01 003C 'n1'", i),           // a frame in a frame that is none
				fmt.Sprintf("__ 0A 0000 0001 'leaf/n1/telemetry/%d'", i),     // ever more topics
				fmt.Sprintf("__ 12 20 0002 'leaf/n1/command/%d'", i),         // ever more filters
				fmt.Sprintf("04 10 %04X", i), fmt.Sprintf("04 0F %04X", i+1), // the second halves of what never was
			} {
				b.line.send(m)
			}
		}
		if n := runtime.NumGoroutine(); n > before+2 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		if n := answers["0B00"]; n > 256 || n+answers["0B01"] != 3000 {
			t.Errorf("%d topics taken, %d refused", n, answers["0B01"])
		}
		if answers["0503"] != 3000 || answers["1300"] != 32 || answers["1303"] != 3000-32 {
			t.Errorf("%d strangers refused, %d filters taken, %d refused", answers["0503"], answers["1300"], answers["1303"])
		}
		b.line.tap(nil)
		b.line.ask("__ 0C 20 "+id+" 0007 'one'", "07 0D "+id+" 0007 00")
		b.wantTaken("one")
	})
}

// No message is longer than leaves can take, not even one that says so.
func TestAnswersFit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 20 0002 'leaf/n1/twin/error'")
		b.line.take()
		b.set(func(c *custody) {
			c.refuse = &gateway.TwinError{Status: 400, Code: 400001, Message: strings.Repeat("x", 1100)}
		})
		id := b.register("leaf/n1/twin/reported")
		b.line.ask("__ 0C 20 "+id+" 0007 '{}'", "07 0D "+id+" 0007 03")
	})
}

// A leaf that comes and is lost again and again while the store is full leaves no
// more wills than there is room for.
func TestWillsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.set(func(c *custody) { c.fate = func(*gateway.Message) error { return gateway.ErrStoreFull } })
		lost := 0
		for range 100 {
			b.line.send("__ 04 0C 01 0001 'n1'") // a keep-alive of one second
			if got := b.line.take(); len(got) != 1 || got[0] != "0206" {
				b.line.ask("__ 04 0C 01 0001 'n1'", "03 05 01")
				break
			}
			b.line.ask("__ 07 10 'leaf/n1/alarm'", "02 08")
			b.line.ask("__ 09 'gone'", "03 05 00")
			time.Sleep(2 * time.Second)
			lost++
		}
		if lost > 20 {
			t.Fatalf("%d wills wait", lost)
		}
		b.set(func(c *custody) { c.fate = nil })
		time.Sleep(time.Hour)
		if got := b.texts(); len(got) != lost {
			t.Errorf("%d wills in custody, want %d", len(got), lost)
		}
		b.connect(clean, "n1")
	})
}

// Sections 6.9 and 6.10: commands come on what was subscribed to, also those that
// were waiting, and are complete with PUBACK. The topic is told before.
func TestCommandByWildcard(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		first := b.command("n1", "open", 1, "a")
		b.line.send("__ 12 20 0005 'leaf/n1/command/+'")
		got := b.line.take()
		if len(got) != 2 || got[0] != "08132000000005"+"00" {
			t.Fatalf("SUBSCRIBE is answered by %q", got)
		}
		id := got[1][4:8]
		if got[1] != strings.ToUpper(fmt.Sprintf("1A0A%s0001%x", id, "leaf/n1/command/open")) {
			t.Fatalf("not REGISTER: %q", got[1])
		}
		wantNone(t, first)
		b.line.ask("07 0B "+id+" 0001 00", "__ 0C 20 "+id+" 0002 'a'")
		second := b.command("n1", "open", 2, "b")
		b.line.want() // one at a time
		b.line.ask("07 0D "+id+" 0002 00", "__ 0C 20 "+id+" 0003 'b'")
		b.wantVerdict(first, gateway.Completed)
		wantNone(t, second)
		b.line.ask("07 0D " + id + " 0003 03")
		b.wantVerdict(second, gateway.Rejected)

		// The leaf has forgotten the id.
		third := b.command("n1", "open", 3, "c")
		b.line.want("__ 0C 20 " + id + " 0004 'c'")
		b.line.ask("07 0D "+id+" 0004 02", "__ 0A "+id+" 0005 'leaf/n1/command/open'")
		b.line.ask("07 0B "+id+" 0005 00", "__ 0C 20 "+id+" 0006 'c'")
		b.line.ask("07 0D " + id + " 0006 00")
		b.wantVerdict(third, gateway.Completed)

		// It wants no more.
		b.line.ask("__ 14 00 0006 'leaf/n1/command/+'", "04 15 0006")
		fourth := b.command("n1", "open", 4, "d")
		b.line.want()
		wantNone(t, fourth)
		if s := b.state(); s.Commands["completed"] != 2 || s.Commands["rejected"] != 1 {
			t.Errorf("counts %v", s.Commands)
		}
	})
}

// A topic that was subscribed to by its name has its id from SUBACK, a predefined
// one its own; with QoS 0 a command is complete when it is written.
func TestCommandByOtherTopics(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 20 0005 'leaf/n1/command/shut'")
		id := b.line.take()[0][6:10]
		one := b.command("n1", "shut", 1, "a")
		b.line.want("__ 0C 20 " + id + " 0001 'a'")
		b.line.ask("07 0D " + id + " 0001 00")
		b.wantVerdict(one, gateway.Completed)

		b.line.ask("__ 12 01 0006 0002", "08 13 00 0002 0006 00")
		two := b.command("n1", "open", 2, "b")
		b.line.want("__ 0C 01 0002 0000 'b'")
		b.wantVerdict(two, gateway.Completed)

		other := b.command("n1", "unknown", 3, "c") // of a name that it has not asked for
		b.wantVerdict(other, gateway.Rejected)
		large := b.command("n1", "open", 4, strings.Repeat("x", 1020))
		b.wantVerdict(large, gateway.Rejected)
	})
}

// Section 6.10 with QoS 2: complete with PUBREC, and then no copy any more.
func TestCommandExactlyOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.ask("__ 12 41 0006 0002", "08 13 40 0002 0006 00")
		one, two := b.command("n1", "open", 1, "a"), b.command("n1", "open", 2, "b")
		b.line.want("__ 0C 41 0002 0001 'a'")
		time.Sleep(2500 * time.Millisecond)
		b.line.want("__ 0C C1 0002 0001 'a'")
		wantNone(t, one)
		b.line.ask("04 0F 0001", "04 10 0001")
		b.wantVerdict(one, gateway.Completed)
		time.Sleep(2500 * time.Millisecond)
		b.line.want("04 10 0001")
		b.line.ask("04 0F 0001", "04 10 0001") // a copy
		b.line.ask("04 0E 0001", "__ 0C 41 0002 0002 'b'")
		b.line.ask("04 0F 0002", "04 10 0002")
		b.wantVerdict(two, gateway.Completed)
		b.connect(clean, "n1")
		b.line.ask("04 0F 0002", "04 10 0002") // one that has not heard PUBREL
		b.line.ask("04 0E 0002")
		wantNone(t, one)
		wantNone(t, two)
	})
}

// Section 6.13: a command is repeated, marked as a copy; a leaf that says nothing at
// all is lost, and its command waits for it.
func TestCommandIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		one := b.command("n1", "open", 1, "b")
		b.line.want("__ 0C 21 0002 0001 'b'")
		time.Sleep(2500 * time.Millisecond)
		b.line.want("__ 0C A1 0002 0001 'b'")
		b.line.ask("07 0D 0002 0001 01") // congestion: again
		time.Sleep(2 * time.Second)
		b.line.want("__ 0C A1 0002 0001 'b'")
		b.line.ask("07 0D 0002 0001 00")
		b.wantVerdict(one, gateway.Completed)

		two := b.command("n1", "open", 2, "c")
		time.Sleep(15 * time.Second)
		copied := "__ 0C A1 0002 0002 'c'"
		b.line.want("__ 0C 21 0002 0002 'c'", copied, copied, copied, copied)
		wantNone(t, two)
		b.line.ask("0216", "02 18")
		b.connect(clean, "n1")
		b.line.send("__ 12 21 0006 0002")
		b.line.want("08 13 20 0002 0006 00", "__ 0C 21 0002 0003 'c'")
		b.line.ask("07 0D 0002 0003 00")
		b.wantVerdict(two, gateway.Completed)
	})
}

// Section 6.14: a sleeping leaf is given what waits when it asks, and PINGRESP says
// that this is all.
func TestSleep(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		b.line.ask("04 18 0E10", "02 18")
		one := b.command("n1", "open", 1, "a")
		two := b.command("n1", "open", 2, "b")
		b.line.want()
		time.Sleep(20 * time.Second)
		wantNone(t, one)
		b.line.ask("__ 16 'n1'", "__ 0C 21 0002 0001 'a'")
		b.line.ask("__ 16 'n1'") // a copy
		b.line.ask("07 0D 0002 0001 00", "__ 0C 21 0002 0002 'b'")
		b.wantVerdict(one, gateway.Completed)
		b.line.ask("07 0D 0002 0002 00")
		time.Sleep(time.Second)
		b.line.want("02 17")
		b.wantVerdict(two, gateway.Completed)
		three := b.command("n1", "open", 3, "c")
		b.line.want()
		// It wakes for good.
		b.line.ask("__ 04 04 01 003C 'n1'", "03 05 00", "__ 0C 21 0002 0003 'c'")
		b.line.ask("07 0D 0002 0003 00")
		b.wantVerdict(three, gateway.Completed)
	})
}

// A sleeper that does not come back is lost; one that falls asleep again before it
// has acknowledged gets the command when it is back.
func TestSleepTooLong(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.line.ask("__ 04 0C 01 003C 'n1'", "02 06")
		b.line.ask("__ 07 30 'leaf/n1/alarm/lost'", "02 08")
		b.line.ask("__ 09 'gone'", "03 05 00")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		b.line.ask("04 18 0064", "02 18")
		one := b.command("n1", "open", 1, "a")
		b.line.ask("__ 16 'n1'", "__ 0C 21 0002 0001 'a'")
		time.Sleep(30 * time.Second)
		b.line.take()
		b.line.ask("__ 16 'n1'", "__ 0C 21 0002 0002 'a'")
		b.line.ask("07 0D 0002 0002 00")
		b.wantVerdict(one, gateway.Completed)
		time.Sleep(149 * time.Second)
		b.wantTaken()
		time.Sleep(2 * time.Second)
		b.wantTaken("gone")
		b.line.take()
		b.line.ask("__ 16 'n1'", "02 18")
	})
}

// Methods and their answers, twins and reported properties, on the plain topics.
func TestCallsAndTwins(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 20 0005 'leaf/n1/command/+/+'")
		b.line.send("__ 12 20 0006 'leaf/n1/twin/#'")
		b.line.take()
		reply := b.register("leaf/n1/reply/1/201")
		answered := make(chan *gateway.Reply, 1)
		go func() {
			r, err := b.down.Call(context.Background(), &gateway.Call{Leaf: "n1", Name: "boot", Body: []byte(`{}`)})
			if err != nil {
				t.Error(err)
			}
			answered <- r
		}()
		got := b.line.take()
		if len(got) != 1 || !strings.HasSuffix(got[0], strings.ToUpper(fmt.Sprintf("%x", "leaf/n1/command/boot/1"))) {
			t.Fatalf("REGISTER of the method's topic: %q", got)
		}
		b.line.send("07 0B " + got[0][4:12] + " 00")
		b.line.send("07 0D " + b.line.take()[0][6:14] + " 00")
		b.line.send("__ 0C 20 " + reply + " 0009 'not JSON'")
		b.line.want("07 0D " + reply + " 0009 00")
		if r := <-answered; r == nil || r.Status != 201 || string(r.Body) != `"not JSON"` {
			t.Errorf("reply %+v", r)
		}

		get := b.register("leaf/n1/twin/get")
		b.set(func(c *custody) { c.document = `{"desired":{}}` })
		b.line.send("__ 0C 20 " + get + " 000A")
		got = b.line.take()
		if len(got) != 2 || got[0] != "070D"+get+"000A00" {
			t.Fatalf("twin/get is answered by %q", got)
		}
		b.line.send("07 0B " + got[1][4:12] + " 00")
		got = b.line.take()
		if len(got) != 1 || !strings.HasSuffix(got[0], strings.ToUpper(fmt.Sprintf("%x", `{"desired":{}}`))) {
			t.Errorf("twin %q", got)
		}
		b.line.send("07 0D " + got[0][6:14] + " 00")

		reported := b.register("leaf/n1/twin/reported")
		b.line.ask("__ 0C 20 "+reported+" 000B '{}'", "07 0D "+reported+" 000B 00")
		b.set(func(c *custody) { c.refuse = gateway.ErrStoreFull })
		b.line.ask("__ 0C 20 "+reported+" 000C '{}'", "07 0D "+reported+" 000C 01")
		b.set(func(c *custody) { c.refuse = &gateway.TwinError{Status: 400, Message: "bad"} })
		b.line.send("__ 0C 20 " + reported + " 000D '{'")
		got = b.line.take()
		slices.Sort(got)
		if len(got) != 2 || got[0] != "070D"+reported+"000D03" || !strings.HasSuffix(got[1], strings.ToUpper(fmt.Sprintf("%x", "leaf/n1/twin/error"))) {
			t.Errorf("refused patch: %q", got)
		}
	})
}

// Desired changes are heard when they are acknowledged.
func TestDesired(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 20 0006 'leaf/n1/twin/desired'")
		id := b.line.take()[0][6:10]
		heard := false
		b.down.Desired("n1", []byte(`{"a":1}`), 2, func() { heard = true })
		b.line.want("__ 0C 20 " + id + ` 0001 '{"a":1}'`)
		if synctest.Wait(); heard {
			t.Error("heard before it is acknowledged")
		}
		b.line.ask("07 0D " + id + " 0001 00")
		if synctest.Wait(); !heard || b.state().Desired != 1 {
			t.Error("not heard")
		}
	})
}

// The number of a call that was not answered is not used for the next one.
func TestLateReply(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 00 0005 'leaf/n1/command/+/+'")
		b.line.take()
		reply := b.register("leaf/n1/reply/1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go b.down.Call(ctx, &gateway.Call{Leaf: "n1", Name: "boot"})
		got := b.line.take()
		b.line.send("07 0B " + got[0][4:12] + " 00")
		b.line.take()
		time.Sleep(6 * time.Second)
		ended := make(chan error, 1)
		go func() {
			_, err := b.down.Call(t.Context(), &gateway.Call{Leaf: "n1", Name: "boot"})
			ended <- err
		}()
		if got = b.line.take(); len(got) != 1 || !strings.HasSuffix(got[0], "2F32") { // /2
			t.Fatalf("second call %q", got)
		}
		b.line.ask("__ 0C 20 "+reply+" 0009 'late'", "07 0D "+reply+" 0009 00")
		select {
		case err := <-ended:
			t.Errorf("the late answer ended the second call: %v", err)
		default:
		}
		b.line.send("02 18")
		if err := <-ended; err != gateway.ErrAbsent {
			t.Errorf("call to a leaf that has gone: %v", err)
		}
	})
}

// Subscriptions and will of a session that is kept outlive the connection, the line
// and the gateway; CONNACK has no word for them, so the leaf relies on it.
func TestKeptSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, "n1")
		b.connect(kept, "n1")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		_, before := b.notes.count()
		b.line.ask("__ 12 A1 0006 0002", "08 13 20 0002 0006 00")
		b.line.ask("02 18", "02 18")
		b.connect(kept, "n1")
		if _, writes := b.notes.count(); writes != before || writes != 1 {
			t.Errorf("%d notes written, then %d: want 1", before, writes)
		}
		b.stop()

		b = newBench(t, b.notes, "n1")
		one := b.command("n1", "open", 1, "a")
		time.Sleep(10 * time.Second)
		wantNone(t, one)
		b.line.ask("__ 16 'n1'", "02 18") // what a sleeper hears after a restart
		b.line.ask("__ 04 00 01 003C 'n1'", "03 05 00", "__ 0C 21 0002 0001 'a'")
		b.line.ask("07 0D 0002 0001 00")
		b.wantVerdict(one, gateway.Completed)
		b.line.ask("02 18", "02 18")
		b.connect(clean, "n1") // begins anew
		two := b.command("n1", "open", 2, "b")
		b.line.want()
		wantNone(t, two)
		if n, _ := b.notes.count(); n != 0 {
			t.Errorf("%d notes are left", n)
		}
		b.stop()
	})
}

// A leaf that subscribes and unsubscribes faster than flash can write costs no more
// memory for it; what it wants in the end is on flash in the end.
func TestNotesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(kept, "n1")
		gate := make(chan struct{})
		b.notes.mu.Lock()
		b.notes.gate = gate
		b.notes.mu.Unlock()
		for range 500 {
			b.line.send("__ 12 20 0002 'leaf/n1/command/open'")
			b.line.send("__ 14 00 0003 'leaf/n1/command/open'")
		}
		b.line.ask("__ 12 20 0004 'leaf/n1/twin/desired'") // not on flash yet
		close(gate)
		synctest.Wait()
		if _, writes := b.notes.count(); writes > 20 {
			t.Errorf("%d notes were written", writes)
		}
		note, _ := b.notes.Note("mqttsn session", "n1")
		if text := string(note); !strings.Contains(text, "twin/desired") || strings.Contains(text, "command/open") {
			t.Errorf("the note is %s", text)
		}
	})
}

// A kept session is given up after a week.
func TestKeptSessionEnds(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(kept, "n1")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		b.line.ask("02 18", "02 18")
		time.Sleep(7*24*time.Hour - time.Minute)
		synctest.Wait()
		if n, _ := b.notes.count(); n != 1 {
			t.Fatal("given up too soon")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n, _ := b.notes.count(); n != 0 {
			t.Error("not given up")
		}
	})
}

// An id that a leaf remembers from before a restart means the same topic or none.
func TestTopicIDsOutliveRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, "n1")
		b.connect(clean, "n1")
		id := b.register("leaf/n1/telemetry/a")
		b.stop()
		b = newBench(t, nil, "n1")
		b.connect(clean, "n1")
		b.register("leaf/n1/telemetry/b")
		b.line.ask("__ 0C 20 "+id+" 0007 'x'", "07 0D "+id+" 0007 02")
		if again := b.register("leaf/n1/telemetry/a"); again != id {
			t.Errorf("id %s, then %s", id, again)
		}
		b.line.ask("__ 0C 20 "+id+" 0007 'x'", "07 0D "+id+" 0007 00")
		b.stop()
	})
}

// Section 5.5: nodes behind a concentrator are told apart by their addresses.
func TestForwarder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		for _, n := range []string{"01", "02"} {
			b.line.ask("04 FE 00 "+n+" 08 04 04 01 003C 'n"+n[1:]+"'", "04 FE 00 "+n+" 03 05 00")
			b.line.ask("04 FE 00 "+n+" 07 12 21 0006 0002", "04 FE 00 "+n+" 08 13 20 0002 0006 00")
		}
		b.line.ask("04 FE 01 01 08 0C 21 0001 0007 'x'", "04 FE 00 01 07 0D 0001 0007 00")
		b.line.ask("04 FE 01 02 08 0C 21 0001 0007 'y'", "04 FE 00 02 07 0D 0001 0007 00")
		b.line.ask("08 0C 21 0001 0007 'z'", "02 18")
		if b.wantTaken("x", "y"); b.got[0].Leaf != "n1" || b.got[1].Leaf != "n2" {
			t.Errorf("leaves %s and %s", b.got[0].Leaf, b.got[1].Leaf)
		}
		two := b.command("n2", "open", 1, "b")
		b.line.want("04 FE 00 02 08 0C 21 0002 0001 'b'")
		b.line.ask("04 FE 00 02 07 0D 0002 0001 00")
		b.wantVerdict(two, gateway.Completed)
		// n2 moves behind another node, and n1 takes the one it had.
		b.line.ask("04 FE 00 03 08 04 04 01 003C 'n2'", "04 FE 00 03 03 05 00")
		b.line.ask("04 FE 00 02 0216", "04 FE 00 02 0218")
		b.line.ask("04 FE 00 03 08 04 04 01 003C 'n1'", "04 FE 00 03 03 05 00")
		if s := b.state(); s.Leaves != 1 {
			t.Errorf("%d leaves", s.Leaves)
		}
		b.line.ask("04 FE 00 01 04 FE 00 01 0216") // twice
		if s := b.state(); s.Discarded["malformed"] != 1 {
			t.Errorf("discarded %v", s.Discarded)
		}
	}, "n1", "n2")
}

// Unplugging the line is no loss until time is up; what was under way is repeated.
func TestLineIsPluggedIn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.ask("__ 12 21 0006 0002", "08 13 20 0002 0006 00")
		b.line.unplug()
		one := b.command("n1", "open", 1, "a")
		b.plug()
		b.line.take()
		time.Sleep(3 * time.Second)
		b.line.want("__ 0C A1 0002 0001 'a'")
		b.line.ask("07 0D 0002 0001 00")
		b.wantVerdict(one, gateway.Completed)
		b.line.ask("__ 0C 31 0001 0007 'x'", "07 0D 0001 0007 00")
	})
}

// Twins that a leaf has asked for before it fell asleep are there when it wakes.
func TestTwinWaitsForSleeper(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(clean, "n1")
		b.line.send("__ 12 20 0006 'leaf/n1/twin/document'")
		id := b.line.take()[0][6:10]
		get := b.register("leaf/n1/twin/get")
		b.set(func(c *custody) { c.document = `{}` })
		b.line.send("__ 0C 20 " + get + " 000A")
		b.line.send("04 18 0E10")
		b.line.take()
		b.line.ask("__ 16 'n1'", "__ 0C 20 "+id+" 0002 '{}'")
		b.line.ask("07 0D " + id + " 0002 00")
		time.Sleep(time.Second)
		b.line.want("02 17")
	})
}

// While the line is not there the leaf sleeps for the hub: commands are left with it,
// calls find nobody, and nothing is given up for a wire that was pulled out. What was
// on its way comes again, and the session with all its subscriptions goes on.
func TestUnpluggedLine(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.connect(kept, "n1")
		b.line.ask("__ 12 21 0001 0002", "08 13 20 0002 0001 00") // command/open, predefined
		under := b.command("n1", "open", 1, "one")
		b.line.want("__ 0C 21 0002 0001 'one'")
		b.line.unplug()
		waiting := b.command("n1", "open", 2, "two")
		if _, err := b.Call(t.Context(), &gateway.Call{Leaf: "n1", Name: "open"}); err != gateway.ErrAbsent {
			t.Errorf("a method over a line that is not there: %v", err)
		}
		time.Sleep(30 * time.Second) // longer than all repetitions
		wantNone(t, under)
		wantNone(t, waiting)
		if s := b.state(); !s.Peers[0].Up || s.Counts["unsent"] != 0 {
			t.Errorf("state %+v", s)
		}
		b.plug()
		b.line.want("05 00 01 FFFF", "__ 0C 21 0002 0002 'one'")
		b.line.ask("07 0D 0002 0002 00", "__ 0C 21 0002 0003 'two'")
		b.line.ask("07 0D 0002 0003 00")
		b.wantVerdict(under, gateway.Completed)
		b.wantVerdict(waiting, gateway.Completed)
		b.line.ask("0216", "02 17")
	})
}
