// Fieldgate is the firmware of an IoT field gateway. This is the one binary of
// it: "fieldgate run" is the daemon, the other subcommands serve the operator.
//
// config.go reads the configuration, parts.go lists what the gateway is made of
// and run.go ties the parts together. The gateway itself is package gateway.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	return execute(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
}

// untilSignal returns a context that ends when the program is asked to end.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}
