package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// radio is Bluetooth as an operator reaches it.
type radio struct{ *ble.Driver }

var _ control.Radio = radio{}

// lookFor is how long a device that was not heard lately is looked for.
const lookFor = 5 * time.Second

// Scan is described at control.Radio.
func (r radio) Scan(ctx context.Context, length time.Duration) ([]control.Heard, error) {
	found, err := r.Driver.Scan(ctx, length)
	if err != nil {
		return nil, radioRefusal(err)
	}
	all := make([]control.Heard, len(found))
	for i, f := range found {
		all[i] = control.Heard{Address: f.Address, Name: f.Name, RSSI: f.RSSI, Paired: f.Paired, Seen: f.Seen.UTC()}
	}
	return all, nil
}

// Pair is described at control.Radio. A device that was not heard lately is looked
// for: one that is not paired is forgotten soon.
func (r radio) Pair(ctx context.Context, address string, ask control.Ceremony) error {
	how := ble.Ceremony{Passkey: ask.Passkey, Confirm: ask.Agree, Display: ask.Show, JustWorks: ask.JustWorks}
	limit, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	for {
		err := r.Driver.Pair(ctx, address, how)
		if !errors.Is(err, ble.ErrNotSeen) || limit.Err() != nil {
			return radioRefusal(err)
		}
		if _, err := r.Driver.Scan(limit, time.Second); err != nil {
			return radioRefusal(err)
		}
	}
}

// Forget is described at control.Radio.
func (r radio) Forget(ctx context.Context, address string) error {
	return radioRefusal(r.Driver.Forget(ctx, address))
}

// radioRefusal gives an error of the driver the status by which the exit code is told.
func radioRefusal(err error) error {
	for why, status := range map[error]int{
		ble.ErrPaired: http.StatusConflict, ble.ErrNotSeen: http.StatusNotFound, ble.ErrNoBond: http.StatusNotFound, ble.ErrNoAdapter: http.StatusServiceUnavailable,
		ble.ErrWrongKey: http.StatusUnauthorized, ble.ErrUnproven: http.StatusPreconditionFailed, ble.ErrTimedOut: http.StatusGatewayTimeout,
	} {
		if errors.Is(err, why) {
			return &control.Refusal{Status: status, Err: err}
		}
	}
	return err
}
