package rows

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// stock is one leaf of the vendor's SDK, see gateway-rows.js.
type stock struct {
	ID         string  `json:"id"`
	Row        string  `json:"row"`
	Transport  string  `json:"transport"`
	Connection string  `json:"connection"`
	Renew      float64 `json:"renew,omitempty"` // seconds
}

// said is what a leaf says.
type said struct {
	Leaf       string            `json:"leaf"`
	Ready      bool              `json:"ready"`
	Done       bool              `json:"done"`
	Sent       int               `json:"sent"`
	Command    *string           `json:"command"`
	Properties map[string]string `json:"properties"`
	Method     int               `json:"method"`
	Payload    json.RawMessage   `json:"payload"`
	Reported   int               `json:"reported"`
	Desired    map[string]any    `json:"desired"`
	Twin       *struct {
		Desired, Reported map[string]any
	} `json:"twin"`
	MS       float64 `json:"ms"`
	Uploaded string  `json:"uploaded"`
	Tries    int     `json:"tries"`
	Failed   string  `json:"failed"`
	Why      string  `json:"why"`

	at time.Time
}

// progress says that something was done.
func (s *said) progress() bool {
	return s.Sent > 0 || s.Command != nil || s.Method > 0 || s.Reported > 0 || s.Desired != nil || s.Twin != nil || s.Uploaded != ""
}

// crew is a process full of leaves.
type crew struct {
	b  *bench
	in io.WriteCloser

	mu    sync.Mutex
	lines map[string][]said // by leaf, guarded by mu
}

func nodeScripts(t *testing.T) (node, scripts string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		need(t, "node is not installed")
	}
	scripts, err = filepath.Abs("../../node")
	must(t, err)
	if _, err := os.Stat(filepath.Join(scripts, "node_modules", "azure-iot-device-mqtt")); err != nil {
		need(t, "test/node has no node_modules: run npm ci there")
	}
	return node, scripts
}

// connection is the connection string of a leaf that finds the gateway by
// GatewayHostName.
func (b *bench) connection(leaf, transport string) string {
	gateway := strings.Replace(b.broker, "127.0.0.1", "localhost", 1)
	if transport == "mqtt-ws" {
		gateway = b.socket
	}
	return b.hub.Info().Devices[leaf].ConnectionString + ";GatewayHostName=" + gateway
}

// board starts leaves and waits until all of them are ready.
func (b *bench) board(leaves []stock) *crew {
	b.t.Helper()
	node, scripts := nodeScripts(b.t)
	text, err := json.Marshal(leaves)
	must(b.t, err)
	cmd := exec.CommandContext(b.ctx, node, filepath.Join(scripts, "gateway-rows.js"), b.write("leaves.json", string(text)), b.file("leaf-ca.pem"))
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+b.file("leaf-ca.pem"), "NODE_NO_WARNINGS=1")
	cmd.Stderr = b.t.Output()
	c := &crew{b: b, lines: make(map[string][]said)}
	c.in, err = cmd.StdinPipe()
	must(b.t, err)
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	must(b.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.follow(out)
	}()
	b.t.Cleanup(func() {
		c.in.Close()
		<-ended
		if err := cmd.Wait(); err != nil && b.ctx.Err() == nil {
			b.t.Errorf("the SDK's leaves: %v", err)
		}
	})
	for _, l := range leaves {
		b.await(l.ID+" to be ready", func() bool { return c.count(l.ID, func(s *said) bool { return s.Ready }) > 0 })
	}
	return c
}

func (c *crew) follow(out io.Reader) {
	save, err := os.Create(c.b.file("leaves.jsonl"))
	if err != nil {
		c.b.t.Error(err)
		return
	}
	defer save.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s := said{at: time.Now()}
		fmt.Fprintf(save, "%s %s\n", s.at.Format("15:04:05.000"), lines.Bytes())
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			c.b.t.Errorf("the leaves say %q", lines.Text())
			continue
		}
		c.mu.Lock()
		c.lines[s.Leaf] = append(c.lines[s.Leaf], s)
		c.mu.Unlock()
	}
}

// heard returns what a leaf has said so far.
func (c *crew) heard(leaf string) []said {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines[leaf][:len(c.lines[leaf]):len(c.lines[leaf])]
}

func (c *crew) count(leaf string, is func(*said) bool) (n int) {
	for _, s := range c.heard(leaf) {
		if is(&s) {
			n++
		}
	}
	return n
}

func (c *crew) progress(leaf string) int { return c.count(leaf, (*said).progress) }

// stop has all leaves finish what they are at, and waits for it.
func (c *crew) stop(leaves []stock) {
	c.b.t.Helper()
	_, err := io.WriteString(c.in, "stop\n")
	must(c.b.t, err)
	for _, l := range leaves {
		c.b.await(l.ID+" to be done", func() bool { return c.count(l.ID, func(s *said) bool { return s.Done }) > 0 })
	}
}
