package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says which Fieldgate this is. The JSON names are stable.
type build struct {
	Version  string `json:"version"`  // of the module, "(devel)" outside a release
	Revision string `json:"revision"` // commit, "" when built outside a checkout; "+dirty" for local changes
	Time     string `json:"time"`     // of the commit, RFC 3339
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisBuild reads what the Go tool noted in the binary.
func thisBuild() build {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	if b.Revision != "" {
		b.Revision += dirty
	}
	return b
}

func versionCommand(std streams) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Say which Fieldgate this is",
		Example: "  fieldgate version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			if asJSON {
				return json.NewEncoder(std.out).Encode(b)
			}
			fmt.Fprintf(std.out, "fieldgate %s", b.Version)
			if b.Revision != "" {
				fmt.Fprintf(std.out, " (%.12s)", b.Revision)
			}
			fmt.Fprintf(std.out, " %s %s\n", b.Go, b.Platform)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return c
}
