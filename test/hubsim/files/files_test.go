package files_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/files"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// config is a storage account in which every blob is there.
func config() files.Config {
	return files.Config{
		Endpoint: "https://127.0.0.1:10000/bench/", Account: "bench", Container: "uploads",
		Key: base64.StdEncoding.EncodeToString([]byte(key)),
		Look: func(context.Context, string, string) (files.Properties, error) {
			return files.Properties{Size: 7, LastModified: time.Unix(1_700_000_000, 0)}, nil
		},
	}
}

func open(t *testing.T, cfg files.Config) *files.Uploads {
	t.Helper()
	u, err := files.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func begin(t *testing.T, u *files.Uploads, device string) files.Ticket {
	t.Helper()
	ticket, err := u.Start(device, "log/1.txt")
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	if !refusal.Is(err, code) {
		t.Errorf("got error %v, want %d", err, code)
	}
}

func TestUpload(t *testing.T) {
	u := open(t, config())
	ticket := begin(t, u, "pump-1")
	if ticket.HostName != "127.0.0.1:10000/bench" || ticket.ContainerName != "uploads" || ticket.BlobName != "pump-1/log/1.txt" {
		t.Errorf("ticket is %+v", ticket)
	}
	query, found := strings.CutPrefix(ticket.SASToken, "?")
	s := parse(t, query)
	if !found || !s.SignedBy([]byte(key), "bench", "uploads", "pump-1/log/1.txt") || !s.InForce(time.Now()) ||
		s.Permissions != "rw" || s.Protocol != "https" {
		t.Errorf("SAS is %q", ticket.SASToken)
	}
	_, err := u.Finish(t.Context(), "pump-2", ticket.CorrelationID, true)
	wantCode(t, err, 400015)

	notice, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
	if err != nil {
		t.Fatal(err)
	}
	want := files.Notice{
		DeviceID: "pump-1", BlobName: "pump-1/log/1.txt", BlobSize: 7, Enqueued: notice.Enqueued,
		BlobURI:         "https://127.0.0.1:10000/bench/uploads/pump-1/log/1.txt",
		LastUpdatedTime: time.Unix(1_700_000_000, 0).UTC(),
	}
	if *notice != want || notice.Enqueued.IsZero() {
		t.Errorf("notice is %+v, want %+v", *notice, want)
	}
	_, err = u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
	wantCode(t, err, 400015)
}

func TestFailedUpload(t *testing.T) {
	u := open(t, config())
	ticket := begin(t, u, "pump-1")
	if notice, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, false); err != nil || notice != nil {
		t.Errorf("a failed upload gives notice %v, error %v", notice, err)
	}
	_, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
	wantCode(t, err, 400015)
}

func TestNames(t *testing.T) {
	u := open(t, config())
	for _, name := range []string{"", strings.Repeat("x", 1024)} {
		_, err := u.Start("pump-1", name)
		wantCode(t, err, 400004)
	}
	if _, err := u.Start("pump-1", strings.Repeat("x", 1017)); err != nil {
		t.Error(err)
	}
}

func TestNoStorage(t *testing.T) {
	var u *files.Uploads
	_, err := u.Start("pump-1", "log.txt")
	wantCode(t, err, 400014)
	_, err = u.Finish(t.Context(), "pump-1", "some", true)
	wantCode(t, err, 400014)
}

// A device has ten uploads at a time; a finished or an expired one makes room,
// and other devices have their own ten.
func TestConcurrentUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := open(t, config())
		var last files.Ticket
		for range files.MaxActive {
			last = begin(t, u, "pump-1")
		}
		_, err := u.Start("pump-1", "log.txt")
		wantCode(t, err, 403006)
		begin(t, u, "pump-2")
		if _, err := u.Finish(t.Context(), "pump-1", last.CorrelationID, true); err != nil {
			t.Fatal(err)
		}
		begin(t, u, "pump-1")
		_, err = u.Start("pump-1", "log.txt")
		wantCode(t, err, 403006)
		time.Sleep(files.DefaultLife)
		begin(t, u, "pump-1")
	})
}

// An upload that took too long is told so; much later it is as unknown as any.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := open(t, config())
		ticket := begin(t, u, "pump-1")
		time.Sleep(files.DefaultLife - time.Second)
		if !parse(t, ticket.SASToken[1:]).InForce(time.Now()) {
			t.Error("the SAS has expired before the upload")
		}
		time.Sleep(time.Second)
		if parse(t, ticket.SASToken[1:]).InForce(time.Now()) {
			t.Error("the SAS outlives the upload")
		}
		_, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
		wantCode(t, err, 400016)
		time.Sleep(files.DefaultLife + time.Second)
		begin(t, u, "pump-1")
		_, err = u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
		wantCode(t, err, 400015)
	})
}

// A blob that cannot be found leaves the upload in progress.
func TestMissingBlob(t *testing.T) {
	there := false
	cfg := config()
	cfg.Look = func(_ context.Context, container, blob string) (files.Properties, error) {
		if !there {
			return files.Properties{}, errors.New("no " + container + "/" + blob)
		}
		return files.Properties{}, nil
	}
	u := open(t, cfg)
	ticket := begin(t, u, "pump-1")
	_, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
	wantCode(t, err, 400020)
	there = true
	if _, err := u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true); err != nil {
		t.Error(err)
	}
}

// Without a Look of its own the package asks the blob server, with a signature
// that is good for reading only.
func TestAsk(t *testing.T) {
	requests := make(chan *http.Request, 1)
	answers := make(chan int, 2)
	answers <- http.StatusOK
	answers <- http.StatusNotFound
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.Header().Set("Content-Length", "12")
		w.Header().Set("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
		w.WriteHeader(<-answers)
	}))
	defer server.Close()
	cfg := config()
	cfg.Endpoint, cfg.Look, cfg.Client = server.URL, nil, server.Client()
	u := open(t, cfg)

	ticket, err := u.Start("pump#1", "50%?.txt")
	if err != nil {
		t.Fatal(err)
	}
	notice, err := u.Finish(t.Context(), "pump#1", ticket.CorrelationID, true)
	if err != nil {
		t.Fatal(err)
	}
	if notice.BlobSize != 12 || !notice.LastUpdatedTime.Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("notice is %+v", notice)
	}
	if want := server.URL + "/uploads/pump%231/50%25%3F.txt"; notice.BlobURI != want {
		t.Errorf("address is %s, want %s", notice.BlobURI, want)
	}
	asked := <-requests
	if asked.Method != http.MethodHead || asked.URL.Path != "/uploads/pump#1/50%?.txt" {
		t.Errorf("asked %s %s", asked.Method, asked.URL)
	}
	if s := parse(t, asked.URL.RawQuery); s.Permissions != "r" || !s.SignedBy([]byte(key), "bench", "uploads", "pump#1/50%?.txt") {
		t.Errorf("asked with %s", asked.URL.RawQuery)
	}

	ticket = begin(t, u, "pump-1")
	_, err = u.Finish(t.Context(), "pump-1", ticket.CorrelationID, true)
	wantCode(t, err, 400020)
}

func TestBadConfig(t *testing.T) {
	for name, spoil := range map[string]func(*files.Config){
		"no endpoint":  func(c *files.Config) { c.Endpoint = "" },
		"bad endpoint": func(c *files.Config) { c.Endpoint = "https://a b" },
		"ftp":          func(c *files.Config) { c.Endpoint = "ftp://host" },
		"no key":       func(c *files.Config) { c.Key = "" },
		"bad key":      func(c *files.Config) { c.Key = "###" },
		"no account":   func(c *files.Config) { c.Account = "" },
		"no container": func(c *files.Config) { c.Container = "" },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := files.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The correlation id survives the path of the finishing request only when the
// client escapes it.
func TestCorrelationID(t *testing.T) {
	id := begin(t, open(t, config()), "pump-1").CorrelationID
	if !strings.Contains(id, "/") || !strings.Contains(id, "=") {
		t.Errorf("%s needs no escapes", id)
	}
}
