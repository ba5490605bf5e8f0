package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes. The operator's scripts rely on them: they never change.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitConfig      = 3 // invalid configuration, for the commands of the operator
	exitNotRunning  = 4 // no daemon answers
	exitUnreachable = 5 // of the hub
	exitRejected    = 6 // rejected credentials
	exitTimedOut    = 7
	exitNotFound    = 8
	exitForbidden   = 9  // refused by policy
	exitStore       = 10 // damaged or full

	exitExConfig = 78 // the same for the daemon: EX_CONFIG of sysexits.h, tells systemd not to restart
	exitReset    = 79 // the daemon: the machine is to start again, with a factory reset
)

// streams are the standard streams, so that a test can have its own.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// failure is an error on its way to the person at the terminal, in three parts:
// what failed, why, and what to do next.
type failure struct {
	code int
	what string
	why  error
	next string
}

// errNo is the answer of a command that is asked by its exit code. Nothing has failed,
// and nothing more is said.
var errNo = errors.New("no")

func (f *failure) Error() string { return f.what + ": " + f.why.Error() }
func (f *failure) Unwrap() error { return f.why }

// print writes the parts, one a line. The mistakes of a configuration are a line
// each, spelt as compilers do, so that editors can jump to them.
func (f *failure) print(w io.Writer) {
	fmt.Fprintf(w, "error: %s\n", f.what)
	if mistakes, ok := errors.AsType[invalid](f.why); ok {
		fmt.Fprintln(w, mistakes)
	} else {
		say(w, "why: %s", strings.ReplaceAll(f.why.Error(), "\n", "; "))
	}
	fmt.Fprintf(w, "next: %s\n", f.next)
}

// execute runs one command line and returns the exit code. It returns when the
// command has ended; the daemon ends when ctx does.
func execute(ctx context.Context, args []string, std streams) int {
	root := commands(std)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errNo) {
		return exitFailed
	}
	f, ok := errors.AsType[*failure](err)
	if !ok { // cobra could not make sense of the command line
		f = &failure{exitUsage, "cannot understand the command line", err, "run: " + cmd.CommandPath() + " --help"}
	}
	f.print(std.err)
	return f.code
}

// commands is the list of everything that fieldgate can be asked to do.
func commands(std streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "fieldgate",
		Short: "Field gateway between leaf devices and an IoT hub",
		Long: `Fieldgate takes messages from leaf devices over MQTT and serial lines, keeps them
safe on flash while the hub cannot be reached, and carries them to an IoT hub
over one connection, each leaf under its own identity.`,
		Example: `  fieldgate config validate /etc/fieldgate/fieldgate.toml
  fieldgate run --config /etc/fieldgate/fieldgate.toml`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(
		runCommand(std),
		statusCommand(std),
		topCommand(std),
		checkCommand(std),
		netcheckCommand(std),
		connectCommand(std),
		waitCommand(std),
		whyCommand(std),
		logsCommand(std),
		pubCommand(std),
		subCommand(std),
		diagCommand(std),
		group("store", "Look at what is kept", storeStatusCommand(std), storeListCommand(std), storeExportCommand(std),
			storePurgeCommand(std), storeVerifyCommand(std), drainCommand(std), deadLettersCommand(std)),
		configCommand(std),
		deviceCommand(std),
		secretsCommand(std),
		pairCommand(std),
		serialCommand(std),
		certCommand(std),
		updateCommand(std),
		firstBootCommand(std),
		factoryResetCommand(std),
		motdCommand(std),
		bleCommand(std),
		versionCommand(std),
		completionCommand(std),
	)
	completeLeaves(root.Commands()...)
	return root
}

// group makes a command that only holds others.
func group(name, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:     name,
		Short:   short,
		Example: subs[0].Example,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(subs...)
	return c
}
