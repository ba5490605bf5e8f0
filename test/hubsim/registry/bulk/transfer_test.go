package bulk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
)

// signed is a container's URI as a service hands it to the hub.
const signed = "https://store.test/box?sv=2021&sig=secret"

// storage is the blobs of the container, without a network.
type storage struct {
	hold chan struct{} // when set, requests wait until it is closed
	down error         // when set, requests fail with it

	mu    sync.Mutex // guards blobs
	blobs map[string]string
}

func (s *storage) client() *http.Client { return &http.Client{Transport: s} }

// RoundTrip answers as the storage service does.
func (s *storage) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if s.down != nil {
		return nil, s.down
	}
	status, body := s.answer(r)
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)),
		Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}, nil
}

func (s *storage) answer(r *http.Request) (status int, body string) {
	name, ok := strings.CutPrefix(r.URL.Path, "/box/")
	if !ok || r.URL.Host != "store.test" || r.URL.Query().Get("sig") != "secret" {
		return http.StatusForbidden, ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPut && r.Header.Get("x-ms-blob-type") == "BlockBlob" && r.ContentLength >= 0 {
		content, _ := io.ReadAll(r.Body) // from memory
		s.blobs[name] = string(content)
		return http.StatusCreated, ""
	}
	content, ok := s.blobs[name]
	if r.Method != http.MethodGet || !ok {
		return http.StatusNotFound, ""
	}
	return http.StatusOK, content
}

// begin starts a transfer on a hub of its own. Close is part of the test's end.
func begin(t *testing.T, c bulk.Changer, s *storage) *bulk.Transfers {
	t.Helper()
	transfers := bulk.NewTransfers(c)
	transfers.SetClient(s.client())
	t.Cleanup(transfers.Close)
	return transfers
}

func start(t *testing.T, transfers *bulk.Transfers, order bulk.Order) bulk.Transfer {
	t.Helper()
	transfer, err := transfers.Start(order)
	if err != nil {
		t.Fatal(err)
	}
	return transfer
}

// ended waits until nothing moves any more and returns the transfer.
func ended(t *testing.T, transfers *bulk.Transfers, id string) bulk.Transfer {
	t.Helper()
	synctest.Wait()
	transfer, err := transfers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return transfer
}

// full returns a hub with one of everything.
func full(t *testing.T) bulk.Changer {
	t.Helper()
	b := bench()
	result := b.ChangeAll(items(t, `[
		{"id":"edge","importMode":"create","capabilities":{"iotEdge":true},"deviceScope":"scope://edge"},
		{"id":"leaf","importMode":"create","parentScopes":["scope://edge"],"tags":{"hall":3},"properties":{"desired":{"rpm":900}}},
		{"id":"leaf","moduleId":"m","importMode":"create"},
		{"id":"off","importMode":"create","status":"disabled","statusReason":"<spare>"},
		{"id":"certified","importMode":"create","authentication":{"type":"certificateAuthority"}}
	]`))
	if !result.Successful {
		t.Fatalf("%+v", result)
	}
	return b
}

// What one hub exports another imports: the same identities with the same keys
// and twins, one JSON text a line.
func TestExportAndImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := full(t), bench()
		store := &storage{blobs: make(map[string]string)}
		exports := begin(t, from, store)
		began := start(t, exports, bulk.Order{Type: "export", OutputURI: signed})
		if began.Status != bulk.Enqueued || began.Started.IsZero() || !began.Ended.IsZero() {
			t.Errorf("began as %+v", began)
		}
		done := ended(t, exports, began.ID)
		if done.Status != bulk.Completed || done.Progress != 100 || done.Ended.IsZero() || done.OutputBlob != "devices.txt" {
			t.Fatalf("export: %+v", done)
		}
		if n := strings.Count(store.blobs["devices.txt"], "\n"); n != 5 {
			t.Errorf("%d lines, want 5:\n%s", n, store.blobs["devices.txt"])
		}

		imports := begin(t, to, store)
		began = start(t, imports, bulk.Order{Type: "Import", InputURI: signed, OutputURI: signed})
		if done := ended(t, imports, began.ID); done.Status != bulk.Completed || done.InputBlob != "devices.txt" || done.Type != "import" {
			t.Fatalf("import: %+v", done)
		}
		if log, ok := store.blobs["importErrors.log"]; ok {
			t.Errorf("errors: %s", log)
		}
		compare(t, from, to)
	})
}

// compare finds what an import has lost of an export. ETags and generations are
// each hub's own.
func compare(t *testing.T, from, to bulk.Changer) {
	t.Helper()
	want, got := from.Registry.All(), to.Registry.All()
	if len(got) != len(want) {
		t.Fatalf("%d identities, want %d", len(got), len(want))
	}
	for n := range want {
		got[n].ETag, got[n].Generation = want[n].ETag, want[n].Generation
		if fmt.Sprint(got[n]) != fmt.Sprint(want[n]) {
			t.Errorf("got %+v, want %+v", got[n], want[n])
		}
	}
	view, err := to.Twins.Get(registry.ID{Device: "leaf"})
	if err != nil || !bytes.Contains(view, []byte(`"hall":3`)) || !bytes.Contains(view, []byte(`"rpm":900`)) {
		t.Errorf("the twin is %s, %v", view, err)
	}
}

func TestExportWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := full(t)
		store := &storage{blobs: make(map[string]string)}
		transfers := begin(t, from, store)
		began := start(t, transfers, bulk.Order{Type: "export", OutputURI: signed, OutputBlob: "all.txt", ExcludeKeys: true})
		if done := ended(t, transfers, began.ID); done.Status != bulk.Completed {
			t.Fatalf("%+v", done)
		}
		edge, _ := from.Registry.Get(registry.ID{Device: "edge"})
		text := store.blobs["all.txt"]
		if strings.Contains(text, edge.Auth.PrimaryKey) || !strings.Contains(text, `"primaryKey":null`) {
			t.Errorf("exported %s", text)
		}
	})
}

// Lines that cannot be carried out are written down, the others count.
func TestImportErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bench()
		store := &storage{blobs: map[string]string{"in.txt": "\ufeff" + `{"id":"a"}` + "\r\n\n" +
			`{"id":"a","importMode":"create"}` + "\n" + `hello` + "\n" + `{"id":"b"}`}}
		transfers := begin(t, b, store)
		began := start(t, transfers, bulk.Order{Type: "import", InputURI: signed, InputBlob: "in.txt", OutputURI: signed})
		if done := ended(t, transfers, began.ID); done.Status != bulk.Completed {
			t.Fatalf("%+v", done)
		}
		if n := len(b.Registry.All()); n != 2 {
			t.Errorf("%d devices, want 2", n)
		}
		var codes []string
		for line := range strings.Lines(store.blobs["importErrors.log"]) {
			var f bulk.Failure
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			codes = append(codes, f.Device+" "+f.Code+" "+f.Status)
		}
		want := []string{"a DeviceAlreadyExists a exists", " ArgumentInvalid line 4 is no item"}
		if len(codes) != 2 || codes[0] != want[0] || !strings.HasPrefix(codes[1], want[1]) {
			t.Errorf("got %q, want %q", codes, want)
		}
	})
}

// A transfer that cannot reach its blobs fails, says why, and keeps the
// signature to itself.
func TestFailedTransfers(t *testing.T) {
	for _, c := range []struct {
		what   string
		store  *storage
		uri    registry.Text
		reason string
	}{
		{"no blob", &storage{}, signed, "there is no such blob"},
		{"bad signature", &storage{}, "https://store.test/box?sig=forged", "403 Forbidden"},
		{"no network", &storage{down: errors.New("no route")}, signed, "no route"},
		{"a line without end", &storage{blobs: map[string]string{"devices.txt": strings.Repeat(" ", 2<<20)}}, signed, "too long"},
	} {
		synctest.Test(t, func(t *testing.T) {
			transfers := begin(t, bench(), c.store)
			began := start(t, transfers, bulk.Order{Type: "import", InputURI: c.uri, OutputURI: signed})
			done := ended(t, transfers, began.ID)
			reason := string(done.Reason)
			if done.Status != bulk.Failed || !strings.Contains(reason, c.reason) || strings.Contains(reason, "sig=") {
				t.Errorf("%s: got %+v", c.what, done)
			}
		})
	}
}

// Orders that cannot be are refused at once and not remembered.
func TestRefusedOrders(t *testing.T) {
	transfers := begin(t, bench(), &storage{})
	for _, c := range []struct {
		what  string
		order bulk.Order
		code  int
	}{
		{"no type", bulk.Order{OutputURI: signed}, 400004},
		{"another type", bulk.Order{Type: "backup", OutputURI: signed}, 400004},
		{"no output", bulk.Order{Type: "export"}, 400005},
		{"no input", bulk.Order{Type: "import", OutputURI: signed}, 400005},
		{"no URI", bulk.Order{Type: "export", OutputURI: "box"}, 400020},
		{"another scheme", bulk.Order{Type: "export", OutputURI: "file:///box"}, 400020},
		{"no container", bulk.Order{Type: "export", OutputURI: "https://store.test/?sig=secret"}, 400020},
		{"an identity of the hub's own", bulk.Order{Type: "export", OutputURI: signed, StorageAuth: "IdentityBased"}, 400004},
	} {
		if _, err := transfers.Start(c.order); !refusal.Is(err, c.code) {
			t.Errorf("%s: got %v, want %d", c.what, err, c.code)
		}
	}
	if list := transfers.List(); len(list) != 0 {
		t.Errorf("remembered %+v", list)
	}
}

// One transfer runs, others wait their turn; a cancelled one makes place, and
// too many are refused.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &storage{blobs: make(map[string]string), hold: make(chan struct{})}
		transfers := begin(t, full(t), store)
		order := bulk.Order{Type: "export", OutputURI: signed}
		first := start(t, transfers, order)
		synctest.Wait()
		second := start(t, transfers, order)
		for range 8 {
			start(t, transfers, order)
		}
		if _, err := transfers.Start(order); !refusal.Is(err, 429004) {
			t.Errorf("the eleventh: got %v", err)
		}
		if a, b := ended(t, transfers, first.ID), ended(t, transfers, second.ID); a.Status != bulk.Running || b.Status != bulk.Enqueued {
			t.Errorf("first %s, second %s", a.Status, b.Status)
		}
		for _, id := range []string{second.ID, first.ID} {
			if err := transfers.Cancel(id); err != nil {
				t.Error(err)
			}
			if got, _ := transfers.Get(id); got.Status != bulk.Cancelled || got.Ended.IsZero() {
				t.Errorf("cancelled: %+v", got)
			}
		}
		close(store.hold)
		synctest.Wait()
		completed := 0
		for _, transfer := range transfers.List() {
			if transfer.Status == bulk.Completed {
				completed++
			}
		}
		if completed != 8 {
			t.Errorf("%d completed, want 8", completed)
		}
		if err := transfers.Cancel(first.ID); err != nil {
			t.Errorf("cancel after the end: %v", err)
		}
		if err := transfers.Cancel("nothing"); !refusal.Is(err, 404002) {
			t.Errorf("cancel of nothing: %v", err)
		}
	})
}

// Close ends what runs, and nothing starts after it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transfers := begin(t, full(t), &storage{hold: make(chan struct{})})
		began := start(t, transfers, bulk.Order{Type: "export", OutputURI: signed})
		transfers.Close()
		if got, _ := transfers.Get(began.ID); got.Status != bulk.Cancelled {
			t.Errorf("got %+v", got)
		}
		if _, err := transfers.Start(bulk.Order{Type: "export", OutputURI: signed}); !refusal.Is(err, 503001) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Only so many transfers are remembered, the newest.
func TestOldTransfersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transfers := begin(t, bench(), &storage{blobs: make(map[string]string)})
		var ids []string
		for range 201 {
			ids = append(ids, start(t, transfers, bulk.Order{Type: "export", OutputURI: signed}).ID)
			synctest.Wait()
		}
		list := transfers.List()
		if len(list) != 200 || list[0].ID != ids[1] || list[199].ID != ids[200] {
			t.Errorf("%d remembered, from %s to %s", len(list), list[0].ID, list[len(list)-1].ID)
		}
	})
}

// Whatever a file holds, an import of it ends.
func FuzzImport(f *testing.F) {
	f.Add("\ufeff{\"id\":\"a\",\"tags\":{}}\r\n{\"id\":\"a\",\"importMode\":\"delete\"}\n")
	f.Add("{\"id\":1}\n[]\nnull\n{}")
	f.Fuzz(func(t *testing.T, content string) {
		synctest.Test(t, func(t *testing.T) {
			store := &storage{blobs: map[string]string{"devices.txt": content}}
			transfers := begin(t, bench(), store)
			began := start(t, transfers, bulk.Order{Type: "import", InputURI: signed, OutputURI: signed})
			if done := ended(t, transfers, began.ID); done.Ended.IsZero() {
				t.Errorf("got %+v", done)
			}
		})
	})
}
