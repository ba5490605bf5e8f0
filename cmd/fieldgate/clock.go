package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
)

// gatewayClock says in the gateway's words what the board's clock shows.
func gatewayClock(c *board.Clock) gateway.Clock {
	quality := map[board.Trust]gateway.TimeQuality{
		board.Unset: gateway.Unsynced, board.Plausible: gateway.Estimated, board.Disciplined: gateway.Synced,
	}
	return func() gateway.Instant {
		r := c.Read()
		return gateway.Instant{Wall: r.Wall, Quality: quality[r.Trust], Boot: c.Boot(), Uptime: r.Uptime}
	}
}

// noteEvery is how often a trusted time is noted on flash. After a start with an
// unset clock, what the clock shows is not believed before that note.
const noteEvery = time.Hour

// noteGoodTime notes trusted time in file at the start and then every noteEvery.
func noteGoodTime(ctx context.Context, clock gateway.Clock, file string, log *slog.Logger) error {
	timer := time.NewTicker(noteEvery)
	defer timer.Stop()
	for {
		if now := clock(); now.Quality == gateway.Synced {
			if err := board.KeepGood(file, now.Wall); err != nil {
				log.Warn("cannot note the time", "error", err)
			}
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}
