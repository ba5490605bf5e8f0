package hubsim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/reader"
)

// bound is how long a stock client may take for a few messages.
const bound = time.Minute

// node runs a script with the vendor's packages and returns what it prints, a
// JSON object a line.
func node(t *testing.T, env []string, script string, args ...string) []map[string]any {
	t.Helper()
	dir := filepath.Join("..", "node")
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the vendor's Node packages are missing: %v", err)
		}
		t.Skip("the vendor's Node packages are not installed: run make setup")
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %s: %v\n%s%s", script, err, out, stderr.Bytes())
	}
	var list []map[string]any
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		var object map[string]any
		if err := json.Unmarshal(in.Bytes(), &object); err != nil {
			t.Fatalf("node %s printed %q: %v", script, in.Text(), err)
		}
		list = append(list, object)
	}
	return list
}

// The vendor's device SDK sends, the vendor's Event Hubs SDK and our own reader
// read: none of them can tell the bench from the hub.
func TestStockClients(t *testing.T) {
	h := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	info := h.Info()
	device := fmt.Sprintf("%s;GatewayHostName=127.0.0.1:%d", info.Devices["pump-1"].ConnectionString, info.AMQPPort)
	const n = 5
	if got := node(t, nil, "hub-send.js", device, info.CAFile, fmt.Sprint(n)); len(got) != n {
		t.Fatalf("%d messages accepted, want %d", len(got), n)
	}

	t.Run("event-hubs", func(t *testing.T) {
		said := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-read.js", info.EventHubConnectionString, fmt.Sprint(n))
		checkPartitions(t, said[0], n)
		events := said[1:]
		if len(events) != n {
			t.Fatalf("%d events, want %d", len(events), n)
		}
		for i, e := range events {
			system := e["system"].(map[string]any)
			properties := e["properties"].(map[string]any)
			body := e["body"].(map[string]any)
			for _, c := range []struct {
				what      string
				got, want any
			}{
				{"device", system["iothub-connection-device-id"], "pump-1"},
				{"source", system["iothub-message-source"], "Telemetry"},
				{"encoding", system["contentEncoding"], "utf-8"},
				{"message id", e["messageId"], fmt.Sprintf("message-%d", i+1)},
				{"correlation id", e["correlationId"], "of-the-test"},
				{"content type", e["contentType"], "application/json"},
				{"property", properties["color"], "grün & blue"},
				{"body", body["n"], float64(i + 1)},
				{"sequence", e["sequence"], float64(i)},
			} {
				if c.got != c.want {
					t.Errorf("event %d: %s is %v, want %v", i, c.what, c.got, c.want)
				}
			}
		}
	})

	t.Run("reader", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		r, err := reader.Open(ctx, info.EventHubConnectionString, info.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := range n {
			e, err := r.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if e.Device != "pump-1" || e.MessageID != fmt.Sprintf("message-%d", i+1) ||
				string(e.Body) != fmt.Sprintf(`{"n":%d}`, i+1) || e.Properties["color"] != "grün & blue" ||
				e.ContentType != "application/json" || e.Sequence != int64(i) || time.Since(e.Enqueued) > bound {
				t.Errorf("event %d is %+v", i, e)
			}
		}
	})
}

// checkPartitions looks at what the hub says of its partitions when one of them
// has n events and the others have none.
func checkPartitions(t *testing.T, said map[string]any, n int) {
	t.Helper()
	used := 0
	for _, p := range said["properties"].([]any) {
		p := p.(map[string]any)
		if p["eventHubName"] != "messages/events" {
			t.Errorf("partition of %v", p["eventHubName"])
		}
		if p["isEmpty"] == true {
			continue
		}
		used++
		if p["beginningSequenceNumber"] != 0.0 || p["lastEnqueuedSequenceNumber"] != float64(n-1) {
			t.Errorf("partition with %d events: got %v", n, p)
		}
	}
	if used != 1 {
		t.Errorf("%d partitions have events, want 1: %v", used, said)
	}
}
