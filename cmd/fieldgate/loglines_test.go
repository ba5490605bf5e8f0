package main

import (
	"fmt"
	"log/slog"
	"testing"
)

// The last lines are remembered, in their order, and no more than that.
func TestRecentLines(t *testing.T) {
	lines := new(logLines)
	log := lines.watch(slog.New(slog.DiscardHandler), slog.LevelInfo).With("part", "broker")
	if got := lines.Records(0); len(got) != 0 {
		t.Errorf("before the first: %v", got)
	}
	log.Debug("not this")
	for i := range maxRecords + 10 {
		log.Info(fmt.Sprint("line ", i), "leaf", "pump-1", "bytes", i)
	}
	all := lines.Records(0)
	if len(all) != maxRecords || all[0].Message != "line 10" || all[0].Number != 11 || all[maxRecords-1].Message != fmt.Sprint("line ", maxRecords+9) {
		t.Errorf("%d lines, first %+v", len(all), all[0])
	}
	if r := all[0]; r.Level != "info" || r.Leaf != "pump-1" || r.Part != "broker" || r.Facts != "bytes=10" {
		t.Errorf("%+v", r)
	}
	if got := lines.Records(maxRecords + 8); len(got) != 2 || got[1].Number != maxRecords+10 {
		t.Errorf("those after one: %+v", got)
	}
	if got := lines.Records(1 << 40); len(got) != maxRecords {
		t.Errorf("after one of another daemon: %d", len(got))
	}
	if cap(lines.ring) > 2*maxRecords {
		t.Errorf("room for %d lines", cap(lines.ring))
	}
}
