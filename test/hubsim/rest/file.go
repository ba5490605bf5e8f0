package rest

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
)

// fileRequests are the two ends of a file upload (section 4.4); the middle is
// between the device and a blob server. SDKs disagree on where the finish
// carries its correlation id: in the path or in the body.
func (a *API) fileRequests() {
	a.device("POST /devices/{d}/files", a.startUpload)
	a.device("POST /devices/{d}/files/notifications", a.finishUpload)
	a.device("POST /devices/{d}/files/notifications/{correlationId...}", a.finishUpload)
}

// startUpload answers with all that the device needs for one file.
func (a *API) startUpload(w http.ResponseWriter, r *http.Request, from hub.Source) error {
	var order struct {
		BlobName string `json:"blobName"`
	}
	if err := read(r, &order); err != nil {
		return err
	}
	if err := a.hub.Limits.Take(limits.Upload, 0); err != nil {
		return err
	}
	ticket, err := a.hub.Uploads.Start(from.ID.Device, order.BlobName)
	if err != nil {
		return err
	}
	return reply(w, ticket)
}

// finishUpload tells services of a file that has arrived.
func (a *API) finishUpload(w http.ResponseWriter, r *http.Request, from hub.Source) error {
	var result struct {
		CorrelationID string `json:"correlationId"`
		Success       bool   `json:"isSuccess"`
	}
	if err := read(r, &result); err != nil {
		return err
	}
	if id := r.PathValue("correlationId"); id != "" {
		result.CorrelationID = id
	}
	notice, err := a.hub.Uploads.Finish(r.Context(), from.ID.Device, result.CorrelationID, result.Success)
	if err != nil || notice == nil {
		return done(w, err)
	}
	record, err := json.Marshal(notice)
	if err != nil {
		return fmt.Errorf("cannot encode notice: %w", err)
	}
	a.hub.FileNotices.Add(from.ID, record)
	return done(w, nil)
}
