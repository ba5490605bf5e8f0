package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

func hashPasswordCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "hash-password",
		Short: "Make the content of a leaf's password_file",
		Long: `Reads a password, one line, from standard input and prints its hash: the content
of the file that password_file of a [[leaf]] names. At a terminal it asks, and
does not show what is typed.`,
		Example: `  fieldgate device hash-password > pump-1.hash
  printf '%s\n' "$PASSWORD" | fieldgate device hash-password > pump-1.hash`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			password, err := readHidden(c.Context(), std, "Password")
			if err == nil {
				var hash string
				if hash, err = pairing.HashPassword(password); err == nil {
					fmt.Fprintln(std.out, hash)
					return nil
				}
			}
			return &failure{
				exitFailed, "cannot hash the password", err,
				"give the password as one line on standard input, or run this at a terminal",
			}
		},
	}
}

// readHidden reads one line; at a terminal it asks for what it is called, without an
// echo. When ctx ends it no longer waits for it, but reads on: nothing else may read
// standard input then.
func readHidden(ctx context.Context, std streams, called string) (string, error) {
	if f, ok := std.in.(*os.File); ok {
		show, err := hideTyping(f)
		if err == nil {
			fmt.Fprint(std.err, called+": ")
			defer fmt.Fprintln(std.err)
			defer show()
		}
	}
	type typed struct {
		line string
		err  error
	}
	read := make(chan typed, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(std.in, 4096)).ReadString('\n')
		read <- typed{line, err}
	}()
	select {
	case got := <-read:
		if got.err != nil && !errors.Is(got.err, io.EOF) {
			return "", got.err
		}
		return strings.TrimRight(got.line, "\r\n"), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// hideTyping switches the echo of a terminal off and returns what switches it on
// again. The error says that f is no terminal.
func hideTyping(f *os.File) (show func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}
