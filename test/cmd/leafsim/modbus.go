package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/leafsim/meter"
)

func modbusCommand() *cobra.Command {
	var port string
	var slaves int
	c := &cobra.Command{
		Use:   "modbus",
		Short: "Be Modbus slaves on a simulated bus",
		Long: `Plays Modbus RTU slaves at the addresses 1, 2, 3 … until SIGINT, on a
pseudo-terminal that a gateway, or another master, opens as if it were an RS-485
port. Each has

  input 0 and 1   uint32, goes up by one with each request that reads it
  input 2         int16, 215: 21.5 with a scale of 0.1
  holding 0       180, can be written; what is written is shown`,
		Example: "  leafsim modbus --port /tmp/bus --slaves 2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if slaves < 1 || slaves > 247 {
				return fmt.Errorf("--slaves %d is out of range: 1 to 247", slaves)
			}
			return serveModbus(cmd.Context(), cmd.OutOrStdout(), port, slaves)
		},
	}
	f := c.Flags()
	f.StringVar(&port, "port", "", "`path` at which the port is to appear (required)")
	f.IntVar(&slaves, "slaves", 1, "how many, 1 to 247")
	_ = c.MarkFlagRequired("port") // fails only for a flag that does not exist
	return c
}

func serveModbus(ctx context.Context, out io.Writer, port string, n int) error {
	slaves, held := make(map[byte]*meter.Slave), make([]uint16, n+1)
	for i := 1; i <= n; i++ {
		slaves[byte(i)] = &meter.Slave{Input: []uint16{0, 0, 215}, Holding: []uint16{180}, Counts: true}
		held[i] = 180
	}
	bus, err := meter.Start(port, slaves)
	if err != nil {
		return err
	}
	defer bus.Close()
	fmt.Fprintf(out, "slaves 1 to %d on %s\n", n, port)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// A master that was killed leaves the port in exclusive use.
		if err := bus.Restart(); err != nil {
			return err
		}
		for i := 1; i <= n; i++ {
			bus.Do(byte(i), func(s *meter.Slave) {
				if s.Holding[0] != held[i] {
					held[i] = s.Holding[0]
					fmt.Fprintf(out, "slave %d: holding 0 is %d\n", i, held[i])
				}
			})
		}
	}
}
