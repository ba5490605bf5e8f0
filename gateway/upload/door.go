package upload

import (
	"crypto/subtle"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Login tells whose a request is: the leaf has proven itself by the Authorization
// header or by its certificate. The error says why it has not.
type Login func(r *http.Request, device string) error

// container is the name under which leaves write files here.
const container = "fieldgate"

// Door serves the hub's file upload to leaves that take the gateway for the hub
// (wire contract, section 4.4): stock SDKs whose hub name resolves to it. What it
// gives out as storage is the spool.
func (s *Spool) Door(login Login, clock gateway.Clock) http.Handler {
	d := &door{Spool: s, login: login, clock: clock, places: newPlaces()}
	return d.handler()
}

func (d *door) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /devices/{device}/files", d.start)
	mux.HandleFunc("POST /devices/{device}/files/notifications", d.finish)
	mux.HandleFunc("POST /devices/{device}/files/notifications/{correlation...}", d.finish)
	mux.HandleFunc("PUT /"+container+"/{rest...}", d.put)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		turnAway(w)
		refuse(w, http.StatusNotFound, "NotFound", "the gateway serves file upload here, and nothing else")
	})
	return mux
}

type door struct {
	*Spool
	login  Login
	clock  gateway.Clock
	places *places
}

// farewell is how long the rest of a request is read that is refused already: a
// client that is still sending would not hear why.
const farewell = 2 * time.Second

// turnAway has the connection end with the answer. Who has proven nothing must not
// keep one, as it may have only so long for MQTT's login: they are few.
func turnAway(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(farewell)) // it has ended if that fails
}

// refuse answers as the hub does (wire contract, section 4.3).
func refuse(w http.ResponseWriter, status int, name, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"Message": "ErrorCode:" + name + ";" + text, "ExceptionMessage": ""})
}

// refuseFor answers an error of the spool.
func refuseFor(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrMany):
		refuse(w, http.StatusForbidden, "DeviceMaximumActiveFileUploadLimitExceeded", err.Error())
	case errors.Is(err, gateway.ErrTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", err.Error())
	case errors.Is(err, gateway.ErrStoreFull), errors.Is(err, gateway.ErrStoreFailed):
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", err.Error())
	case errors.Is(err, ErrGone):
		refuse(w, http.StatusBadRequest, "InvalidBlobUploadCorrelationId", err.Error())
	default:
		refuse(w, http.StatusBadRequest, "ArgumentInvalid", err.Error())
	}
}

// identify returns the device of the path if the request is its own.
func (d *door) identify(w http.ResponseWriter, r *http.Request) (device string, ok bool) {
	device = r.PathValue("device")
	if err := d.login(r, device); err != nil {
		turnAway(w)
		refuse(w, http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized")
		return "", false
	}
	return device, true
}

// readJSON reads a small body; it answers if it cannot.
func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "ArgumentInvalid", "the body cannot be read: "+err.Error())
	}
	return err == nil
}

func (d *door) start(w http.ResponseWriter, r *http.Request) {
	device, ok := d.identify(w, r)
	if !ok {
		return
	}
	var body struct{ BlobName string }
	if !readJSON(w, r, &body) {
		return
	}
	id, err := d.Begin(device, body.BlobName, d.clock().Wall)
	if err != nil {
		refuseFor(w, err)
		return
	}
	f, err := d.find(id)
	if err != nil {
		refuseFor(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(place{
		CorrelationID: id, HostName: r.Host, ContainerName: container, BlobName: device + "/" + body.BlobName,
		SASToken: "?file=" + id + "&sig=" + url.QueryEscape(d.headOf(f).Secret),
	})
}

// finish hears that the file is there, or that the leaf has given it up.
func (d *door) finish(w http.ResponseWriter, r *http.Request) {
	device, ok := d.identify(w, r)
	if !ok {
		return
	}
	var body struct {
		CorrelationID string
		IsSuccess     bool
	}
	if !readJSON(w, r, &body) {
		return
	}
	id := r.PathValue("correlation")
	if id == "" {
		id = body.CorrelationID
	}
	err := d.own(id, device)
	switch {
	case err == nil && body.IsSuccess:
		err = d.Finish(id)
	case err == nil:
		if err = d.Cancel(id); errors.Is(err, ErrWhole) {
			err = nil // it is in custody, whatever came after
		}
	}
	if err != nil {
		refuseFor(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// own says whether a file is the device's, or was.
func (d *door) own(id, device string) error {
	f, err := d.find(id)
	switch {
	case errors.Is(err, ErrGone) && d.wasSent(id):
		return nil
	case err == nil && d.headOf(f).Leaf != device:
		return ErrGone
	}
	return err
}

// put is what the storage does: a block, the list of blocks, or all at once.
func (d *door) put(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id := q.Get("file")
	f, err := d.find(id)
	var h head
	if err == nil {
		h = d.headOf(f)
	}
	if err != nil || subtle.ConstantTimeCompare([]byte(q.Get("sig")), []byte(h.Secret)) != 1 || r.PathValue("rest") != h.Leaf+"/"+h.Name {
		turnAway(w)
		storageError(w, http.StatusForbidden, "AuthenticationFailed")
		return
	}
	body := http.MaxBytesReader(w, r.Body, int64(d.cfg.Load().MaxFile))
	take := func(read func(io.Reader) error) error {
		cut := func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now()) } // it has ended if that fails
		return d.places.take(r.Context(), h.Leaf, body, cut, read)
	}
	switch q.Get("comp") {
	case "block":
		err = take(func(body io.Reader) error { return d.putBlock(id, q.Get("blockid"), body) })
	case "blocklist":
		err = take(func(body io.Reader) error { return d.putList(id, io.LimitReader(body, maxList)) })
	case "":
		err = d.putWhole(take, id)
	default:
		err = ErrBlock
	}
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case err == nil:
	case tooLarge, errors.Is(err, gateway.ErrTooLarge):
		storageError(w, http.StatusRequestEntityTooLarge, "RequestBodyTooLarge")
		return
	case errors.Is(err, gateway.ErrStoreFull), errors.Is(err, gateway.ErrStoreFailed), errors.Is(err, errSlow):
		storageError(w, http.StatusServiceUnavailable, "ServerBusy")
		return
	default:
		storageError(w, http.StatusBadRequest, "InvalidBlockList")
		return
	}
	now := d.clock().Wall
	w.Header().Set("ETag", strconv.Quote("0x"+strconv.FormatInt(now.UnixNano(), 16)))
	w.Header().Set("Last-Modified", now.UTC().Format(http.TimeFormat))
	w.Header().Set("X-Ms-Request-Id", id)
	w.Header().Set("X-Ms-Version", storageVersion)
	w.WriteHeader(http.StatusCreated)
}

// storageError answers as the storage does.
func storageError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code></Error>`, code)
}

// maxList bounds a list of blocks, in bytes.
const maxList = 8 << 20

// putBlock takes one block.
func (d *door) putBlock(id, block string, body io.Reader) error {
	content, err := io.ReadAll(io.LimitReader(body, maxBlock+1)) // Put says when it is too much
	if err != nil {
		return err
	}
	return d.Put(id, block, content)
}

// putList puts the file together of blocks.
func (d *door) putList(id string, body io.Reader) error {
	var list struct {
		Blocks []struct {
			XMLName xml.Name
			ID      string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := xml.NewDecoder(body).Decode(&list); err != nil {
		return fmt.Errorf("%w: %w", ErrBlock, err)
	}
	order := make([]string, 0, len(list.Blocks))
	for _, b := range list.Blocks {
		order = append(order, strings.TrimSpace(b.ID))
	}
	return d.Arrange(id, order)
}

// putWhole takes a file in one piece, and keeps it in blocks; take gives a place for
// each.
func (d *door) putWhole(take func(read func(io.Reader) error) error, id string) error {
	var order []string
	for more := true; more; {
		block := blockID(len(order))
		err := take(func(body io.Reader) error {
			content, err := io.ReadAll(io.LimitReader(body, maxBlock))
			if err != nil {
				return err
			}
			if more = len(content) == maxBlock; len(content) == 0 && len(order) > 0 {
				return nil
			}
			order = append(order, block)
			return d.Put(id, block, content)
		})
		if err != nil {
			return err
		}
	}
	return d.Arrange(id, order)
}
