package rows

import (
	"fmt"
	"strconv"
	"sync"
	"time"
)

// verdicts is a leaf of MQTT 5 that completes, rejects and abandons commands in
// turn; what it has abandoned it completes when it comes again.
type verdicts struct {
	b *bench

	mu       sync.Mutex
	came     map[int][]time.Time // guarded by mu, like what follows
	total    int
	last     time.Time
	sessions int // connections that found no session
}

func (v *verdicts) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.total
}

// judging begins; it ends with the test.
func (v *verdicts) judging(b *bench) {
	v.b, v.came = b, make(map[int][]time.Time)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b.ctx.Err() == nil {
			v.live()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	b.t.Cleanup(func() { <-ended })
}

// live is one connection.
func (v *verdicts) live() {
	w, code, present, err := v.b.enter(v.b.broker, hello{version: 5, client: judge, user: judge, password: password(judge), keep: true})
	if err != nil {
		return // the gateway is away
	}
	defer w.c.Close()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-v.b.ctx.Done():
			w.c.Close()
		case <-over:
		}
	}()
	if code != 0 {
		v.b.t.Errorf("the judge is not let in: %d", code)
		return
	}
	if !present {
		v.mu.Lock()
		v.sessions++
		v.mu.Unlock()
		if granted, err := w.listen("leaf/"+judge+"/command/+", 1); err != nil || granted != 1 {
			return
		}
	}
	for {
		p, err := w.until(publish)
		if err != nil {
			return
		}
		topic, packetID, body := w.publication(p)
		n, err := strconv.Atoi(string(body))
		if err != nil || topic != "leaf/"+judge+"/command/message" {
			v.b.t.Errorf("the judge got %q on %q", body, topic)
			continue
		}
		if err := w.answer(packetID, v.verdict(n)); err != nil {
			return
		}
	}
}

func (v *verdicts) verdict(n int) (reason byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.total++
	if gap := time.Since(v.last); v.total > 1 && gap > 3*time.Second {
		v.b.t.Logf("the judge heard nothing for %v, until command %d, at %v", gap, n, time.Now())
	}
	v.last = time.Now()
	v.came[n] = append(v.came[n], time.Now())
	switch {
	case n%3 == 1:
		return 0x83 // implementation specific: rejected
	case n%3 == 2 && len(v.came[n]) == 1:
		return 0x97 // quota exceeded: abandoned
	}
	return 0
}

func (p *play) judgeVerdicts() string {
	total := p.commands(judge)
	p.verdicts.mu.Lock()
	defer p.verdicts.mu.Unlock()
	counts := make(map[string]int)
	again := 0
	for n := 1; n <= total; n++ {
		want, least := "Success", 1
		switch n % 3 {
		case 1:
			want = "Rejected"
		case 2:
			least = 2
		}
		came := p.came[n]
		if len(came) < least {
			p.t.Errorf("the judge got command %d %d times", n, len(came))
		}
		again += len(came) - least
		p.mu.Lock()
		told := p.feedback[fmt.Sprintf("%s/%d", judge, n)]
		p.mu.Unlock()
		if len(told) != 1 || told[0].status != want {
			p.t.Errorf("the judge's word on %d: feedback %+v, want %s", n, told, want)
			continue
		}
		counts[want]++
		p.notAfter(judge, n, told[0].at, came)
	}
	if again > window*len(p.kills) {
		p.t.Errorf("%d commands came to the judge again in %d kills", again, len(p.kills))
	}
	if p.sessions != 1 {
		p.t.Errorf("%d connections of the judge found no session, want the first only", p.sessions)
	}
	return fmt.Sprintf("%d commands, feedback %v, %d came again after a kill", total, counts, again)
}
