package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

// help lists the switches.
const help = `  latency TIME      each byte takes this long, for example 300ms; 0s for none
  jitter TIME       and up to this much longer
  loss SHARE        of pieces that are lost and come late, 0 to 1, for example 0.02
  resend TIME       how late they come
  bandwidth N       bytes a second for all connections together; 0 for no bound
  hole on|off       nothing moves and nobody is told
  refuse on|off     reset new connections
  reset             reset all connections
  preset NAME       perfect, gprs or satellite
  stats             connections and bytes

latency, jitter, loss, resend, bandwidth and hole take "up" or "down" at the end to mean one
direction only, for example "hole on down".`

// presets are links as bad as the name promises. The numbers are made up for
// tests; no network was measured.
var presets = map[string]faultproxy.Link{
	"perfect":   {},
	"gprs":      {Latency: 400 * time.Millisecond, Jitter: 300 * time.Millisecond, Bandwidth: 5_000},
	"satellite": {Latency: 300 * time.Millisecond, Jitter: 20 * time.Millisecond, Bandwidth: 250_000},
}

// pull works the switch that a line names, and says what it did.
func pull(p *faultproxy.Proxy, line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", fmt.Errorf("write one of:\n%s", help)
	}
	name, args := words[0], words[1:]
	switch name {
	case "reset":
		return fmt.Sprintf("reset %d connections", p.Reset()), none(args)
	case "stats":
		s := p.Stats()
		return fmt.Sprintf("open %d, ever %d, refused %d, without server %d, bytes up %d, bytes down %d",
			s.Open, s.Ever, s.Refused, s.NoServer, s.Bytes[faultproxy.Up], s.Bytes[faultproxy.Down]), none(args)
	case "refuse":
		on, err := onOff(args)
		if err == nil {
			p.Refuse(on)
		}
		return line, err
	}
	return line, pullLink(p, name, args)
}

// pullLink works the switches that a direction may be named for.
func pullLink(p *faultproxy.Proxy, name string, args []string) error {
	directions := []faultproxy.Direction{faultproxy.Up, faultproxy.Down}
	if n := len(args); n > 1 {
		switch args[n-1] {
		case "up":
			directions, args = directions[:1], args[:n-1]
		case "down":
			directions, args = directions[1:], args[:n-1]
		}
	}
	change, err := linkChange(name, args)
	if err != nil {
		return err
	}
	for _, d := range directions {
		if err := p.Change(d, change); err != nil {
			return err
		}
	}
	return nil
}

func linkChange(name string, args []string) (func(*faultproxy.Link), error) {
	switch name {
	case "latency", "jitter", "resend":
		d, err := time.ParseDuration(strings.Join(args, " "))
		if err != nil {
			return nil, fmt.Errorf("%s wants a time such as 300ms, not %q", name, args)
		}
		switch name {
		case "latency":
			return func(l *faultproxy.Link) { l.Latency = d }, nil
		case "jitter":
			return func(l *faultproxy.Link) { l.Jitter = d }, nil
		}
		return func(l *faultproxy.Link) { l.Resend = d }, nil
	case "loss":
		share, err := strconv.ParseFloat(strings.Join(args, " "), 64)
		if err != nil {
			return nil, fmt.Errorf("loss wants a share such as 0.02, not %q", args)
		}
		return func(l *faultproxy.Link) { l.Loss = share }, nil
	case "bandwidth":
		n, err := strconv.ParseInt(strings.Join(args, " "), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("bandwidth wants bytes a second, not %q", args)
		}
		return func(l *faultproxy.Link) { l.Bandwidth = n }, nil
	case "hole":
		on, err := onOff(args)
		return func(l *faultproxy.Link) { l.Hole = on }, err
	case "preset":
		preset, ok := presets[strings.Join(args, " ")]
		if !ok {
			return nil, fmt.Errorf("there is no preset %q: use perfect, gprs or satellite", args)
		}
		return func(l *faultproxy.Link) { *l = preset }, nil
	}
	return nil, fmt.Errorf("there is no switch %q; write one of:\n%s", name, help)
}

func onOff(args []string) (bool, error) {
	switch strings.Join(args, " ") {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, fmt.Errorf("write on or off, not %q", args)
}

func none(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is too much", args)
	}
	return nil
}
