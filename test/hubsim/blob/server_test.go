package blob_test

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

const account = "bench"

var key = []byte("0123456789abcdef0123456789abcdef")

// bench is a server, and a client with its key.
type bench struct {
	t      *testing.T
	server *blob.Server
	http   *httptest.Server
}

func start(t *testing.T, memory int64) *bench {
	t.Helper()
	server, err := blob.New(blob.Config{Account: account, Key: base64.StdEncoding.EncodeToString(key), Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, server: server, http: httptest.NewTLSServer(server)}
	t.Cleanup(b.http.Close)
	return b
}

// signed returns the query of a SAS for a blob.
func signed(permissions, name string) string {
	s := files.SAS{
		Version: "2018-11-09", Resource: "b", Permissions: permissions, Protocol: "https",
		Expiry: time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	}
	s.Sign(key, account, blob.Container, name)
	return s.Query()
}

// answer is what a request got.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request; header holds names and values in turn.
func (b *bench) do(method, path, query string, body []byte, header ...string) answer {
	b.t.Helper()
	address := b.http.URL + (&url.URL{Path: path}).EscapedPath() + "?" + query
	r, err := http.NewRequestWithContext(b.t.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	response, err := b.http.Client().Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{response, got}
}

// on sends a request about a blob with a SAS that allows everything.
func (b *bench) on(method, name, query string, body []byte, header ...string) answer {
	b.t.Helper()
	return b.do(method, "/"+blob.Container+"/"+name, signed("rwc", name)+query, body, header...)
}

func (b *bench) put(name string, body []byte, header ...string) answer {
	b.t.Helper()
	return b.on(http.MethodPut, name, "", body, append(header, "x-ms-blob-type", "BlockBlob")...)
}

func (a answer) want(t *testing.T, status int, code string) {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("x-ms-error-code") != code {
		t.Errorf("got %s %s, want %d %s\n%s", a.Status, a.Header.Get("x-ms-error-code"), status, code, a.body)
	}
	if code == "" || a.Request.Method == http.MethodHead {
		return
	}
	var parsed struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if err := xml.Unmarshal(a.body, &parsed); err != nil || parsed.Code != code || parsed.Message == "" {
		t.Errorf("the error reads %s", a.body)
	}
}

func TestPutAndGet(t *testing.T) {
	b := start(t, 0)
	const name = "pump-1/log 50%.txt"
	put := b.put(name, []byte("hello"), "x-ms-blob-content-type", "text/plain", "x-ms-meta-color", "red",
		"x-ms-client-request-id", "mine", "x-ms-version", "2020-10-02")
	put.want(t, http.StatusCreated, "")
	if put.Header.Get("x-ms-request-id") == "" || put.Header.Get("x-ms-version") != "2020-10-02" ||
		put.Header.Get("x-ms-client-request-id") != "mine" || put.Header.Get("Last-Modified") == "" ||
		put.Header.Get("Content-MD5") != "XUFAKrxLKna5cZ2REBfFkg==" {
		t.Errorf("answer has %v", put.Header)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got := b.on(method, name, "", nil)
		got.want(t, http.StatusOK, "")
		if got.Header.Get("ETag") != put.Header.Get("ETag") || got.Header.Get("Last-Modified") != put.Header.Get("Last-Modified") ||
			got.Header.Get("Content-Type") != "text/plain" || got.Header.Get("x-ms-meta-color") != "red" ||
			got.ContentLength != 5 || got.Header.Get("x-ms-blob-type") != "BlockBlob" {
			t.Errorf("%s answers %v", method, got.Header)
		}
		if method == http.MethodGet && string(got.body) != "hello" {
			t.Errorf("the blob is %q", got.body)
		}
	}
	look, err := b.server.Look(t.Context(), blob.Container, name)
	if err != nil || look.Size != 5 || look.LastModified.Format(http.TimeFormat) != put.Header.Get("Last-Modified") {
		t.Errorf("a look gives %+v, error %v", look, err)
	}
	if _, err := b.server.Look(t.Context(), blob.Container, "pump-1/other"); err == nil {
		t.Error("a look finds what is not there")
	}
}

func TestRanges(t *testing.T) {
	b := start(t, 0)
	b.put("a", []byte("0123456789")).want(t, http.StatusCreated, "")
	for _, header := range []string{"Range", "x-ms-range"} {
		got := b.on(http.MethodGet, "a", "", nil, header, "bytes=2-4")
		got.want(t, http.StatusPartialContent, "")
		if string(got.body) != "234" || got.Header.Get("Content-Range") != "bytes 2-4/10" {
			t.Errorf("%s: got %q, %s", header, got.body, got.Header.Get("Content-Range"))
		}
	}
	if got := b.on(http.MethodGet, "a", "", nil, "Range", "bytes=7-"); string(got.body) != "789" {
		t.Errorf("the end is %q", got.body)
	}
	b.on(http.MethodGet, "a", "", nil, "Range", "bytes=10-").want(t, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
}

// putBlock puts a block with an id of three characters.
func (b *bench) putBlock(name, id, text string) answer {
	b.t.Helper()
	return b.on(http.MethodPut, name, "&comp=block&blockid="+url.QueryEscape(blockID(id)), []byte(text))
}

func blockID(id string) string { return base64.StdEncoding.EncodeToString([]byte(id)) }

// putList puts a list of "Latest:id" and the like.
func (b *bench) putList(name string, list ...string) answer {
	b.t.Helper()
	var text strings.Builder
	text.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for _, item := range list {
		kind, id, _ := strings.Cut(item, ":")
		text.WriteString("<" + kind + ">" + blockID(id) + "</" + kind + ">")
	}
	return b.on(http.MethodPut, name, "&comp=blocklist", []byte(text.String()+"</BlockList>"))
}

func (b *bench) content(name string) string {
	b.t.Helper()
	got := b.on(http.MethodGet, name, "", nil)
	got.want(b.t, http.StatusOK, "")
	return string(got.body)
}

func TestBlocks(t *testing.T) {
	b := start(t, 0)
	for _, id := range []string{"one", "two", "six"} {
		b.putBlock("a", id, "<"+id+">").want(t, http.StatusCreated, "")
	}
	b.on(http.MethodGet, "a", "", nil).want(t, http.StatusNotFound, "BlobNotFound")
	b.putBlock("a", "two", "<2>").want(t, http.StatusCreated, "")
	b.putList("a", "Latest:two", "Uncommitted:one", "Latest:two").want(t, http.StatusCreated, "")
	if got := b.content("a"); got != "<2><one><2>" {
		t.Errorf("the blob is %q", got)
	}

	// Committed blocks may be used again; those that no list named are gone.
	b.putList("a", "Latest:six").want(t, http.StatusBadRequest, "InvalidBlockList")
	b.putList("a", "Uncommitted:one").want(t, http.StatusBadRequest, "InvalidBlockList")
	b.putBlock("a", "one", "<new>").want(t, http.StatusCreated, "")
	b.putList("a", "Committed:one", "Latest:one", "Latest:two").want(t, http.StatusCreated, "")
	if got := b.content("a"); got != "<one><new><2>" {
		t.Errorf("the blob is %q", got)
	}
	b.putList("a").want(t, http.StatusCreated, "")
	if got := b.content("a"); got != "" {
		t.Errorf("the blob of no blocks is %q", got)
	}
}

func TestBadBlocks(t *testing.T) {
	b := start(t, 0)
	b.putBlock("a", "one", "1").want(t, http.StatusCreated, "")
	b.putBlock("a", "three", "3").want(t, http.StatusBadRequest, "InvalidBlobOrBlock")
	b.putBlock("a", strings.Repeat("x", 65), "3").want(t, http.StatusBadRequest, "InvalidBlobOrBlock")
	b.putBlock("a", "", "3").want(t, http.StatusBadRequest, "InvalidBlobOrBlock")
	b.putBlock("a", "two", "").want(t, http.StatusLengthRequired, "MissingContentLengthHeader")
	b.on(http.MethodPut, "a", "&comp=block&blockid=%23", []byte("1")).want(t, http.StatusBadRequest, "InvalidBlobOrBlock")
	for _, text := range []string{"", "<", "<Blocks/>", "<BlockList>", "<BlockList><Newest>b25l</Newest></BlockList>", "<BlockList/><BlockList/>"} {
		b.on(http.MethodPut, "a", "&comp=blocklist", []byte(text)).want(t, http.StatusBadRequest, "InvalidXmlDocument")
	}
	b.putList("a", "Latest:two").want(t, http.StatusBadRequest, "InvalidBlockList")
}

func TestBadRequests(t *testing.T) {
	b := start(t, 0)
	b.on(http.MethodPut, "a", "", []byte("x")).want(t, http.StatusBadRequest, "InvalidHeaderValue")
	b.put("a", []byte("x"), "Content-MD5", "AAAA").want(t, http.StatusBadRequest, "Md5Mismatch")
	b.on(http.MethodGet, "a", "", nil).want(t, http.StatusNotFound, "BlobNotFound")
	b.on(http.MethodHead, "a", "", nil).want(t, http.StatusNotFound, "BlobNotFound")
	b.on(http.MethodDelete, "a", "", nil).want(t, http.StatusBadRequest, "UnsupportedHttpVerb")
	b.on(http.MethodPut, "a", "&comp=tags", nil).want(t, http.StatusBadRequest, "UnsupportedHttpVerb")
	b.do(http.MethodGet, "/uploads/a", "a=%zz", nil).want(t, http.StatusBadRequest, "InvalidQueryParameterValue")
	b.do(http.MethodGet, "/", "", nil).want(t, http.StatusBadRequest, "UnsupportedHttpVerb")

	// A body without length is refused before it is read.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, b.http.URL+"/uploads/a?"+signed("w", "a"), io.NopCloser(strings.NewReader("x")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-ms-blob-type", "BlockBlob")
	response, err := b.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusLengthRequired {
		t.Errorf("a chunked body gets %s", response.Status)
	}
}

func TestConditions(t *testing.T) {
	b := start(t, 0)
	first := b.put("a", []byte("1"), "If-None-Match", "*")
	first.want(t, http.StatusCreated, "")
	b.put("a", []byte("2"), "If-None-Match", "*").want(t, http.StatusConflict, "BlobAlreadyExists")
	b.put("a", []byte("2"), "If-None-Match", first.Header.Get("ETag")).want(t, http.StatusPreconditionFailed, "ConditionNotMet")
	b.put("a", []byte("2"), "If-Match", first.Header.Get("ETag")).want(t, http.StatusCreated, "")
	b.put("a", []byte("3"), "If-Match", first.Header.Get("ETag")).want(t, http.StatusPreconditionFailed, "ConditionNotMet")
	b.put("a", []byte("3"), "If-Match", "*").want(t, http.StatusCreated, "")
	b.put("b", []byte("3"), "If-Match", "*").want(t, http.StatusPreconditionFailed, "ConditionNotMet")
	if got := b.content("a"); got != "3" {
		t.Errorf("the blob is %q", got)
	}
	b.on(http.MethodGet, "a", "", nil, "If-Match", first.Header.Get("ETag")).want(t, http.StatusPreconditionFailed, "")
}

// What is kept never exceeds the memory; what is replaced makes room.
func TestMemory(t *testing.T) {
	const memory = 10_000
	b := start(t, memory)
	big := bytes.Repeat([]byte("x"), 4000)
	for range 5 {
		b.put("a", big).want(t, http.StatusCreated, "")
	}
	b.put("b", big).want(t, http.StatusCreated, "")
	b.put("c", big).want(t, http.StatusInsufficientStorage, "InsufficientStorage")
	b.putBlock("c", "one", string(big)).want(t, http.StatusInsufficientStorage, "InsufficientStorage")
	b.put("b", big[:1]).want(t, http.StatusCreated, "")
	for range 5 {
		b.putBlock("b", "one", string(big[:1000])).want(t, http.StatusCreated, "")
	}
	b.putList("b", slices.Repeat([]string{"Latest:one"}, 6)...).want(t, http.StatusInsufficientStorage, "InsufficientStorage")
	b.putList("b", "Latest:one").want(t, http.StatusCreated, "")
	b.put("a", nil).want(t, http.StatusCreated, "")
	b.put("b", nil).want(t, http.StatusCreated, "")
	b.put("a", append(big, big...)).want(t, http.StatusCreated, "")
}

func TestOwns(t *testing.T) {
	for path, want := range map[string]bool{
		"/uploads": true, "/uploads/": true, "/uploads/a//b": true, "/": false, "/uploads2": false, "/devices/uploads/": false,
	} {
		if blob.Owns(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}
