package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// part is a piece of the gateway that runs: run blocks until ctx ends, and
// everything that it started has ended when it returns.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// errEnded says that a part came to an end while it should run.
var errEnded = errors.New("ended by itself")

// runStages starts the stages one after the other and waits. When ctx ends, or
// when any part does, it stops them in reverse: a stage is told to stop only
// when everything in the stages after it has ended. The error is that of the
// part that failed first, nil if ctx ended and all went well.
func runStages(ctx context.Context, stages ...[]part) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	first := make(chan error, 1)
	running := make([]sync.WaitGroup, len(stages))
	stops := make([]context.CancelFunc, len(stages))
	for i, stage := range stages {
		// Not stopped by ctx, but when it is this stage's turn.
		stageCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		stops[i] = stop
		for _, p := range stage {
			running[i].Go(func() {
				err := p.run(stageCtx)
				if err == nil && stageCtx.Err() == nil {
					err = errEnded
				}
				if err != nil {
					select {
					case first <- fmt.Errorf("%s: %w", p.name, err):
					default:
					}
					end()
				}
			})
		}
	}
	<-ctx.Done()
	for i := range slices.Backward(stages) {
		stops[i]()
		running[i].Wait()
	}
	select {
	case err := <-first:
		return err
	default:
		return nil
	}
}
