package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// The checks of the way to the hub.

func (x *examiner) checkDNS(ctx context.Context) []finding {
	var names []string
	for _, way := range x.cfg.Hub.Ways() {
		if name := nameToResolve(&way); net.ParseIP(name) == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return fine("there is no name to look up")
	}
	for _, name := range names {
		ctx, cancel := context.WithTimeout(ctx, x.cfg.Hub.Timeout.D())
		_, err := net.DefaultResolver.LookupHost(ctx, name)
		cancel()
		if err == nil {
			continue
		}
		next := "look at the name servers: resolvectl status; or: cat /etc/resolv.conf"
		if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
			next = "is the name right? fieldgate config set hub.host NAME; else look at the name servers: cat /etc/resolv.conf"
		}
		return wrong(exitUnreachable, fmt.Sprintf("the name %s cannot be looked up (DNS)", name), err, next)
	}
	return fine("%s can be looked up", strings.Join(names, ", "))
}

func (x *examiner) checkReach(ctx context.Context) []finding {
	ways, configured := allWays(&x.cfg.Hub)
	var open, closed []attempt
	for _, way := range ways[:configured] {
		a := try(ctx, way, x.clock)
		x.attempts = append(x.attempts, a)
		if a.reached() {
			open = append(open, a)
		} else {
			closed = append(closed, a)
		}
	}
	switch {
	case len(closed) == 0:
		var words []string
		for _, a := range open {
			words = append(words, fmt.Sprintf("%s at %s", a.Transport, a.Address))
		}
		return fine("%s", strings.Join(words, ", "))
	case len(open) > 0:
		return []finding{{
			Result: resultWarning,
			What:   fmt.Sprintf("%s is blocked, %s is open: the gateway goes that way", portOf(closed[0].Address), portOf(open[0].Address)),
			Why:    closed[0].Error,
			Next:   "have it opened in the firewall; or try it no more: fieldgate config set hub.transport " + open[0].Transport,
		}}
	}
	for _, way := range ways[configured:] {
		if a := try(ctx, way, x.clock); a.reached() && (way.Transport == dial.AMQPWebSocket || way.Transport == dial.AMQP) && !x.cfg.Hub.overMQTT() {
			return wrong(exitUnreachable, fmt.Sprintf("%s is blocked, %s is open", portOf(closed[0].Address), portOf(a.Address)),
				closed[0].err, "let the gateway find its way: fieldgate config set hub.transport auto")
		}
	}
	why := closed[0].err
	if hint := closed[0].Hint; hint != "" {
		why = fmt.Errorf("%w: %s", why, hint)
	}
	return wrong(exitUnreachable, "the hub cannot be reached at "+closed[0].Address, why, "see which ways are open: fieldgate netcheck; and whether there is a network: ip route")
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return "port " + port
}

// clockTolerance is how far the clock may be off. The hub takes tokens and
// certificates that are minutes off; capture times should be better than that.
const clockTolerance = 2 * time.Minute

func (x *examiner) checkClock(ctx context.Context) []finding {
	at, err := time.Time{}, errors.New("that needs the network")
	if !x.offline {
		at, err = hubTime(ctx, x.cfg, x.clock)
	}
	now := x.clock()
	if err == nil {
		x.time = at
	}
	mend := "let a time source set it: timedatectl set-ntp true"
	if err == nil {
		mend += "; or by hand: date -u -s @" + fmt.Sprint(at.Unix())
	}
	shows := now.Wall.UTC().Format(time.RFC3339)
	switch off := now.Wall.Sub(at); {
	case now.Quality == gateway.Unsynced:
		return wrong(exitFailed, "the clock is wrong: it has not been set since power-on", errors.New("it shows "+shows), mend)
	case err == nil && off.Abs() > clockTolerance:
		way := "behind"
		if off > 0 {
			way = "ahead of"
		}
		return wrong(exitFailed, fmt.Sprintf("the clock is wrong: it is %s %s that of the hub", short(off.Abs()), way), errors.New("it shows "+shows), mend)
	case err == nil:
		return fine("it agrees with the hub's, quality: %s", now.Quality)
	case x.notYetValid(now.Wall):
		return wrong(exitFailed, "the clock is wrong: it is before the hub's certificate was made", errors.New("it shows "+shows), mend)
	}
	return passOver("it shows %s, quality: %s; the hub could not be asked: %v", shows, now.Quality, err)
}

// invalid returns the certificate that a way has shown and that is not good at
// this time.
func (x *examiner) invalid() *x509.Certificate {
	for _, a := range x.attempts {
		if bad, ok := errors.AsType[x509.CertificateInvalidError](a.err); ok && bad.Reason == x509.Expired {
			return bad.Cert
		}
	}
	return nil
}

func (x *examiner) notYetValid(now time.Time) bool {
	c := x.invalid()
	return c != nil && now.Before(c.NotBefore)
}

func (x *examiner) checkHubCertificate(context.Context) []finding {
	if c := x.invalid(); c != nil {
		now, whose := x.time, "the hub's own clock"
		if now.IsZero() {
			now, whose = x.clock().Wall, "the clock here"
		}
		why := fmt.Errorf("it is good from %s to %s, and %s shows %s", c.NotBefore.UTC().Format(time.RFC3339),
			c.NotAfter.UTC().Format(time.RFC3339), whose, now.UTC().Format(time.RFC3339))
		if now.After(c.NotAfter) {
			return wrong(exitUnreachable, "the hub's certificate has expired", why,
				"see who shows it: fieldgate netcheck; whoever runs the hub, or the relay at [hub] address, has to renew it")
		}
		return passOver("it cannot be judged while the clock is wrong")
	}
	for _, a := range x.attempts {
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](a.err); unknown {
			return wrong(exitUnreachable, "whoever answers at "+a.Address+" does not prove to be the hub", fmt.Errorf("%w: %s", a.err, a.Hint),
				"if it is right that way, name the authority: fieldgate config set hub.ca_file FILE")
		}
		if named, ok := errors.AsType[x509.HostnameError](a.err); ok {
			next := "is the name of the hub right? fieldgate config get hub.host"
			if names := named.Certificate.DNSNames; len(names) > 0 && x.cfg.Hub.Address != "" {
				next = "if this is right, name it: fieldgate config set hub.server_name " + names[0]
			}
			return wrong(exitUnreachable, "whoever answers at "+a.Address+" has a certificate for another name", a.err, next)
		}
	}
	for _, a := range x.attempts {
		if a.err == nil {
			return fine("good for %s", short(time.Until(a.Expires)))
		}
	}
	return passOver("the hub has shown none")
}

// verdict is the hub's word on an identity.
type verdict struct {
	device string
	err    error
}

// maxShown is how many identities are shown to the hub: it counts them.
const maxShown = 20

// ask shows identities to the hub, once. Over AMQP that is tokens alone, on a
// connection of their own, which disturb nobody. Over MQTT a connection would
// drive out the daemon's: then only its word counts.
func (x *examiner) ask(ctx context.Context) {
	if x.asked {
		return
	}
	x.asked = true
	i := slices.IndexFunc(x.attempts, func(a attempt) bool { return a.err == nil })
	if i < 0 || x.cfg.Hub.overMQTT() && x.state != nil {
		return
	}
	keys := identity.NewKeyring(x.cfg.Hub.Host)
	shown := x.identities(keys)
	cfg := *x.cfg
	cfg.Hub.Config.Config = x.attempts[i].way
	proofs := identity.NewProofs(keys, cfg.Hub.Own.DeviceID, nil, nil)
	transport, err := newTransport(&cfg, proofs, keys, x.clock, slog.New(slog.DiscardHandler))
	if err != nil {
		x.refusal = err
		return
	}
	conn, err := transport.Dial(ctx)
	if err != nil {
		x.refusal = err
		return
	}
	defer conn.Close()
	prover, ok := conn.(uplink.Prover)
	if !ok { // MQTT: whoever is let in is known
		x.verdicts = append(x.verdicts, verdict{cfg.Hub.Own.DeviceID, nil})
		return
	}
	expiry := x.clock().Wall.Add(5 * time.Minute)
	for _, device := range shown {
		token, err := keys.DeviceToken(device, expiry)
		if err == nil {
			err = prover.Prove(ctx, device, token, expiry)
		}
		x.verdicts = append(x.verdicts, verdict{device, err})
	}
}

// identities are those with keys, at most maxShown: first what the daemon says the
// hub refuses, then the gateway's own, then leaves.
func (x *examiner) identities(keys *identity.Keyring) (shown []string) {
	if own := x.cfg.Hub.Own.DeviceID; own != "" {
		keys.Put(own, x.cfg.ownKey)
		shown = append(shown, own)
	}
	for _, l := range x.cfg.leaves {
		if l.auth == identity.AuthKey && !l.Disabled && !l.key.IsZero() {
			keys.Put(l.ID, l.key)
			shown = append(shown, l.ID)
		}
	}
	if x.state != nil {
		slices.SortStableFunc(shown, func(a, b string) int {
			return cmp.Compare(len(x.state.Uplink.Refused[b]), len(x.state.Uplink.Refused[a]))
		})
	}
	return shown[:min(len(shown), maxShown)]
}

func remedyOf(err error) uplink.Remedy {
	if f, ok := errors.AsType[*uplink.Fault](err); ok {
		return f.Remedy
	}
	return uplink.BackOff
}

func (x *examiner) checkThrottling(ctx context.Context) []finding {
	x.ask(ctx)
	why := ""
	if x.state != nil {
		if u := &x.state.Uplink; u.ClosedUntil.After(x.state.Now) {
			why = "it asks the daemon to wait " + short(u.ClosedUntil.Sub(x.state.Now))
		}
	}
	for _, err := range append([]error{x.refusal}, errorsOf(x.verdicts)...) {
		if remedyOf(err) == uplink.Throttled {
			why = err.Error()
		}
	}
	switch {
	case why == "":
		return fine("no")
	case strings.Contains(strings.ToLower(why), "quota") || strings.Contains(why, "403002"):
		return wrong(exitFailed, "the messages of the day are used up: the hub takes no more before midnight UTC", errors.New(why),
			"buy more: az iot hub update -n "+x.hubName()+" --set sku.capacity=2; or send less from now on: fieldgate config set path.backfill_messages_per_day 1000")
	}
	return wrong(exitFailed, "the hub is throttling: it asks everybody to wait", errors.New(why),
		"it passes by itself; to send what waits more slowly: fieldgate config set path.backfill_messages_per_second 20")
}

func errorsOf(verdicts []verdict) (errs []error) {
	for _, v := range verdicts {
		errs = append(errs, v.err)
	}
	return errs
}

// hubName is what the vendor's tools call the hub.
func (x *examiner) hubName() string {
	name, _, _ := strings.Cut(x.cfg.Hub.Host, ".")
	if net.ParseIP(x.cfg.Hub.Host) != nil {
		return x.cfg.Hub.Host
	}
	return name
}

// maxRefused is how many refused identities are listed.
const maxRefused = 10

func (x *examiner) checkIdentities(ctx context.Context) (all []finding) {
	x.ask(ctx)
	refused := make(map[string]string)
	var taken []string
	if x.state != nil {
		maps.Copy(refused, x.state.Uplink.Refused)
		for _, leaf := range x.state.Leaves.Unknown {
			all = append(all, wrong(exitNotFound, "messages of "+leaf+" wait here, and no such leaf is configured",
				errors.New("its table or its file in leaf.d was taken away, and not by: fieldgate device remove"),
				"carry them up: fieldgate device add "+leaf+"; or let them go: fieldgate store purge --leaf "+leaf)...)
		}
		if s := &x.state.Uplink; x.cfg.Hub.overMQTT() && !s.Connected && strings.Contains(s.LastError, "CONNACK") {
			refused[x.cfg.Hub.clientID()] = s.LastError
		}
	}
	if remedyOf(x.refusal) == uplink.Refused {
		refused[x.cfg.Hub.clientID()] = x.refusal.Error()
	}
	for _, v := range x.verdicts {
		switch {
		case v.err == nil:
			delete(refused, v.device) // the daemon's word is older
			taken = append(taken, v.device)
		case remedyOf(v.err) == uplink.Refused:
			refused[v.device] = v.err.Error()
		default:
			return append(all, wrong(exitUnreachable, "the hub gives no answer about "+v.device, v.err, "see which ways are open: fieldgate netcheck")...)
		}
	}
	for _, device := range slices.Sorted(maps.Keys(refused)) {
		if len(all) == maxRefused {
			break
		}
		all = append(all, x.refused(device, refused[device])...)
	}
	switch {
	case len(all) > 0:
		return all
	case x.refusal != nil:
		return wrong(exitUnreachable, "the hub shows its certificate and says nothing after that", x.refusal, "see which ways are open: fieldgate netcheck")
	case len(taken) == 0 && x.state == nil:
		return passOver("there is none with a key of its own")
	case len(taken) == 0:
		return fine("the hub refuses none, by the daemon's account")
	}
	return fine("the hub takes %s", x.whom(taken))
}

// maxNamed is up to how many leaves are named one by one.
const maxNamed = 3

// whom says who it is that the hub takes.
func (x *examiner) whom(devices []string) string {
	var leaves, all []string
	for _, d := range devices {
		if d == x.cfg.Hub.Own.DeviceID {
			all = append(all, "the gateway ("+d+")")
		} else {
			leaves = append(leaves, d)
		}
	}
	switch n := len(leaves); {
	case n > maxNamed:
		all = append(all, fmt.Sprintf("the %d leaves that it was asked about", n))
	case n == 1:
		all = append(all, "the leaf "+leaves[0])
	case n > 1:
		all = append(all, "the leaves "+strings.Join(leaves, ", "))
	}
	return strings.Join(all, " and ")
}

// refused says what the hub's refusal of an identity means. The hub does not always
// say which of two things it is.
func (x *examiner) refused(device, why string) []finding {
	words := strings.ToLower(why)
	hub := " -n " + x.hubName() + " -d " + device
	enable := "az iot hub device-identity update" + hub + " --set status=enabled"
	key := "leaf." + device + ".key_file"
	if device == x.cfg.Hub.Own.DeviceID {
		key = "hub.key_file"
	}
	replace := "put its key, from: az iot hub device-identity connection-string show" + hub +
		", into the file that this names: fieldgate config get " + key + "; then: systemctl restart fieldgate"
	switch {
	case strings.Contains(words, "disabled") || strings.Contains(words, "403012"):
		return wrong(exitRejected, "the hub refuses "+device+": it is disabled there", errors.New(why), "enable it: "+enable)
	case strings.Contains(words, "404"):
		return wrong(exitRejected, "the hub refuses "+device+": it does not know it", errors.New(why), "register it: az iot hub device-identity create"+hub)
	case strings.Contains(words, "connack"):
		return wrong(exitRejected, "the hub refuses "+device+": wrong key, or disabled there", errors.New(why), replace+"; or enable it: "+enable)
	}
	return wrong(exitRejected, "the hub refuses "+device+": wrong key", errors.New(why), replace)
}
