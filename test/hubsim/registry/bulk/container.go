package bulk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// errNoBlob is wrapped by the error of a blob that does not exist.
var errNoBlob = errors.New("there is no such blob")

// container is a blob container that is reached by the URI of a shared access
// signature, which is all the right that the hub has to it.
type container struct {
	uri    *url.URL
	client *http.Client
}

// openContainer takes the URI apart; it asks nobody. field is the URI's name in
// the request. The error is a *refusal.Error.
func openContainer(field, uri string, client *http.Client) (container, error) {
	if uri == "" {
		return container{}, refusal.New(400005, field+" is missing")
	}
	u, err := url.Parse(uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || len(u.Path) < 2 {
		// The text is not repeated: it holds a signature.
		return container{}, refusal.New(400020, field+" is not the URI of a blob container")
	}
	return container{u, client}, nil
}

// blob is the URI of a blob: the signature of the container holds for what is in
// it.
func (c container) blob(name string) string {
	u := c.uri.JoinPath(name)
	return u.String()
}

// put writes a blob as a whole (Put Blob of the storage service).
func (c container) put(ctx context.Context, name string, content []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, c.blob(name), bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("cannot write blob %s: %w", name, err)
	}
	request.Header.Set("x-ms-blob-type", "BlockBlob")
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := c.send(request)
	if err != nil {
		return fmt.Errorf("cannot write blob %s: %w", name, err)
	}
	return response.Body.Close()
}

// get opens a blob. The reader must be closed.
func (c container) get(ctx context.Context, name string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.blob(name), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", name, err)
	}
	response, err := c.send(request)
	if err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", name, err)
	}
	return response.Body, nil
}

// send returns the response when it is a good one.
func (c container) send(request *http.Request) (*http.Response, error) {
	response, err := c.client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URI, which holds a signature
		}
		return nil, err
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	_ = response.Body.Close() // it was not read
	if response.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: the storage answers %s", errNoBlob, response.Status)
	}
	return nil, fmt.Errorf("the storage answers %s", response.Status)
}
