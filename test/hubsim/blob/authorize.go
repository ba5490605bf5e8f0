package blob

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// parseQuery reads the query of an address.
func parseQuery(text string) (url.Values, error) {
	query, err := url.ParseQuery(text)
	if err != nil {
		return nil, errQuery
	}
	return query, nil
}

// authorize checks that r may do to a blob what it asks for.
func (s *Server) authorize(r *http.Request, on object, query url.Values) error {
	sas, ok, err := files.ParseSAS(query)
	switch {
	case err != nil:
		return &failure{http.StatusForbidden, errAuthentication.code, err.Error()}
	case ok:
		return s.check(sas, r, on)
	case r.Header.Get("Authorization") == "":
		return errNoCredentials
	case !s.signedByAccount(r):
		return errAuthentication
	}
	return nil
}

// check compares what a SAS allows with what r asks for. To create is less than
// to write: it does not replace a blob.
func (s *Server) check(sas files.SAS, r *http.Request, on object) error {
	if !sas.SignedBy(s.key, s.account, on.container, on.name) || !sas.InForce(time.Now()) {
		return errAuthentication
	}
	if sas.Protocol == "https" && r.TLS == nil {
		return errProtocol
	}
	switch {
	case reads(r) && sas.Allows("r"), !reads(r) && sas.Allows("w"):
		return nil
	case !reads(r) && sas.Allows("c"):
		if _, err := s.store.blob(on.container, on.name); err != nil {
			return nil // there is nothing to replace
		}
	}
	return errPermission
}

// signedByAccount checks the Authorization header that a client with the
// account's key writes ("Authorize with Shared Key" of the storage service's
// REST reference).
func (s *Server) signedByAccount(r *http.Request) bool {
	text, found := strings.CutPrefix(r.Header.Get("Authorization"), "SharedKey "+s.account+":")
	signature, err := base64.StdEncoding.DecodeString(text)
	if !found || err != nil {
		return false
	}
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(s.signedText(r)))
	return hmac.Equal(signature, h.Sum(nil))
}

// signedText is what a shared key signs of a request.
func (s *Server) signedText(r *http.Request) string {
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	lines := []string{r.Method, r.Header.Get("Content-Encoding"), r.Header.Get("Content-Language"), length}
	for _, name := range []string{
		"Content-MD5", "Content-Type", "Date", "If-Modified-Since",
		"If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
	} {
		lines = append(lines, r.Header.Get(name))
	}
	headers := make(map[string]string)
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ms-") {
			headers[lower] = r.Header.Get(name)
		}
	}
	lines = append(lines, sortedLines(headers)...)
	lines = append(lines, "/"+s.account+r.URL.EscapedPath())
	query := make(map[string]string)
	for name, values := range r.URL.Query() {
		slices.Sort(values)
		query[strings.ToLower(name)] = strings.Join(values, ",")
	}
	return strings.Join(append(lines, sortedLines(query)...), "\n")
}

// sortedLines writes "name:value" lines.
func sortedLines(values map[string]string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		lines = append(lines, name+":"+values[name])
	}
	return lines
}
