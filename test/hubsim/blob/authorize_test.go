package blob_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// A SAS allows what it says, for the blob it is for, while it is in force.
func TestAuthorization(t *testing.T) {
	b := start(t, 0)
	b.put("there", []byte("x")).want(t, http.StatusCreated, "")
	change := func(f func(*files.SAS)) string {
		s := files.SAS{
			Version: "2018-11-09", Resource: "b", Permissions: "rw",
			Expiry: time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		}
		f(&s)
		s.Sign(key, account, blob.Container, "there")
		return s.Query()
	}
	const get, put = http.MethodGet, http.MethodPut
	for name, c := range map[string]struct {
		method, blob, query string
		status              int
		code                string
	}{
		"read":              {get, "there", signed("r", "there"), http.StatusOK, ""},
		"read to write":     {put, "there", signed("r", "there"), http.StatusForbidden, "AuthorizationPermissionMismatch"},
		"write":             {put, "there", signed("w", "there"), http.StatusCreated, ""},
		"write to read":     {get, "there", signed("w", "there"), http.StatusForbidden, "AuthorizationPermissionMismatch"},
		"create":            {put, "new", signed("c", "new"), http.StatusCreated, ""},
		"create to replace": {put, "there", signed("c", "there"), http.StatusForbidden, "AuthorizationPermissionMismatch"},
		"another blob":      {get, "there", signed("r", "other"), http.StatusForbidden, "AuthenticationFailed"},
		"no signature":      {get, "there", "", http.StatusUnauthorized, "NoAuthenticationInformation"},
		"more than signed":  {put, "there", strings.Replace(signed("r", "there"), "sp=r", "sp=rw", 1), http.StatusForbidden, "AuthenticationFailed"},
		"expired": {get, "there", change(func(s *files.SAS) {
			s.Expiry = time.Now().Add(-time.Second).UTC().Format(time.RFC3339)
		}), http.StatusForbidden, "AuthenticationFailed"},
		"not yet": {get, "there", change(func(s *files.SAS) {
			s.Start = time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
		}), http.StatusForbidden, "AuthenticationFailed"},
		"container":   {get, "there", change(func(s *files.SAS) { s.Resource = "c" }), http.StatusOK, ""},
		"old version": {get, "there", change(func(s *files.SAS) { s.Version = "2015-04-05" }), http.StatusForbidden, "AuthenticationFailed"},
		"new version": {get, "there", change(func(s *files.SAS) { s.Version = "2024-11-04" }), http.StatusOK, ""},
		"policy":      {get, "there", signed("r", "there") + "&si=x", http.StatusForbidden, "AuthenticationFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			b.do(c.method, "/uploads/"+c.blob, c.query, []byte("x"), "x-ms-blob-type", "BlockBlob").want(t, c.status, c.code)
		})
	}
}

// A SAS for HTTPS is not good for HTTP.
func TestProtocol(t *testing.T) {
	b := start(t, 0)
	w := httptest.NewRecorder()
	b.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://blob/uploads/a?"+signed("r", "a"), nil))
	if w.Code != http.StatusForbidden || w.Header().Get("x-ms-error-code") != "AuthorizationProtocolMismatch" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// Only the account's key makes containers, and a SAS of one container is not
// good for another.
func TestContainers(t *testing.T) {
	b := start(t, 0)
	b.do(http.MethodPut, "/uploads", "restype=container", nil).want(t, http.StatusForbidden, "AuthenticationFailed")
	b.do(http.MethodPut, "/uploads", "restype=container", nil, "Authorization", "SharedKey bench:AAAA").want(t, http.StatusForbidden, "AuthenticationFailed")
	b.do(http.MethodGet, "/uploads/a", "", nil, "Authorization", "SharedKey bench:AAAA").want(t, http.StatusForbidden, "AuthenticationFailed")
	b.do(http.MethodPut, "/more/a", signed("w", "a"), nil, "x-ms-blob-type", "BlockBlob").want(t, http.StatusForbidden, "AuthenticationFailed")
	b.do(http.MethodGet, "/uploads", "restype=container&comp=list", nil).want(t, http.StatusBadRequest, "UnsupportedHttpVerb")
}

// FuzzRequest sends requests of any path and query: none may get through
// without a signature, and none may panic.
func FuzzRequest(f *testing.F) {
	f.Add("/uploads/a", "sv=2018-11-09&sr=b&sp=rw&se=2099-01-01&sig=AAAA")
	f.Add("/uploads/a", "sv=2018-11-09&sr=b&sp=rw&se=2099-01-01&sig=&comp=block")
	f.Add("//", "restype=container")
	f.Add("/uploads", "restype=container&restype=container")
	f.Add("/uploads/%00", "%zz;")
	server, err := blob.New(blob.Config{Account: account, Key: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			r := httptest.NewRequest(method, "https://blob/", strings.NewReader("x"))
			r.URL = &url.URL{Path: path, RawQuery: query}
			r.Header.Set("Authorization", "SharedKey bench:"+query)
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			if w.Code < 400 || w.Header().Get("x-ms-error-code") == "" {
				t.Errorf("%s %q?%q gets %d", method, path, query, w.Code)
			}
		}
	})
}
