package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/test/leafsim/demo"
)

func demoCommand() *cobra.Command {
	o := demo.Options{Rate: 5}
	var keep bool
	var seconds int
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the gateway's main job from end to end",
		Long: `Starts a hub, a gateway and leaves on this machine, cuts the link between gateway
and hub, kills the gateway, restores the link, and proves that everything that
was acknowledged has arrived once the backlog has drained. Needs no root and no
fixed ports. Ends with 1 if a promise was broken.`,
		Example: "  leafsim demo --bin bin --leaves 20 --seconds 30",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Bin, err = filepath.Abs(o.Bin); err != nil {
				return err
			}
			o.Length = time.Duration(seconds) * time.Second
			o.Out = cmd.OutOrStdout()
			if o.Dir, err = os.MkdirTemp("", "fieldgate-demo-"); err != nil {
				return err
			}
			err = demo.Run(cmd.Context(), o)
			interrupted := cmd.Context().Err() != nil
			if interrupted {
				err = errors.New("interrupted")
			}
			if err != nil && !interrupted || keep {
				cmd.PrintErrf("Everything is kept in %s: configuration, store, logs, acknowledgements.\n", o.Dir)
				return err
			}
			return errors.Join(err, os.RemoveAll(o.Dir))
		},
	}
	f := c.Flags()
	f.StringVar(&o.Bin, "bin", "bin", "`folder` with the programs fieldgate and hubsim")
	f.IntVar(&o.Leaves, "leaves", 20, "leaves over MQTT; three more come over serial lines, one of them in MQTT-SN, and a Modbus meter")
	f.IntVar(&seconds, "seconds", 30, "length, without the draining at the end")
	f.BoolVar(&keep, "keep", false, "keep the folder also when all is well")
	return c
}
