package uplink_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestConfig(t *testing.T) {
	good := uplink.DefaultConfig()
	if err := good.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for key, spoil := range map[string]func(*uplink.Config){
		"backoff_min":       func(c *uplink.Config) { c.BackoffMin = 1 },
		"backoff_max":       func(c *uplink.Config) { c.BackoffMax = c.BackoffMin - 1 },
		"auth_backoff_min":  func(c *uplink.Config) { c.AuthBackoffMin = 0 },
		"auth_backoff_max":  func(c *uplink.Config) { c.AuthBackoffMax = gateway.Duration(48 * time.Hour) },
		"window":            func(c *uplink.Config) { c.Window = 0 },
		"max_inflight":      func(c *uplink.Config) { c.MaxInflight = 1 << 20 },
		"idle_detach":       func(c *uplink.Config) { c.IdleDetach = 0 },
		"stall_timeout":     func(c *uplink.Config) { c.StallTimeout = 0 },
		"stall_connections": func(c *uplink.Config) { c.StallConnections = -1 },
	} {
		c := uplink.DefaultConfig()
		spoil(&c)
		if e, ok := errors.AsType[*gateway.KeyError](c.Validate()); !ok || e.Key != key {
			t.Errorf("%s: got %v", key, e)
		}
	}
}
