package main

import (
	"bufio"
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
		RunE: func(*cobra.Command, []string) error {
			password, err := readHidden(std, "Password")
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

// readHidden reads one line; at a terminal it asks for what it is called, without an echo.
func readHidden(std streams, called string) (string, error) {
	if f, ok := std.in.(*os.File); ok {
		show, err := hideTyping(f)
		if err == nil {
			fmt.Fprint(std.err, called+": ")
			defer fmt.Fprintln(std.err)
			defer show()
		}
	}
	line, err := bufio.NewReader(io.LimitReader(std.in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
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
