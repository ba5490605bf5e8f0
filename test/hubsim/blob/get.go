package blob

import (
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// get answers with a blob or a part of it. net/http does the ranges and the
// conditions.
func (s *Server) get(w http.ResponseWriter, r *http.Request, on object) error {
	b, err := s.store.blob(on.container, on.name)
	if err != nil {
		return err
	}
	if asked := r.Header.Get("x-ms-range"); asked != "" { // goes before the standard one
		r.Header.Set("Range", asked)
	}
	if beyond(r.Header.Get("Range"), len(b.data)) {
		return errRange
	}
	maps.Copy(w.Header(), b.header)
	b.tell(w.Header())
	w.Header().Set("x-ms-blob-type", "BlockBlob")
	http.ServeContent(w, r, "", b.modified, bytes.NewReader(b.data))
	return nil
}

// beyond says whether a range starts after the end of the blob.
func beyond(text string, size int) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	start, err := strconv.ParseInt(first, 10, 64)
	return err == nil && start >= int64(size)
}
