package blob

import (
	"bytes"
	"crypto/md5" // the storage service's checksum, not a protection
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
)

// putBlob takes a blob in one piece.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request, on object) error {
	if r.Header.Get("x-ms-blob-type") != "BlockBlob" {
		return errBlobType
	}
	data, err := s.body(r)
	if err != nil {
		return err
	}
	b, err := s.store.put(on, data, keptHeaders(r.Header), conditionsOf(r.Header))
	if err != nil {
		return err
	}
	created(w, b, data)
	return nil
}

// putBlock takes a part of a blob, which counts once a list names it.
func (s *Server) putBlock(w http.ResponseWriter, r *http.Request, on object, id string) error {
	if b, err := base64.StdEncoding.DecodeString(id); err != nil || len(b) == 0 || len(b) > maxBlockID {
		return errBlockID
	}
	if r.ContentLength == 0 {
		return errNoLength
	}
	data, err := s.body(r)
	if err != nil {
		return err
	}
	if err := s.store.putBlock(on, id, data); err != nil {
		return err
	}
	created(w, nil, data)
	return nil
}

// putBlockList makes a blob of blocks.
func (s *Server) putBlockList(w http.ResponseWriter, r *http.Request, on object) error {
	data, err := s.body(r)
	if err != nil {
		return err
	}
	s.store.release(len(data)) // the list itself is not kept
	list, err := parseBlockList(data)
	if err != nil {
		return err
	}
	b, err := s.store.putList(on, list, keptHeaders(r.Header), conditionsOf(r.Header))
	if err != nil {
		return err
	}
	created(w, b, data)
	return nil
}

// created answers 201, with the checksum of what has arrived. b is nil for what
// is not a blob yet.
func created(w http.ResponseWriter, b *blob, body []byte) {
	h := w.Header()
	if b != nil {
		b.tell(h)
	}
	h.Set("Content-MD5", checksum(body))
	h.Set("x-ms-request-server-encrypted", "true") // SDKs want it, true or not
	w.WriteHeader(http.StatusCreated)
}

// body reads the body of a request into room that it reserves first, so that
// any number of uploads at a time stay within the memory. Without an error the
// caller has to give the room back, or hand it on with the data.
func (s *Server) body(r *http.Request) ([]byte, error) {
	n := r.ContentLength
	if n < 0 {
		return nil, errNoLength
	}
	if err := s.store.reserve(n); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r.Body, data)
	if err != nil {
		err = errIncomplete
	} else if want := r.Header.Get("Content-MD5"); want != "" && want != checksum(data) {
		err = errChecksum
	}
	if err != nil {
		s.store.release(len(data))
		return nil, err
	}
	return data, nil
}

// checksum is the Content-MD5 of a body.
func checksum(data []byte) string {
	sum := md5.Sum(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// blockRef is a line of a block list: an id and where to look for it, among the
// blocks that wait first.
type blockRef struct {
	id                 string
	waiting, committed bool
}

// parseBlockList reads the XML of a block list.
func parseBlockList(data []byte) ([]blockRef, error) {
	var list struct {
		XMLName xml.Name `xml:"BlockList"`
		Blocks  []struct {
			XMLName xml.Name
			ID      string `xml:",chardata"`
		} `xml:",any"`
	}
	d := xml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&list); err != nil {
		return nil, errXML
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errXML
	}
	if len(list.Blocks) > maxBlocks {
		return nil, errTooManyBlocks
	}
	refs := make([]blockRef, len(list.Blocks))
	for n, b := range list.Blocks {
		refs[n].id = strings.TrimSpace(b.ID)
		switch b.XMLName.Local {
		case "Latest":
			refs[n].waiting, refs[n].committed = true, true
		case "Uncommitted":
			refs[n].waiting = true
		case "Committed":
			refs[n].committed = true
		default:
			return nil, errXML
		}
	}
	return refs, nil
}

// conditions are what must hold before a blob is replaced.
type conditions struct{ match, noneMatch string }

func conditionsOf(h http.Header) conditions {
	return conditions{h.Get("If-Match"), h.Get("If-None-Match")}
}

// check compares with what is there; old is nil for nothing.
func (c conditions) check(old *blob) error {
	switch {
	case c.noneMatch == "*" && old != nil:
		return errBlobExists
	case c.match != "" && (old == nil || (c.match != "*" && c.match != old.etag)),
		c.noneMatch != "" && old != nil && c.noneMatch == old.etag:
		return errCondition
	}
	return nil
}

// keptHeaders picks what a client wants back when it gets the blob.
func keptHeaders(from http.Header) http.Header {
	kept := http.Header{"Content-Type": {"application/octet-stream"}}
	for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control"} {
		if value := from.Get("x-ms-blob-" + name); value != "" {
			kept.Set(name, value)
		}
	}
	for name, values := range from {
		if strings.HasPrefix(name, "X-Ms-Meta-") {
			kept[name] = values
		}
	}
	return kept
}
