package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func validateCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration file and everything that it names",
		Long: `Reads the file, the files of the folder leaf.d beside it, and the keys and
certificates that they name, exactly as "fieldgate run" does, and lists every
mistake with its line and column. Exit code 3 says that there are any.`,
		Example: "  fieldgate config validate /etc/fieldgate/fieldgate.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(args[0])
			if err != nil {
				return configFailure(args[0], err, exitConfig, "mend the places above and run this again")
			}
			for _, w := range cfg.warnings {
				fmt.Fprintf(std.err, "warning: %v\n", w)
			}
			fmt.Fprintf(std.out, "%s is valid: %s, %s, %s\n", args[0],
				count(len(cfg.leaves), "leaf", "leaves"),
				count(len(cfg.ports), "serial port", "serial ports"),
				count(len(cfg.modules), "module", "modules"))
			return nil
		},
	}
}

// configFailure says what is wrong with a configuration. Mistakes in it have the
// exit code given; a file that cannot be read is no different: there is none.
func configFailure(file string, err error, code int, next string) error {
	if mistakes, ok := errors.AsType[invalid](err); ok {
		what := fmt.Sprintf("%s has %s", file, count(len(mistakes), "mistake", "mistakes"))
		return &failure{code, what, err, next}
	}
	return &failure{code, "cannot read the configuration", err, "name a file that exists and that this user may read"}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
