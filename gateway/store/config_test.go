package store

import (
	"errors"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

func TestConfig(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for lane, l := range cfg.Lanes {
		if err := l.Validate(cfg.SegmentSize); err != nil {
			t.Errorf("defaults of %v: %v", gateway.LaneNames[lane], err)
		}
	}
	tests := []struct {
		key    string
		change func(*Config)
	}{
		{"segment_size", func(c *Config) { c.SegmentSize = 1 }},
		{"segment_size", func(c *Config) { c.SegmentSize = 1 << 30 }},
		{"min_free", func(c *Config) { c.MinFree = 0 }},
		{"commit_window", func(c *Config) { c.CommitWindow = 1 << 40 }},
		{"max_bytes", func(c *Config) { c.Lanes[0].MaxBytes = 1 << 20 }},
		{"full", func(c *Config) { c.Lanes[0].Full = "explode" }},
	}
	for _, tt := range tests {
		cfg := DefaultConfig()
		tt.change(&cfg)
		err := errors.Join(cfg.Validate(), cfg.Lanes[0].Validate(DefaultConfig().SegmentSize))
		if bad, ok := errors.AsType[*gateway.KeyError](err); !ok || bad.Key != tt.key {
			t.Errorf("%s: got %v", tt.key, err)
		}
	}
}
