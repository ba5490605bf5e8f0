package rest_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// withStorage adds a blob server and returns it.
func (b *deviceBench) withStorage() *blob.Server {
	b.t.Helper()
	key := base64.StdEncoding.EncodeToString(deviceKey)
	server, err := blob.New(blob.Config{Account: "bench", Key: key})
	if err != nil {
		b.t.Fatal(err)
	}
	b.hub.Uploads, err = files.New(files.Config{
		Endpoint: "https://hub.test", Account: "bench", Key: key, Container: blob.Container, Look: server.Look,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return server
}

// begin starts an upload of pump-1.
func (b *deviceBench) begin(name string) files.Ticket {
	b.t.Helper()
	w := b.pump(http.MethodPost, "/devices/pump-1/files?api-version=2021-04-12", `{"blobName":"`+name+`"}`)
	want(b.t, w, http.StatusOK, "")
	var ticket files.Ticket
	if err := json.Unmarshal(w.Body.Bytes(), &ticket); err != nil {
		b.t.Fatal(err)
	}
	return ticket
}

// upload puts a file where the ticket says.
func (b *deviceBench) upload(server *blob.Server, ticket files.Ticket, content string) {
	b.t.Helper()
	address := "https://" + ticket.HostName + "/" + ticket.ContainerName + "/" + ticket.BlobName + ticket.SASToken
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodPut, address, strings.NewReader(content))
	r.Header.Set("x-ms-blob-type", "BlockBlob")
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	if w.Code != http.StatusCreated {
		b.t.Fatalf("upload: %d %s", w.Code, w.Body)
	}
}

// The correlation id comes in the path or in the body, and the notice follows.
func TestFileUpload(t *testing.T) {
	b := newDeviceBench(t)
	server := b.withStorage()
	for _, inPath := range []bool{true, false} {
		ticket := b.begin("log/1.txt")
		b.upload(server, ticket, "hello")
		path, id := "/devices/pump-1/files/notifications", `,"correlationId":"`+ticket.CorrelationID+`"`
		if inPath {
			path, id = path+"/"+url.PathEscape(ticket.CorrelationID), ""
		}
		finish := `{"isSuccess":true,"statusCode":201,"statusDescription":""` + id + `}`
		want(t, b.pump(http.MethodPost, path+"?api-version=2021-04-12", finish), http.StatusNoContent, "")
		want(t, b.pump(http.MethodPost, path, finish), http.StatusBadRequest, "InvalidFileUploadCorrelationId")

		d, ok := b.hub.FileNotices.Receive()
		if !ok {
			t.Fatal("there is no notice")
		}
		var notice map[string]any
		if err := json.Unmarshal(d.Message.Body, &notice); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]any{
			"deviceId": "pump-1", "blobName": "pump-1/log/1.txt", "blobSizeInBytes": 5.0,
			"blobUri": "https://hub.test/uploads/pump-1/log/1.txt",
		} {
			if notice[name] != value {
				t.Errorf("%s is %v, want %v", name, notice[name], value)
			}
		}
		if notice["lastUpdatedTime"] == "" || notice["enqueuedTimeUtc"] == "" {
			t.Errorf("notice is %s", d.Message.Body)
		}
		if err := b.hub.FileNotices.Complete(d.LockToken); err != nil {
			t.Error(err)
		}
	}
}

// A failed upload is over, and nobody hears of it.
func TestFailedFileUpload(t *testing.T) {
	b := newDeviceBench(t)
	b.withStorage()
	ticket := b.begin("log.txt")
	path := "/devices/pump-1/files/notifications/" + url.PathEscape(ticket.CorrelationID)
	want(t, b.pump(http.MethodPost, path, `{"isSuccess":true}`), http.StatusBadRequest, "InvalidStorageEndpointOrBlob")
	want(t, b.pump(http.MethodPost, path, `{"isSuccess":false,"statusCode":500}`), http.StatusNoContent, "")
	want(t, b.pump(http.MethodPost, path, `{"isSuccess":true}`), http.StatusBadRequest, "InvalidFileUploadCorrelationId")
	if d, ok := b.hub.FileNotices.Receive(); ok {
		t.Errorf("there is a notice: %s", d.Message.Body)
	}
}

func TestBadFileRequests(t *testing.T) {
	b := newDeviceBench(t)
	want(t, b.pump(http.MethodPost, "/devices/pump-1/files", `{"blobName":"a"}`), http.StatusBadRequest, "DefaultStorageEndpointNotConfigured")
	want(t, b.pump(http.MethodPost, "/devices/pump-1/files/notifications/x", `{}`), http.StatusBadRequest, "DefaultStorageEndpointNotConfigured")
	b.withStorage()
	for _, body := range []string{"", "{}", "[]", `{"blobName":""}`, `{"blobName":1}`} {
		want(t, b.pump(http.MethodPost, "/devices/pump-1/files", body), http.StatusBadRequest, "ArgumentInvalid")
	}
	want(t, b.pump(http.MethodPost, "/devices/pump-1/files/notifications", `{"isSuccess":true}`), http.StatusBadRequest, "InvalidFileUploadCorrelationId")
	want(t, b.pump(http.MethodPost, "/devices/pump-2/files", `{"blobName":"a"}`), http.StatusNotFound, "DeviceNotFound")
	want(t, b.pump(http.MethodPost, "/devices/50%25%231%3F%2Bx/files", `{"blobName":"a"}`), http.StatusUnauthorized, "IotHubUnauthorizedAccess")
	for range files.MaxActive {
		b.begin("a")
	}
	want(t, b.pump(http.MethodPost, "/devices/pump-1/files", `{"blobName":"a"}`), http.StatusForbidden, "DeviceMaximumActiveFileUploadLimitExceeded")
}
