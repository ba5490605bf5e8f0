package hubsim_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// ownerToken is a token of the policy that may do everything.
func ownerToken(t *testing.T, h *hubsim.Hub) string {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(h.Domain().Registry.Policy("iothubowner").PrimaryKey)
	if err != nil {
		t.Fatal(err)
	}
	return sas.New(h.Info().Host, "iothubowner", key, time.Now().Add(time.Hour))
}

// caOf trusts the hub's authority.
func caOf(t *testing.T, h *hubsim.Hub) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(h.Info().CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool}
}

// raw sends bytes to the HTTPS port as they are and returns the answer; nil when
// the hub closed the connection without one.
func raw(t *testing.T, h *hubsim.Hub, request string) *http.Response {
	t.Helper()
	info := h.Info()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(info.HTTPSPort))
	conn, err := (&tls.Dialer{Config: caOf(t, h)}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, request) // the hub may close before the end
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil
	}
	return answer
}

// Requests that are broken below the hub's own rules get an error, and cost
// nobody else anything.
func TestHostileRequests(t *testing.T) {
	h := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	head := " HTTP/1.1\r\nHost: hub\r\nAuthorization: " + ownerToken(t, h) + "\r\n"
	const chunked = "Transfer-Encoding: chunked\r\n\r\n"
	for what, c := range map[string]struct {
		request, want string
	}{
		"no chunk size":           {"PATCH /twins/pump-1" + head + chunked + "zz\r\n{}\r\n0\r\n\r\n", "400 GenericBadRequest"},
		"huge chunk size":         {"PATCH /twins/pump-1" + head + chunked + "fffffffffffffffff\r\n{}", "400 GenericBadRequest"},
		"chunk without end":       {"PATCH /twins/pump-1" + head + chunked + "2\r\n{}xx0\r\n\r\n", "400 GenericBadRequest"},
		"chunks without end":      {"POST /devices/pump-1/messages/events" + head + chunked + strings.Repeat("10000\r\n"+strings.Repeat("x", 1<<16)+"\r\n", 20), "413 MessageTooLarge"},
		"good chunks":             {"POST /devices/pump-1/messages/events" + head + chunked + "1\r\nx\r\n0\r\n\r\n", "204 "},
		"too long by its length":  {"POST /devices" + head + "Content-Length: 99999999\r\n\r\n" + strings.Repeat("x", 2<<20), "413 MessageTooLarge"},
		"negative length":         {"POST /devices" + head + "Content-Length: -1\r\n\r\n", "400 "},
		"two lengths":             {"POST /devices" + head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "400 "},
		"huge header":             {"GET /devices" + head + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", "431 "},
		"no HTTP":                 {"hello\r\n\r\n", "400 "},
		"dots":                    {"GET /devices/../twins/pump-1" + head + "\r\n", "404 AmqpAddressNotFound"},
		"empty segments":          {"GET //twins//pump-1" + head + "\r\n", "404 AmqpAddressNotFound"},
		"encoded slash":           {"GET /twins%2Fpump-1" + head + "\r\n", "404 AmqpAddressNotFound"},
		"broken escape":           {"GET /twins/%zz" + head + "\r\n", "400 "},
		"absolute address":        {"GET http://evil.example/devices/pump-1" + head + "\r\n", "200 "},
		"star":                    {"OPTIONS *" + head + "\r\n", "200 "},
		"CONNECT":                 {"CONNECT evil.example:443" + head + "\r\n", "404 AmqpAddressNotFound"},
		"WebSocket without a key": {"GET /$iothub/websocket" + head + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "400 "},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			answer := raw(t, h, c.request)
			if answer == nil {
				t.Fatal("no answer")
			}
			if got := fmt.Sprint(answer.StatusCode, " ", answer.Header.Get("iothub-errorcode")); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("and a good one", func(t *testing.T) {
		if answer := raw(t, h, "GET /devices/pump-1"+head+"\r\n"); answer == nil || answer.StatusCode != http.StatusOK {
			t.Errorf("got %v", answer)
		}
	})
}

// Many who change one twin, one device and the jobs at the same time: every
// accepted change counts once, and with an ETag only one of them wins.
func TestServiceConcurrency(t *testing.T) {
	h := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	token, domain, pump := ownerToken(t, h), h.Domain(), registry.ID{Device: "pump-1"}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: caOf(t, h)}}
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, path, ifMatch, body string) int {
		url := fmt.Sprintf("https://127.0.0.1:%d%s", h.Info().HTTPSPort, path)
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("Authorization", token)
		if ifMatch != "" {
			r.Header.Set("If-Match", ifMatch)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		return answer.StatusCode
	}

	const workers, rounds = 8, 20
	before, err := domain.Twins.Document(pump)
	if err != nil {
		t.Fatal(err)
	}
	etag := before["etag"].(string)
	var winners, losers int
	var mu sync.Mutex // guards winners and losers
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			status := ask("PATCH", "/twins/pump-1", `"`+etag+`"`, `{"tags":{"winner":`+strconv.Itoa(w)+`}}`)
			mu.Lock()
			defer mu.Unlock()
			switch status {
			case http.StatusOK:
				winners++
			case http.StatusPreconditionFailed:
				losers++
			}
		})
	}
	all.Wait()
	if winners != 1 || losers != workers-1 {
		t.Errorf("%d won and %d lost", winners, losers)
	}

	for w := range workers {
		all.Go(func() {
			for n := range rounds {
				if status := ask("PATCH", "/twins/pump-1", "", fmt.Sprintf(`{"properties":{"desired":{"w%d":%d}}}`, w, n)); status != http.StatusOK {
					t.Errorf("PATCH: %d", status)
				}
				device := fmt.Sprintf("/devices/d%d", n%3) // contended
				ask("PUT", device, "", `{}`)
				ask("PUT", device, `"*"`, `{"status":"disabled"}`)
				ask("GET", device+"/modules", "", "")
				job := fmt.Sprintf("/jobs/v2/j-%d-%d", w, n)
				ask("PUT", job, "", `{"type":"scheduleUpdateTwin","queryCondition":"*","updateTwin":{"tags":{"job":true}}}`)
				ask("POST", job+"/cancel", "", "")
				ask("POST", "/devices/query", "", `{"query":"SELECT * FROM devices.jobs"}`)
				ask("DELETE", device, `"*"`, "")
				ask("GET", "/statistics/devices", "", "")
			}
		})
	}
	all.Wait()
	after, err := domain.Twins.Document(pump)
	if err != nil {
		t.Fatal(err)
	}
	desired := after["properties"].(map[string]any)["desired"].(map[string]any)
	if got := fmt.Sprint(desired["$version"]); got != strconv.Itoa(1+workers*rounds) {
		t.Errorf("desired has version %s after %d changes", got, workers*rounds)
	}
	for w := range workers {
		if got := fmt.Sprint(desired[fmt.Sprintf("w%d", w)]); got != strconv.Itoa(rounds-1) {
			t.Errorf("the last of worker %d is %s", w, got)
		}
	}
	list, next := domain.Jobs.List("", "", "", workers*rounds+1)
	for _, j := range list {
		if s := j.Status; s != "cancelled" && s != "completed" {
			t.Errorf("job %s is %s", j.ID, s)
		}
	}
	if len(list) != workers*rounds || next != "" {
		t.Errorf("there are %d jobs", len(list))
	}
}
