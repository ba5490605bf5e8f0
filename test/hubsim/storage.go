package hubsim

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// blobAccount is the account of the built-in blob server.
const blobAccount = "hubsim"

// storage lets devices upload files, to the built-in blob server unless the
// configuration names another one. It returns where the files go and, for the
// built-in one, the server.
func (h *Hub) storage() (endpoint string, server http.Handler, err error) {
	client, err := h.trustingClient()
	if err != nil {
		return "", nil, err
	}
	h.hub.Transfers.SetClient(client)
	cfg := files.Config{
		Endpoint: h.cfg.BlobEndpoint, Account: h.cfg.BlobAccount, Key: h.cfg.BlobKey,
		Container: blob.Container, Client: client,
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "https://" + net.JoinHostPort(h.cfg.Bind, strconv.Itoa(portOf(h.listeners.https)))
		cfg.Account, cfg.Key = blobAccount, h.state.BlobKey
		built, err := blob.New(blob.Config{Account: cfg.Account, Key: cfg.Key})
		if err != nil {
			return "", nil, err
		}
		cfg.Look, server = built.Look, built
	}
	h.hub.Uploads, err = files.New(cfg)
	return cfg.Endpoint, server, err
}

// trustingClient reaches blob servers whose certificate the hub's own authority
// or a public one has signed.
func (h *Hub) trustingClient() (*http.Client, error) {
	text, err := os.ReadFile(h.certificates.caFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without public authorities
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", h.certificates.caFile)
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		DisableKeepAlives: true, // so that none is left when the hub closes
	}}, nil
}
