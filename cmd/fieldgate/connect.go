package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// stage is one step of a test of the connection. The names are stable.
type stage struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
	What    string  `json:"what"`
}

func connectCommand(std streams) *cobra.Command {
	var x examiner
	var form formFlag
	var test, offline bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "connect [--test | --offline]",
		Short: "See that the gateway is connected, by a round trip to the hub",
		Long: `Waits until the daemon is connected, then reads a twin from the hub over its
connection, and shows each stage with its time.

With --test it does not wait; where no daemon runs it connects by itself, reads the
twin and hangs up. With --offline it looks only at what can be looked at without a
network: the configuration, keys, certificates, disk and ports. That is for
gateways that are prepared where the hub cannot be reached.`,
		Example: "  fieldgate connect\n  fieldgate connect --test --output json\n  fieldgate connect --offline",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if test && offline {
				return errors.New("write --test or --offline, not both")
			}
			if offline {
				x.offline = true
				all := x.examine(cmd.Context(), func(id string) bool { return slices.Contains(offlineChecks, id) })
				if err := writeFindings(std.out, form.output, all); err != nil {
					return err
				}
				return verdictOf(all)
			}
			if err := x.load(cmd.Context()); err != nil {
				return err
			}
			var stages []stage
			var err error
			switch running := x.running(cmd.Context()); {
			case running || !test:
				stages, err = x.testThere(cmd.Context(), test, wait)
			default:
				stages, err = x.testHere(cmd.Context())
			}
			return errors.Join(writeStages(std.out, form.output, stages), err)
		},
	}
	form.flag(c, forms...)
	x.flags(c)
	c.Flags().StringVar(&x.socket, "socket", "", "control socket of the daemon, `FILE`; default: that of the configuration")
	c.Flags().BoolVar(&test, "test", false, "test now, with the daemon or without")
	c.Flags().BoolVar(&offline, "offline", false, "do without the network")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the connection")
	return c
}

// offlineChecks are those that need no network and no daemon.
var offlineChecks = []string{"config", "disk", "serial", "clock", "certificate"}

func writeStages(out io.Writer, form string, stages []stage) error {
	if form != "table" {
		return encode(out, form, append([]stage{}, stages...))
	}
	for _, s := range stages {
		say(out, "%-8s %7s  %s", s.Stage, took(s.Seconds), s.What)
	}
	return nil
}

func (x *examiner) running(ctx context.Context) bool {
	var s state
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	return !errors.Is(x.client().State(ctx, &s), control.ErrNotRunning)
}

// testThere asks the daemon, at once or when it is connected.
func (x *examiner) testThere(ctx context.Context, atOnce bool, wait time.Duration) (stages []stage, err error) {
	r := remote{list: "add one: fieldgate config set hub.device_id ID hub.key_file FILE"}
	begin := time.Now()
	if !atOnce {
		if err := awaitState(ctx, x.client(), wait, states["connected"]); err != nil {
			return nil, err
		}
	}
	var s state
	if err := x.client().State(ctx, &s); err != nil {
		return nil, r.failed("cannot ask the daemon", err)
	}
	if !s.Uplink.Connected {
		why := s.Uplink.LastError
		if why == "" {
			why = "it is being dialled"
		}
		return nil, &failure{exitUnreachable, "the daemon is not connected", errors.New(why), "fieldgate check"}
	}
	stages = append(stages, stage{"connect", time.Since(begin).Seconds(), fmt.Sprintf("%s over %s, for %s", s.Uplink.Hub, s.Uplink.Transport, short(s.Now.Sub(s.Uplink.Since)))})
	if x.cfg.Hub.isBroker() {
		return stages, nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Hub.Timeout.D())
	defer cancel()
	trip, err := x.client().RoundTrip(ctx)
	if err != nil {
		return stages, r.failed("the hub does not answer over the connection of the daemon", err)
	}
	return append(stages, stage{"twin", trip.Seconds, "read of " + trip.Device}), nil
}

// testHere connects without the daemon.
func (x *examiner) testHere(ctx context.Context) (stages []stage, err error) {
	for _, way := range x.cfg.Hub.Ways() {
		a := try(ctx, way, x.clock)
		x.attempts = append(x.attempts, a)
		if a.err == nil {
			stages = append(stages, stage{"connect", a.Connect, a.Transport + " at " + a.Address}, stage{"secure", a.Secure, "certificate good for " + short(time.Until(a.Expires))})
			break
		}
	}
	way := &x.attempts[len(x.attempts)-1]
	if way.err != nil {
		return stages, &failure{exitUnreachable, "the hub cannot be reached", way.err, "fieldgate check"}
	}
	if x.cfg.Hub.isBroker() {
		return stages, nil
	}
	keys := identity.NewKeyring(x.cfg.Hub.Host)
	devices := x.identities(keys)
	if len(devices) == 0 {
		return stages, &failure{exitFailed, "there is nobody to test with", errors.New("no leaf has a key_file, nor has the gateway"), "add one: fieldgate config set hub.device_id ID hub.key_file FILE"}
	}
	cfg := *x.cfg
	cfg.Hub.Config.Config = way.way
	transport, err := newTransport(&cfg, identity.NewProofs(keys, cfg.Hub.Own.DeviceID, nil, nil), keys, x.clock, slog.New(slog.DiscardHandler))
	if err != nil {
		return stages, unanswered("the transport cannot be made", err)
	}
	begin := time.Now()
	conn, err := transport.Dial(ctx)
	if err != nil {
		return stages, unanswered("the hub does not let the gateway in", err)
	}
	defer conn.Close()
	stages = append(stages, stage{"open", time.Since(begin).Seconds(), "the hub speaks " + way.Transport})
	hub, ok := conn.(uplink.Listener)
	if !ok {
		return stages, nil
	}
	begin = time.Now()
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Hub.Timeout.D())
	defer cancel()
	if _, err := hub.GetTwin(ctx, devices[0]); err != nil {
		return stages, unanswered("the hub does not give the twin of "+devices[0], err)
	}
	return append(stages, stage{"twin", time.Since(begin).Seconds(), "read of " + devices[0]}), nil
}

// unanswered is the failure of a step with the hub.
func unanswered(what string, err error) error {
	code := exitUnreachable
	if refused, ok := errors.AsType[*gateway.TwinError](err); remedyOf(err) == uplink.Refused || ok && (refused.Status == 401 || refused.Status == 403) {
		code = exitRejected
	}
	return &failure{code, what, err, "fieldgate check"}
}

// roundTrip reads the twin of one identity from the hub, over the one connection.
func (g *assembly) roundTrip(ctx context.Context) (device string, err error) {
	device = g.cfg.Hub.Own.DeviceID
	if !g.cfg.Hub.overMQTT() {
		for _, l := range g.roster.all() {
			if !l.Disabled && l.auth == identity.AuthKey {
				device = l.ID
				break
			}
		}
	}
	if device == "" || g.cfg.Hub.isBroker() {
		return "", fmt.Errorf("%w: there is nobody with a twin", control.ErrNotFound)
	}
	if _, err = g.uplink.GetTwin(ctx, device); remedyOf(err) == uplink.Refused {
		err = &gateway.TwinError{Status: http.StatusUnauthorized, Message: err.Error()}
	}
	return device, err
}
