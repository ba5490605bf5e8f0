package gateway

import "time"

// Forecast says what the store comes to if things go on as in the last minutes.
// What is not known is left out: nil is "unknown", never a guess.
type Forecast struct {
	// BufferLeft is how long the store would last from now if the hub took nothing
	// more: the shortest of the lanes, room left by the rate at which messages came
	// in. Unknown while nothing comes in.
	BufferLeft *time.Duration
	// DrainTime is how long the backlog needs to be gone: messages stored by the
	// rate at which they became fewer. 0 with no backlog; unknown while they do
	// not become fewer, or the link is down.
	DrainTime *time.Duration
	// WrittenLastDay is what was written to flash in the last 24 hours, or since
	// the start where that is less, in bytes.
	WrittenLastDay int64
}

// The windows of the forecasts. Rates come from samples at most rateWindow old
// and at least rateBasis apart.
const (
	sampleEvery = 10 * time.Second
	rateWindow  = 5 * time.Minute
	rateBasis   = 30 * time.Second
	dayStep     = 15 * time.Minute
)

// sample is what is counted at one moment.
type sample struct {
	at     time.Time
	stored int          // messages
	taken  [Lanes]int64 // bytes, since start
	linkUp bool
}

// forecaster keeps the samples.
type forecaster struct {
	samples []sample // the oldest first
	written []flash  // one every dayStep; the oldest first, the first is the start
}

// flash is what was written until a moment.
type flash struct {
	at    time.Time
	bytes int64
}

// add takes a sample; now grows.
func (f *forecaster) add(s sample, written int64) {
	if n := len(f.samples); n == 0 || s.at.Sub(f.samples[n-1].at) >= sampleEvery {
		f.samples = append(f.samples, s)
		for s.at.Sub(f.samples[0].at) > rateWindow {
			f.samples = f.samples[1:]
		}
	}
	if n := len(f.written); n == 0 || s.at.Sub(f.written[n-1].at) >= dayStep {
		f.written = append(f.written, flash{s.at, written})
		for len(f.written) > 1 && s.at.Sub(f.written[1].at) >= 24*time.Hour {
			f.written = f.written[1:]
		}
	}
}

// forecast looks at the store as it is now.
func (f *forecaster) forecast(now sample, store StoreState) Forecast {
	var out Forecast
	if len(f.written) > 0 {
		out.WrittenLastDay = store.BytesWritten - f.written[0].bytes
	}
	if now.stored == 0 {
		out.DrainTime = new(time.Duration)
	}
	if len(f.samples) == 0 || now.at.Sub(f.samples[0].at) < rateBasis {
		return out
	}
	first := f.samples[0]
	for l, lane := range store.Lanes {
		out.BufferLeft = shorter(out.BufferLeft, timeFor(lane.Limit-lane.Bytes, now.taken[l]-first.taken[l], now.at.Sub(first.at)))
	}
	if now.stored > 0 && now.linkUp {
		// The rate is that since the link is up: before, nothing could drain.
		for i := len(f.samples) - 1; i >= 0 && f.samples[i].linkUp; i-- {
			first = f.samples[i]
		}
		if first.linkUp && now.at.Sub(first.at) >= rateBasis {
			out.DrainTime = timeFor(int64(now.stored), int64(first.stored-now.stored), now.at.Sub(first.at))
		}
	}
	return out
}

// maxForecast is as far as a forecast goes: beyond it, it says so much.
const maxForecast = 10 * 365 * 24 * time.Hour

// timeFor says how long amount takes where done took the time given; nil when
// nothing was done.
func timeFor(amount, done int64, took time.Duration) *time.Duration {
	if done <= 0 {
		return nil
	}
	d := time.Duration(min(float64(max(0, amount))/float64(done)*float64(took), float64(maxForecast)))
	return &d
}

func shorter(a, b *time.Duration) *time.Duration {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}

// sampleLocked takes a sample of the path.
func (p *Path) sampleLocked(at time.Time, store StoreState) sample {
	s := sample{at: at, taken: p.counts.takenBytes, linkUp: p.linkUp}
	for _, l := range store.Lanes {
		s.stored += l.Messages
	}
	return s
}
