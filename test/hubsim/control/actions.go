package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// maxBody bounds what an action may carry, in bytes; no twin, command or method
// payload is larger.
const maxBody = 256 << 10

// callTime is how long a method may take to be answered.
const callTime = 30 * time.Second

// actions adds what a service does every day, for people at a terminal: devices,
// commands, twins and methods.
func actions(mux *http.ServeMux, hub *hubsim.Hub) {
	for pattern, do := range map[string]func(r *http.Request, body []byte) (string, error){
		"GET /devices": func(*http.Request, []byte) (string, error) { return devices(hub), nil },
		"POST /devices/{d}": func(r *http.Request, body []byte) (string, error) {
			return hub.AddDevice(r.PathValue("d"), string(body))
		},
		"DELETE /devices/{d}": func(r *http.Request, _ []byte) (string, error) { return "", hub.RemoveDevice(r.PathValue("d")) },
		"POST /send/{d}": func(r *http.Request, body []byte) (string, error) {
			return "", send(hub, r.PathValue("d"), body)
		},
		"GET /twins/{d}":   func(r *http.Request, _ []byte) (string, error) { return twin(hub, r.PathValue("d"), nil) },
		"PATCH /twins/{d}": func(r *http.Request, body []byte) (string, error) { return twin(hub, r.PathValue("d"), body) },
		"POST /call/{d}/{method}": func(r *http.Request, body []byte) (string, error) {
			return call(r, hub, body)
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
			var text string
			if err == nil {
				text, err = do(r, body)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprintln(w, text)
		})
	}
}

// devices lists the devices, one a line.
func devices(hub *hubsim.Hub) string {
	var text strings.Builder
	text.WriteString(fmt.Sprintf("%-30s %-9s %-13s %s", "DEVICE", "STATUS", "CONNECTION", "COMMANDS"))
	h := hub.Domain()
	for _, i := range h.Registry.List(0) {
		status, connection := "enabled", "disconnected"
		if i.Disabled {
			status = "disabled"
		}
		if h.Presence.State(i.ID).Connected {
			connection = "connected"
		}
		text.WriteString(fmt.Sprintf("\n%-30s %-9s %-13s %d", i.ID.Device, status, connection, h.Commands.Len(i.ID)))
	}
	return text.String()
}

// send queues a command with text for a device.
func send(hub *hubsim.Hub, device string, body []byte) error {
	id := registry.ID{Device: device}
	if _, err := hub.Domain().Registry.Find(id); err != nil {
		return err
	}
	return hub.Domain().Commands.Send(id, &message.Message{
		To: "/devices/" + device + "/messages/devicebound", Body: body,
	})
}

// twin merges a patch, if there is one, and returns the twin.
func twin(hub *hubsim.Hub, device string, patch []byte) (string, error) {
	id := registry.ID{Device: device}
	if patch == nil {
		text, err := hub.Domain().Twins.Get(id)
		return string(text), err
	}
	text, err := hub.Domain().Twins.Update(id, patch, false, "")
	return string(text), err
}

// call invokes a method and returns its answer.
func call(r *http.Request, hub *hubsim.Hub, payload []byte) (string, error) {
	c := methods.Call{Name: r.PathValue("method"), ResponseTimeout: callTime}
	if len(payload) > 0 {
		if !json.Valid(payload) {
			return "", fmt.Errorf("the payload of a method must be JSON, not %q", payload)
		}
		c.Payload = payload
	}
	answer, err := hub.Domain().Methods.Invoke(r.Context(), registry.ID{Device: r.PathValue("d")}, c)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %s", answer.Status, answer.Payload), nil
}
