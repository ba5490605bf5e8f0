//go:build profile

package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// A build with this tag is for the bench only: it writes a profile of the time
// between SIGUSR1 and SIGUSR2 into the folder that FIELDGATE_PROFILES names.
func init() {
	dir := os.Getenv("FIELDGATE_PROFILES")
	if dir == "" {
		return
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		var out *os.File
		for n := 0; ; {
			switch <-signals {
			case syscall.SIGUSR1:
				n++
				out, _ = os.Create(fmt.Sprintf("%s/%d-%d.cpu", dir, os.Getpid(), n))
				_ = pprof.StartCPUProfile(out)
			case syscall.SIGUSR2:
				pprof.StopCPUProfile()
				_ = out.Close()
				if heap, err := os.Create(fmt.Sprintf("%s/%d-%d.heap", dir, os.Getpid(), n)); err == nil {
					_ = pprof.WriteHeapProfile(heap)
					_ = heap.Close()
				}
			}
		}
	}()
}
