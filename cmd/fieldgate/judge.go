package main

import (
	"fmt"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// growth is what has grown since a view has looked before. One that looks once knows
// nothing of that.
type growth struct {
	rejected  bool // messages are turned away, for the store is full
	displaced bool // the oldest are lost, for the store is full
}

// judgement is what is wrong, and what becomes of messages, the worst first.
type judgement struct {
	tone  tone // of the worst
	said  []string
	check bool // "fieldgate check" says more about it, and what to do
}

// sentence is all of it in one.
func (j *judgement) sentence() string {
	text := strings.Join(j.said, "; ")
	switch {
	case text == "":
		return allIsWell
	case j.check:
		return text + ". What to do: fieldgate check"
	}
	return text + ", all else is well"
}

const allIsWell = "all is well"

// judge is the only one who judges: what status, top and the message of the day say is
// this.
func (st *state) judge(grows growth) (j judgement) {
	j.tone = goodTone
	say := func(t tone, format string, a ...any) {
		j.tone, j.said = max(j.tone, t), append(j.said, fmt.Sprintf(format, a...))
	}
	switch full := st.fullness(grows); {
	case failing(st) != "":
		say(badTone, "NOTHING CAN BE KEPT HERE: %s", inShort(st.Store.Failing))
	case full.tone == badTone && strings.Contains(full.text, "oldest"):
		say(badTone, "THE STORE IS FULL: the oldest messages are lost")
	case full.tone == badTone:
		say(badTone, "THE STORE IS FULL: no more is taken, leaves have to wait with theirs")
	case !st.Uplink.Connected && st.Store.BufferLeft != nil && *st.Store.BufferLeft > 0:
		say(badTone, "the hub is not reached; messages are kept here, there is room for %s", guess(st.Store.BufferLeft))
	case !st.Uplink.Connected:
		say(badTone, "the hub is not reached; messages are kept here")
	case full.tone == warnTone:
		say(warnTone, "the store is nearly full")
	}
	if st.Uplink.Connected && st.Uplink.OwnRefused != "" {
		say(badTone, "the hub refuses the gateway's own device")
	}
	if n := st.Leaves.Refused; n > 0 {
		say(badTone, "the hub refuses %s, whose messages are kept here", count(n, "leaf", "leaves"))
	}
	switch unknown := st.Leaves.Unknown; len(unknown) {
	case 0:
	case 1:
		say(badTone, "messages of %s wait here, and no such leaf is configured", unknown[0])
	default:
		say(badTone, "messages of %d leaves wait here that are not configured", len(unknown))
	}
	down := 0
	for i := range st.Drivers {
		if !st.Drivers[i].Up {
			down++
		}
	}
	if down > 0 {
		say(badTone, "%s down", count(down, "port is", "ports are"))
	}
	if len(st.Board.Throttled) > 0 {
		say(warnTone, "the board is slowed: %s", strings.Join(st.Board.Throttled, ", "))
	}
	if st.Clock != gateway.Synced.String() {
		say(warnTone, "the clock is not set by the network")
	}
	j.check = len(j.said) > 0
	if n := st.Leaves.Away; n > 0 {
		say(warnTone, "%s away", count(n, "leaf is", "leaves are"))
	}
	return j
}

// fullness says loudly that a bound is reached. With a link that stands it is only where
// messages are turned away: the others go to the hub, however much lies here.
func (st *state) fullness(grows growth) span {
	lane, filled := st.worstLane()
	switch {
	case grows.rejected, st.bound() != "" && !st.Uplink.Connected:
		return span{badTone, "FULL, leaves wait: "}
	case grows.displaced:
		return span{badTone, "FULL, oldest go: "}
	case filled >= 0.9:
		return span{warnTone, fmt.Sprintf("%s %.0f%% FULL: ", lane, 100*filled)}
	}
	return span{}
}
