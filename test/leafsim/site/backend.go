package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
	"github.com/fieldgate/fieldgate/test/hubsim/reader"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
)

// hubFile is the part of hub.json that is needed here.
type hubFile struct {
	AMQPPort  int    `json:"amqp_port"`
	HTTPSPort int    `json:"https_port"`
	Bind      string `json:"bind"`
	Owner     string `json:"owner_connection_string"`
	CAFile    string `json:"ca_file"`
	Events    string `json:"event_hub_connection_string"`
	Devices   map[string]struct {
		ConnectionString string `json:"connection_string"`
	} `json:"devices"`
}

func readHubFile(hubDir string) (hubFile, error) {
	var h hubFile
	text, err := os.ReadFile(filepath.Join(hubDir, "hub.json"))
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(text, &h)
}

// key is a device's key, as the hub hands it out.
func (h *hubFile) key(device string) (string, error) {
	for field := range strings.SplitSeq(h.Devices[device].ConnectionString, ";") {
		if key, ok := strings.CutPrefix(field, "SharedAccessKey="); ok {
			return key, nil
		}
	}
	return "", fmt.Errorf("the hub knows no key of %s", device)
}

// readEvents reads everything that the hub has as a back end does: over AMQP, on
// the Event-Hubs-compatible endpoint, from the beginning.
func readEvents(ctx context.Context, hubDir string, except []string) (events []check.Arrival, err error) {
	hub, err := readHubFile(hubDir)
	if err != nil {
		return nil, err
	}
	want := 0
	err = control.NewClient(hubDir).Arrivals(ctx, false, func(a hubsim.Arrival) error {
		if !slices.Contains(except, a.Device) {
			want++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := reader.Open(ctx, hub.Events, hub.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read events: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for len(events) < want {
		e, err := r.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("read %d of %d events: %w", len(events), want, err)
		}
		if !slices.Contains(except, e.Device) { // these may send still
			events = append(events, judged(e.Device, e.MessageID, e.Body, e.Properties))
		}
	}
	return events, nil
}

// judged is the part of an event that the checker looks at. Properties that are
// missing or no numbers count as 0, which the checker finds.
func judged(device, id string, body []byte, properties map[string]string) check.Arrival {
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(properties[name], 10, 64)
		return n
	}
	return check.Arrival{
		Device: device, MessageID: id, Body: body,
		Start: number("fieldgate-start"), Seq: number("fieldgate-seq"), Dropped: number("fieldgate-dropped"),
	}
}

// CheckFiles compares a file of acknowledgements with what a back end reads
// from the hubsim that serves in hubDir, except what came from some devices.
func CheckFiles(ctx context.Context, ackFile, hubDir string, except ...string) (check.Report, error) {
	acks, err := leafsim.ReadAcks(ackFile)
	if err != nil {
		return check.Report{}, err
	}
	events, err := readEvents(ctx, hubDir, except)
	if err != nil {
		return check.Report{}, err
	}
	return check.Compare(acks, events), nil
}
