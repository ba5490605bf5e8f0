package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/store"
)

// A running gateway takes over a changed configuration in one go. First everything
// that can fail is done beside what runs: reading, checking, loading certificates.
// Then the parts are told, one after the other, and nothing can stand in the way but a
// store that cannot be read. A change that cannot be made while
// it runs is not made in part: then nothing changes, and whoever asked is told which
// keys are the reason.

// needsRestart is the error of a configuration that differs in keys that count only
// when the gateway starts again. Nothing of it was taken over.
type needsRestart []string

func (keys needsRestart) Error() string {
	return "counts only when the gateway starts again: " + strings.Join(keys, ", ")
}

// reloader changes the configuration of a gateway that runs. Not safe for concurrent
// use: the applier keeps its calls apart.
type reloader struct {
	g     *assembly
	file  string
	store *store.Store
	keys  *identity.Keyring
	proof *identity.Proofs

	says   *settings         // what the files said when they were last taken over
	prints map[string]string // of the files that are read only then
}

// newReloader makes one for a gateway of this configuration.
func newReloader(g *assembly, s *store.Store, keys *identity.Keyring, proofs *identity.Proofs) *reloader {
	return &reloader{g: g, file: g.cfg.file, store: s, keys: keys, proof: proofs, says: g.cfg.says, prints: g.cfg.prints}
}

// obey does what a signal asks for, and says how it went in the log. It returns the
// configuration if that counts now, else nil.
func (r *reloader) obey() *config {
	unlock, err := lockFolder(r.g.cfg.folder())
	if err != nil {
		r.g.log.Error("configuration is as it was", "error", err)
		return nil
	}
	defer unlock()
	next, err := loadRunning(r.file, nil)
	if err != nil {
		r.g.log.Error("configuration is as it was", "error", err, "next", "fieldgate config validate "+r.file)
		return nil
	}
	changed, _, err := r.takeOver(next)
	switch {
	case len(changed) == 0 && err == nil:
		r.g.log.Info("configuration is taken over", "changed", "nothing")
	case err == nil:
		r.g.log.Info("configuration is taken over", "changed", keysOf(changed))
	default:
		r.g.log.Error("configuration is as it was", "error", err)
		return nil
	}
	return next
}

func keysOf(all []differing) string {
	names := make([]string, len(all))
	for i, d := range all {
		names[i] = d.Key
	}
	return strings.Join(names, " ")
}

// compare says in what a configuration differs from the one that runs, and which of
// the keys need a restart. Files that keys name count as their keys.
func (r *reloader) compare(next *config) (changed []differing, restart needsRestart) {
	changed = difference(r.says, next.says)
	for _, key := range watchedFiles {
		if r.prints[key] != next.prints[key] && !slices.ContainsFunc(changed, func(d differing) bool { return d.Key == key }) {
			one := next.says.byName()[key]
			changed = append(changed, differing{key, one.seen(), one.seen(), one.changeWord()})
		}
	}
	for _, d := range changed {
		if d.Change == changeRestart {
			restart = append(restart, d.Key)
		}
	}
	return changed, restart
}

// wrote is told of a leaf whose table the gateway itself has written, changed or removed,
// and that counts by now: it is no change that waits to be applied.
func (r *reloader) wrote(id string) error {
	was := r.says.leaf(id)
	now, err := (leafFiles{config: r.file}).find(id)
	if err != nil {
		return err
	}
	says := r.says
	switch {
	case now != nil && was == nil && strings.HasSuffix(now.file, leafSuffix):
		var text []byte
		if text, err = os.ReadFile(now.file); err == nil {
			says, err = says.with(now.file, text)
		}
	case now == nil && was != nil && strings.HasSuffix(was.file, leafSuffix):
		says, err = says.with(was.file, nil)
	}
	if err == nil {
		r.says = says
	}
	return err
}

// altered is told of a key of a leaf's table that the gateway itself has written.
func (r *reloader) altered(id, key, value string) error {
	at := r.says.leaf(id)
	if at == nil {
		return nil
	}
	text, err := at.beside(r.says.texts[at.file], key, value)
	if err != nil {
		return err
	}
	says, err := r.says.with(at.file, text)
	if err == nil {
		r.says = says
	}
	return err
}

// takeOver makes a configuration count, and returns in what it differs from the one
// before, and whether the connection to the hub is replaced for it. The error is of type needsRestart if it cannot; after that and after
// every other error nothing has changed.
func (r *reloader) takeOver(next *config) (changed []differing, renewed bool, err error) {
	changed, restart := r.compare(next)
	if len(restart) > 0 {
		return changed, false, restart
	}
	if renewed, err = r.tell(next, changed); err != nil {
		return changed, false, err
	}
	r.says, r.prints = next.says, next.prints
	for _, w := range next.warnings {
		r.g.log.Warn("configuration", "at", w.Place(), "warning", w.Message)
	}
	return changed, renewed, nil
}

// tell tells all parts. renewed says that the connection to the hub is replaced.
func (r *reloader) tell(next *config, changed []differing) (renewed bool, err error) {
	g := r.g
	link := slices.ContainsFunc(changed, func(d differing) bool {
		table, _, _ := strings.Cut(d.Key, ".")
		return d.Change == changeReconnect && (table == "hub" || table == "uplink")
	})
	transport, err := newTransport(next, r.proof, r.keys, g.clock, g.log.With("part", "uplink"))
	if err != nil {
		return false, err
	}
	files, err := fileClient(next, g.clock)
	if err != nil {
		return false, err
	}
	enroller, err := newEnroller(next, g.clock)
	if err != nil {
		return false, err
	}
	if err := g.broker.Configure(next.Broker); err != nil {
		return false, err
	}
	g.level.Set(next.Log.Level)
	r.store.ConfigureLanes(next.Store.Lanes)
	g.path.Configure(next.Path)
	g.twins.Configure(next.Twin)
	g.files.Configure(next.Upload)
	if slices.ContainsFunc(changed, func(d differing) bool { return strings.HasPrefix(d.Key, "module") }) {
		g.path.SetModules(next.modules)
		g.down.SetModules(next.modules)
	}
	g.broker.SetRules(rulesOf(next))
	g.broker.SetMayListen(listeningOf(next))
	reproven := r.tellLeaves(next)
	if err := g.fleet.follow(next); err != nil { // it was checked, so that it cannot be
		g.log.Error("drivers are as they were", "error", err)
	}
	if own := next.Hub.Own.DeviceID; own != "" {
		r.keys.Put(own, next.ownKey)
	}
	if link {
		g.fileClient.Store(files)
		r.proof.SetEnroller(enroller)
	}
	renewed = link || reproven
	if renewed {
		g.uplink.Renew(next.Uplink, transport)
	}
	return renewed, nil
}

// tellLeaves admits, changes and removes leaves. reproven says that one that was
// known before is proven to the hub in another way. One of which the store cannot tell
// whether it is enrolled stays as it was. The folder of the configuration must be
// locked.
func (r *reloader) tellLeaves(next *config) (reproven bool) {
	roster := r.g.roster
	stays := make(map[string]bool)
	for _, l := range next.leaves {
		stays[l.ID] = true
		old, known := roster.leaf(l.ID)
		if known && l.same(&old) {
			continue
		}
		reproven = reproven || known && l.reproven(&old)
		if err := roster.admit(l); err != nil {
			r.g.log.Error("leaf is as it was", "leaf", l.ID, "error", err)
		}
	}
	for _, l := range roster.all() {
		if !stays[l.ID] {
			if err := (leafFiles{r.file, r.g.cfg.sealed}).keepProof(next, &l); err != nil {
				r.g.log.Error("what the leaf has left here can be sent until the next start only", "leaf", l.ID, "error", err)
			}
			roster.dismiss(l.ID)
		}
	}
	return reproven
}

// reproven says that the leaf is proven to the hub in another way than before.
func (l *leaf) reproven(before *leaf) bool {
	return l.auth != before.auth || !l.key.Equal(before.key)
}

// unproven are the leaves that have to be proven to the hub in another way with a
// configuration than they are now, and why the hub does not know yet. Those that bring
// their own tokens are not among them, and over MQTT only the gateway is proven.
func (r *reloader) unproven(next *config) map[string]string {
	all := make(map[string]string)
	for _, l := range next.leaves {
		old, known := r.g.roster.leaf(l.ID)
		if known && l.reproven(&old) && l.auth != identity.AuthRelay && !next.Hub.overMQTT() {
			all[l.ID] = "there was no time for it"
		}
	}
	return all
}

// provesAtOnce is for how many leaves the hub is asked at once.
const provesAtOnce = 16

// prove shows the hub tokens of leaves, and returns those that it has not accepted
// before ctx ended, and why.
func (r *reloader) prove(ctx context.Context, leaves map[string]string) (left map[string]string) {
	var mu sync.Mutex // guards left
	left = maps.Clone(leaves)
	var all errgroup.Group
	all.SetLimit(provesAtOnce)
	for leaf := range leaves {
		all.Go(func() error {
			why := r.proveOne(ctx, leaf)
			mu.Lock()
			defer mu.Unlock()
			if why == "" {
				delete(left, leaf)
			} else if ctx.Err() == nil {
				left[leaf] = why
			}
			return nil
		})
	}
	_ = all.Wait() // there is none
	return left
}

// proveOne shows the hub a token of a leaf and returns why it has not accepted it, ""
// if it has.
func (r *reloader) proveOne(ctx context.Context, leaf string) (why string) {
	now := r.g.clock().Wall
	token, expiry, err := r.proof.Token(ctx, leaf, now, now.Add(r.g.cfg.Hub.TokenTTL.D()))
	if err != nil {
		return err.Error()
	}
	accepted, err := r.g.uplink.Prove(ctx, r.proof.Identity(leaf), token, expiry)
	switch {
	case err != nil:
		return err.Error()
	case !accepted:
		r.proof.Refused(leaf)
		return "its token was refused"
	}
	return ""
}

// same says whether nothing about a leaf has changed for the table and the proofs.
func (l *leaf) same(o *leaf) bool {
	return l.ID == o.ID && l.Disabled == o.Disabled && l.Password == o.Password && l.Thumbprints == o.Thumbprints &&
		l.Key.Equal(o.Key) && l.auth == o.auth && l.key.Equal(o.key) && slices.Equal(l.mayListen, o.mayListen) && l.standIn == o.standIn
}

// rulesOf compiles the rules of a configuration; nil is none.
func rulesOf(c *config) *mapping.Rules {
	if len(c.rules) == 0 {
		return nil
	}
	return mapping.Compile(c.rules)
}

// listeningOf says to which leaves logins may listen.
func listeningOf(c *config) map[string][]string {
	all := make(map[string][]string)
	for _, l := range c.leaves {
		if len(l.mayListen) > 0 {
			all[l.ID] = l.mayListen
		}
	}
	return all
}

// watchedFiles are the keys that name files whose content is read once, when the key
// counts. Those of leaves and listeners are read at every turn.
var watchedFiles = []string{
	"hub.ca_file", "hub.proxy_password_file", "hub.password_file", "hub.key_file", "enrol.group_key_file", "enrol.policy_key_file",
}

// printsOf says by key what is in those files, without giving it away.
func printsOf(c *config) map[string]string {
	prints := make(map[string]string)
	for key, file := range map[string]string{
		"hub.ca_file": c.Hub.CAFile, "hub.proxy_password_file": c.Hub.ProxyPasswordFile,
		"hub.password_file": c.Hub.Broker.PasswordFile, "hub.key_file": c.Hub.Own.KeyFile,
		"enrol.group_key_file": c.Enrol.GroupKeyFile, "enrol.policy_key_file": c.Enrol.PolicyKeyFile,
	} {
		if text, err := os.ReadFile(c.resolve(file)); file != "" && err == nil {
			prints[key] = fmt.Sprintf("%x", sha256.Sum256(bytes.TrimSpace(text)))
		}
	}
	return prints
}

// live is what changes in an assembly that runs.
type live struct {
	level      *slog.LevelVar
	fileClient atomic.Pointer[http.Client] // to the hub over HTTPS, for files
}

// Do sends a request the way that counts now.
func (l *live) Do(r *http.Request) (*http.Response, error) { return l.fileClient.Load().Do(r) }
