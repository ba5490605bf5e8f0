// Package mapping lets firmware that cannot change its topics be a leaf: a rule
// says which topic is whose and what it carries. It knows topics and ids, and no
// connections.
package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// Kind is what a topic carries.
type Kind string

// The kinds.
const (
	Telemetry Kind = "telemetry"
	Alarm     Kind = "alarm"
	Reported  Kind = "reported" // a patch of reported properties, JSON
	Command   Kind = "command"  // where the leaf hears of commands
	Call      Kind = "call"     // where it is called, with a topic for its answer
	Desired   Kind = "desired"  // where it hears of desired changes
)

// wants is what a leaf asks for that listens on a topic of the kind; 0 is a kind of
// what leaves say.
func (k Kind) wants() gateway.Interest {
	switch k {
	case Command:
		return gateway.WantsCommands
	case Call:
		return gateway.WantsCalls
	case Desired: // firmware that cannot change asks for no twin
		return gateway.WantsDesired | gateway.CannotAsk
	}
	return 0
}

// Rule is a table [[map]] of the configuration.
type Rule struct {
	// Topic is the firmware's topic, level by level. Beside words a level may be
	// {leaf}, the leaf's id; {channel}, which as the last level stands for all
	// that follow; {name}, the name of a command, a method or a desired property; or
	// +, anything.
	Topic string `toml:"topic"`
	// Kind is "telemetry", "alarm", "reported", "command", "call" or "desired".
	Kind Kind `toml:"kind"`
	// Reply is where the firmware answers a call: the first message there is the
	// answer. It may have {leaf} and {name} as well.
	Reply string `toml:"reply"`
	// Leaf is the leaf whose topic it is, where the topic has no {leaf}. With
	// neither, it is the one that is logged in.
	Leaf string `toml:"leaf"`
	// Login is the leaf that may use the rule to speak for others, like a bridge
	// of another network. Without it each leaf speaks for itself only.
	Login string `toml:"login"`
}

// DefaultRule is a rule without its topic.
func DefaultRule() Rule { return Rule{Kind: Telemetry} }

// Placeholders of a topic.
const (
	leafLevel    = "{leaf}"
	channelLevel = "{channel}"
	nameLevel    = "{name}"
	anyLevel     = "+"
)

// Validate checks the rule. Errors are of type *gateway.KeyError.
func (r *Rule) Validate() error {
	var errs []error
	switch r.Kind {
	case Telemetry, Alarm, Reported, Command, Call, Desired:
	default:
		errs = append(errs, gateway.BadKey("kind",
			"%q is unknown: write \"telemetry\", \"alarm\", \"reported\", \"command\", \"call\" or \"desired\"", r.Kind))
	}
	hasLeaf, err := checkTopic(r.Kind, r.Topic)
	if err != nil {
		errs = append(errs, gateway.BadKey("topic", "%q: %w", r.Topic, err))
	}
	if hasLeaf && r.Leaf != "" {
		errs = append(errs, gateway.BadKey("leaf", "the topic has {leaf} already: write one of the two"))
	}
	switch {
	case r.Kind == Call:
		if _, err := checkTopic(Call, r.Reply); err != nil {
			errs = append(errs, gateway.BadKey("reply", "%q: %w", r.Reply, err))
		}
	case r.Reply != "":
		errs = append(errs, gateway.BadKey("reply", "only a call is answered: leave it out, or write kind = \"call\""))
	}
	return errors.Join(errs...)
}

func checkTopic(kind Kind, topic string) (hasLeaf bool, err error) {
	seen := make(map[string]bool)
	for i, level := range strings.Split(topic, "/") {
		if err := checkLevel(kind, level, seen, i == 0); err != nil {
			return false, err
		}
		seen[level] = true
	}
	return seen[leafLevel], nil
}

func checkLevel(kind Kind, level string, seen map[string]bool, first bool) error {
	switch {
	case level == "" && first:
		return errors.New("write the firmware's topic, like \"tele/{leaf}/{channel}\"")
	case first && (level == "leaf" || level == "devices" || level == "fieldgate" || strings.HasPrefix(level, "$")):
		return fmt.Errorf("topics that begin with %s have a meaning already", level)
	case level == leafLevel || level == channelLevel || level == nameLevel:
		if seen[level] {
			return fmt.Errorf("%s stands there twice", level)
		}
		down := kind.wants() != 0
		if level == nameLevel && !down || level == channelLevel && down {
			return fmt.Errorf("%s means nothing for kind %q", level, kind)
		}
	case level == anyLevel:
		if kind.wants() != 0 {
			return fmt.Errorf("for kind %q one topic is needed: write no +", kind)
		}
	case strings.ContainsAny(level, "{}+#\x00"):
		return fmt.Errorf("%q is no level: write a word, {leaf}, {channel}, {name} or +", level)
	}
	return nil
}

// Rules are rules in the order of the configuration. Safe for concurrent use.
type Rules struct{ list []compiled }

type compiled struct {
	Rule
	levels []string
	reply  []string // levels; nil: none
}

// Compile makes rules ready; each must be valid.
func Compile(rules []Rule) *Rules {
	all := new(Rules)
	for _, r := range rules {
		c := compiled{Rule: r, levels: strings.Split(r.Topic, "/")}
		if r.Kind == Call {
			c.reply = strings.Split(r.Reply, "/")
		}
		all.list = append(all.list, c)
	}
	return all
}

// Target is what a topic means.
type Target struct {
	Leaf    string
	Kind    Kind
	Channel string
}

// Read returns what a publication of the leaf that is logged in means; ok is false
// when no rule lets it publish there. The first rule that fits counts.
func (r *Rules) Read(login, topic string) (t Target, ok bool) {
	if r == nil || len(r.list) == 0 {
		return Target{}, false
	}
	levels := strings.Split(topic, "/")
	for i := range r.list {
		rule := &r.list[i]
		if rule.Kind.wants() != 0 {
			continue
		}
		if t, ok := rule.read(login, levels); ok {
			return t, true
		}
	}
	return Target{}, false
}

func (c *compiled) read(login string, levels []string) (Target, bool) {
	t := Target{Kind: c.Kind, Leaf: c.Leaf}
	for i, want := range c.levels {
		if i >= len(levels) {
			return Target{}, false
		}
		switch got := levels[i]; {
		case want == leafLevel:
			t.Leaf = got
		case want == channelLevel && i == len(c.levels)-1:
			t.Channel = strings.Join(levels[i:], "/")
			return c.allow(login, t)
		case want == channelLevel:
			t.Channel = got
		case want != anyLevel && want != got:
			return Target{}, false
		}
	}
	if len(levels) != len(c.levels) {
		return Target{}, false
	}
	return c.allow(login, t)
}

// allow says whether the login may speak for the leaf.
func (c *compiled) allow(login string, t Target) (Target, bool) {
	if t.Leaf == "" {
		t.Leaf = login
	}
	if c.Login != "" {
		return t, c.Login == login
	}
	return t, t.Leaf == login
}

// Speaks says whether any rule is for the leaf that is logged in.
func (r *Rules) Speaks(login string) bool {
	return r != nil && slices.ContainsFunc(r.list, func(c compiled) bool {
		return c.Login == login || c.Login == "" && (c.Leaf == "" || c.Leaf == login)
	})
}

// Listening is what a subscription asks for.
type Listening struct {
	Leaf  string           // for whom; "" with All
	All   bool             // for any leaf at all, of those for which it speaks
	Wants gateway.Interest // what
}

// Listens returns what a subscription of the leaf that is logged in asks for: for
// the leaf itself, or with a rule for a bridge for others; ok is false when no rule
// lets it subscribe there. Of rules that disagree for whom it is, the first counts.
func (r *Rules) Listens(login, filter string) (l Listening, ok bool) {
	if r == nil || len(r.list) == 0 {
		return Listening{}, false
	}
	levels := strings.Split(filter, "/")
	for i := range r.list {
		next, fits := r.list[i].listensAs(login, levels)
		switch {
		case !fits:
		case !ok:
			l, ok = next, true
		case l.Leaf == next.Leaf && l.All == next.All:
			l.Wants |= next.Wants
		}
	}
	return l, ok
}

func (c *compiled) listensAs(login string, filter []string) (l Listening, ok bool) {
	if l.Wants = c.Kind.wants(); l.Wants == 0 {
		return l, false
	}
	leaf, ok := c.listens(filter)
	switch {
	case !ok:
	case c.Login == login && leaf == "" && c.has(leafLevel):
		l.All = true
		return l, true
	case c.Login == login:
		l.Leaf = cmp.Or(leaf, login)
		return l, true
	case c.Login == "" && (leaf == login || leaf == "" && !c.has(leafLevel)):
		l.Leaf = login
		return l, true
	}
	return Listening{}, false
}

func (c *compiled) has(level string) bool {
	return slices.Contains(c.levels, level)
}

// listens matches a filter against the topic: every topic of the rule that the
// filter can match must be one of the leaf's. leaf is "" when the filter leaves
// it open.
func (c *compiled) listens(filter []string) (leaf string, ok bool) {
	leaf = c.Leaf
	for i, want := range c.levels {
		if i >= len(filter) {
			return "", false
		}
		got := filter[i]
		switch {
		case got == "#":
			return leaf, i == len(filter)-1 && i > 0
		case want == leafLevel && got != "+":
			leaf = got
		case want == leafLevel, want == nameLevel, want == got:
		default:
			return "", false
		}
	}
	return leaf, len(filter) == len(c.levels)
}

// Way is how something reaches a leaf by a rule.
type Way struct {
	Topic string
	Reply string // where the answer to a call comes
	Named bool   // the name stands in the topic
}

// Way returns how what is of that kind and name reaches the leaf when this login
// carries it; ok is false when no rule says so. The name must be fit for a level.
func (r *Rules) Way(kind Kind, login, leaf, name string) (w Way, ok bool) {
	if r == nil {
		return Way{}, false
	}
	for i := range r.list {
		rule := &r.list[i]
		if rule.Kind != kind || rule.Login != login && (rule.Login != "" || leaf != login) {
			continue
		}
		if rule.Leaf != "" && rule.Leaf != leaf {
			continue
		}
		if rule.Leaf == "" && !rule.has(leafLevel) && leaf != login {
			continue // it is the login's own
		}
		return Way{fill(rule.levels, leaf, name), fill(rule.reply, leaf, name), rule.has(nameLevel)}, true
	}
	return Way{}, false
}

// fill writes a topic.
func fill(levels []string, leaf, name string) string {
	levels = slices.Clone(levels)
	for i, level := range levels {
		switch level {
		case leafLevel:
			levels[i] = leaf
		case nameLevel:
			levels[i] = name
		}
	}
	return strings.Join(levels, "/")
}

// Answers says whether the leaf that is logged in may answer calls on the topic.
func (r *Rules) Answers(login, topic string) bool {
	if r == nil {
		return false
	}
	levels := strings.Split(topic, "/")
	return slices.ContainsFunc(r.list, func(c compiled) bool {
		if len(c.reply) != len(levels) || c.Login != "" && c.Login != login {
			return false
		}
		for i, want := range c.reply {
			switch {
			case want == nameLevel, want == levels[i], want == leafLevel && (c.Login != "" || levels[i] == login):
			default:
				return false
			}
		}
		return true
	})
}
