package commands_test

import (
	"encoding/json"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var pump = registry.ID{Device: "pump"}

// bench is queues together with the feedback they write, a record a notice.
type bench struct {
	*commands.Queues
	feedback *commands.Notices
}

// run runs f in a bubble, where time passes only while all wait.
func run(t *testing.T, cfg commands.Config, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := open(cfg)
		defer b.close()
		f(t, b)
	})
}

func open(cfg commands.Config) *bench {
	feedback := commands.NewNotices(commands.Config{}, 1, 0)
	generation := func(id registry.ID) string { return "generation of " + id.String() }
	return &bench{commands.New(cfg, feedback, generation), feedback}
}

func (b *bench) close() {
	b.Close()
	b.feedback.Close()
}

// send queues messages with the names given as id and body.
func (b *bench) send(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := b.Send(pump, &message.Message{ID: name, Ack: "full", Body: []byte(name)}); err != nil {
			t.Fatalf("sending %s: %v", name, err)
		}
	}
}

// receive takes the next message, which must be the one named.
func (b *bench) receive(t *testing.T, name string) commands.Delivery {
	t.Helper()
	d, ok := b.Receive(pump)
	if !ok {
		t.Fatalf("nothing to receive, want %s", name)
	}
	if string(d.Message.Body) != name {
		t.Fatalf("received %s, want %s", d.Message.Body, name)
	}
	return d
}

func (b *bench) nothing(t *testing.T) {
	t.Helper()
	if d, ok := b.Receive(pump); ok {
		t.Fatalf("received %s, want nothing", d.Message.Body)
	}
}

// report is what a feedback record says.
type report struct {
	ID          string    `json:"originalMessageId"`
	Time        time.Time `json:"enqueuedTimeUtc"`
	Status      string    `json:"statusCode"`
	Description string    `json:"description"`
	Device      string    `json:"deviceId"`
	Generation  string    `json:"deviceGenerationId"`
}

// reports takes all feedback, "id status" each, in order, when everything that
// is due has happened.
func (b *bench) reports(t interface{ Fatalf(string, ...any) }) []string {
	synctest.Wait()
	var list []string
	for {
		d, ok := b.feedback.Receive()
		if !ok {
			return list
		}
		var r report
		if err := json.Unmarshal(d.Message.Body, &r); err != nil {
			t.Fatalf("feedback %s: %v", d.Message.Body, err)
		}
		if err := b.feedback.Complete(d.LockToken); err != nil {
			t.Fatalf("completing feedback: %v", err)
		}
		list = append(list, r.ID+" "+r.Status)
	}
}

func (b *bench) wantReports(t *testing.T, want ...string) {
	t.Helper()
	if got := b.reports(t); !slices.Equal(got, want) {
		t.Errorf("feedback %q, want %q", got, want)
	}
}

// want checks an error; the code 0 stands for none.
func want(t *testing.T, err error, code int) {
	t.Helper()
	if got := codeOf(err); got != code {
		t.Errorf("error %v, want code %d", err, code)
	}
}

func codeOf(err error) int {
	if err == nil {
		return 0
	}
	return refusal.Of(err).Code
}
