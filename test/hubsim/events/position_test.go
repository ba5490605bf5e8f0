package events

import (
	"fmt"
	"testing"
)

func filled(n int) *Log {
	l := New(1, Bounds{})
	for i := range n {
		l.Append(Event{Device: "d", Message: []byte{byte(i)}})
	}
	return l
}

func TestSelectors(t *testing.T) {
	l := filled(5)
	offset := func(n int64) string {
		list, _ := l.Read(0, n, 1)
		return fmt.Sprint(list[0].Offset)
	}
	for _, c := range []struct {
		selector string
		want     int64 // sequence number of the first event
	}{
		{"amqp.annotation.x-opt-offset > '-1'", 0},
		{"amqp.annotation.x-opt-offset > '" + offset(1) + "'", 2},
		{"amqp.annotation.x-opt-offset >= '" + offset(1) + "'", 1},
		{"amqp.annotation.x-opt-offset > '@latest'", 5},
		{"amqp.annotation.x-opt-sequence-number > '2'", 3},
		{"amqp.annotation.x-opt-sequence-number >= '2'", 2},
		{"amqp.annotation.x-opt-sequence-number > 2", 3},
		{"amqp.annotation.x-opt-enqueued-time > '1020'", 0}, // all are newer
		{"amqp.annotation.x-opt-enqueued-time > '99999999999999'", 5},
	} {
		p, err := ParseSelector(c.selector)
		if err != nil {
			t.Errorf("%s: %v", c.selector, err)
			continue
		}
		if got := l.Start(0, p); got != c.want {
			t.Errorf("%s begins at %d, want %d", c.selector, got, c.want)
		}
	}
	for _, bad := range []string{"", "x", "amqp.annotation.x-opt-offset", "amqp.annotation.x-opt-sequence-number > 'x'", "amqp.annotation.other > '1'"} {
		if _, err := ParseSelector(bad); err == nil {
			t.Errorf("%q was taken for a selector", bad)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add("amqp.annotation.x-opt-offset > '-1'")
	f.Add("amqp.annotation.x-opt-enqueued-time >= 99")
	l := filled(3)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseSelector(text)
		if err != nil {
			return
		}
		if n := l.Start(0, p); n < 0 || n > 3 {
			t.Fatalf("%q begins at %d", text, n)
		}
	})
}
