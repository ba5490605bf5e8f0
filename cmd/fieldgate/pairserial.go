package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// usualSpeeds are tried one after the other, in bits per second: the most usual first.
var usualSpeeds = []int{115200, 9600, 57600, 38400, 19200, 4800, 230400, 2400}

// quietAfter without a byte what a device had to say is over.
const quietAfter = 300 * time.Millisecond

// serialPairing is how a leaf is bound to a serial port.
type serialPairing struct {
	binding
	ports  ports
	limit  time.Duration
	baud   int    // 0: find out
	format string // "": find out
	// secret is the file with the key with which the device answers HELLO, "" for none.
	secret  string
	noHello bool // do not ask it
}

func pairSerialCommand(std streams) *cobra.Command {
	p := serialPairing{binding: binding{remote: remote{list: "the ports, and whose they are: fieldgate serial list"}}}
	c := &cobra.Command{
		Use:   "serial PORT",
		Short: "Bind a leaf to the serial port that it speaks on",
		Long: `Listens on a serial port that nobody uses, finds out how fast and in what format the
device there speaks, and shows what it said. With --as that device becomes a leaf of
that name: the port is its identity. Its tables are written into leaf.d, checked like
all of the configuration, and count at once, with the hub or without; other leaves
notice nothing.

With --as the device is asked who it is, by a line "HELLO ..." that firmware with a key
answers: docs/serial.md. One that does has to prove that it has the key, which is in
the file of --key-file or asked for at the terminal, and proves it again whenever the
port is opened; until then what comes is thrown away. Of one that does not answer
HELLO the port alone says who it is: whatever is plugged in there is the leaf. Without
--as, or with --no-hello, nothing is written to the port.

With --as it happens in a pairing window: one that is open with --transport serial, or
one that the command opens and says so. A name that belongs to a leaf is an alarm, and
closes the window. A wrong answer to HELLO counts as a wrong code: the fifth closes it.

Formats that it knows by listening are json, senml, nmea, text and mqtt-sn, at
2400 to 230400 baud, 8N1. With --baud and --format it need not listen. Modbus slaves
say nothing unasked: write their tables.

PORT is a name of "fieldgate serial list". It exits with 6 if HELLO is answered with
another key or name, 7 if nothing that makes sense is heard or HELLO is not answered
in spite of --key-file, 8 if there is no such port, 9 if the port or the name belongs
to a leaf, or the device has a key and none was given.`,
		Example: "  fieldgate pair serial usb:A50285BI\n  fieldgate pair serial /dev/serial/by-path/platform-usb-0:1.2:1.0-port0 --as meter-1\n  fieldgate pair serial usb:A50285BI --as meter-1 --key-file meter-1.key",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.pair(cmd.Context(), std, args[0]) },
	}
	p.binding.flags(c)
	c.Flags().StringVar(&p.ports.root, "root", "/", "where /sys of the machine is, `FOLDER`")
	c.Flags().StringVarP(&p.ports.file, "config", "c", defaultConfig(), "configuration `FILE`, which says whose ports are")
	c.Flags().DurationVar(&p.limit, "for", 30*time.Second, "how long to listen at most")
	c.Flags().IntVar(&p.baud, "baud", 0, "how fast it speaks, in bits per second; by default it is found out")
	c.Flags().StringVar(&p.format, "format", "", "what it speaks; by default it is found out")
	c.Flags().StringVar(&p.secret, "key-file", "", "the key with which it answers HELLO is in `FILE`, 32 to 128 hexadecimal digits; - is standard input")
	c.Flags().BoolVar(&p.noHello, "no-hello", false, "do not ask it who it is: the port alone says so")
	c.MarkFlagsMutuallyExclusive("key-file", "no-hello")
	return c
}

// pair is discovery, and with a name window, claim, approval and binding: whoever types the
// name stands before the port.
func (p *serialPairing) pair(ctx context.Context, std streams, name string) error {
	const what = "cannot pair over the serial port"
	line := control.SerialLine{Port: p.lasting(name), Baud: p.baud, Format: p.format}
	table := port.Default()
	table.Port, table.Baud = line.Port, cmp.Or(p.baud, usualSpeeds[0])
	if err := table.Validate(); err != nil {
		return &failure{exitUsage, what, err, p.list}
	}
	if err := p.there(line.Port); err != nil {
		return &failure{exitNotFound, what, fmt.Errorf("there is no port %s: %w", line.Port, err), p.list}
	}
	if owner := p.owner(line.Port); owner != "" {
		return &failure{exitForbidden, what, fmt.Errorf("%s belongs to %s", line.Port, owner), "remove that leaf first: fieldgate device remove " + owner}
	}
	key, err := p.key(std)
	if err != nil {
		return &failure{exitUsage, what, err, "write the key into a file that can be read, and name the leaf: --as meter-1 --key-file meter-1.key"}
	}
	hear := func() error {
		if line.Baud != 0 && line.Format != "" {
			return nil
		}
		return p.listen(ctx, std, &table, &line)
	}
	if p.leaf == "" {
		if err := hear(); err != nil {
			return err
		}
		fmt.Fprintf(std.out, "next    fieldgate pair serial %s --as LEAF --baud %d --format %s\n", line.Port, line.Baud, line.Format)
		return nil
	}
	return p.within(ctx, std, what, pairing.OverSerial, line.Port, p.limit+pairing.DefaultWindow, func() error {
		if err := hear(); err != nil {
			return err
		}
		if !p.noHello {
			if err := p.greet(ctx, std, what, &table, &line, key); err != nil {
				return err
			}
		}
		if err := p.bind(ctx, std, what, control.Admission{Line: &line}); err != nil {
			return err
		}
		fmt.Fprintf(std.out, "%s is bound to %s, %s at %d baud\n", p.leaf, line.Port, line.Format, line.Baud)
		return nil
	})
}

// key reads the key that was given; the zero Key is none.
func (p *serialPairing) key(std streams) (key hello.Key, err error) {
	switch {
	case p.secret == "":
		return key, nil
	case p.leaf == "":
		return key, errors.New("--key-file is the key of a leaf, and --as does not say of which")
	case p.secret == "-" && p.keyFile == "-":
		return key, errors.New("standard input can be one of --key-file and --hub-key-file")
	}
	text, err := readSecret(std, p.secret)
	if err != nil {
		return key, err
	}
	if key, err = hello.ParseKey(text); err != nil {
		err = fmt.Errorf("%s: %w", p.secret, err)
	}
	return key, err
}

// How long a device has to answer HELLO: longer than boards take that start anew when
// their port is opened. Most that have no key say nothing for that long.
const (
	helloLimit      = 10 * time.Second // it should have a key
	helloLimitNoKey = 3 * time.Second
)

// greet has the device prove that it is the leaf, if it answers HELLO, and puts its key
// into the line.
func (p *serialPairing) greet(ctx context.Context, std streams, what string, table *port.Config, line *control.SerialLine, key hello.Key) error {
	at, err := openSoon(ctx, table)
	if err != nil {
		return &failure{portCode(err), what, err, "whose ports are: fieldgate serial list; to write nothing to the port: --no-hello"}
	}
	defer at.Close() // before the daemon opens it
	limit := helloLimit
	if key.IsZero() {
		limit = helloLimitNoKey
	}
	answer, err := hello.Ask(ctx, at, limit, nil)
	switch {
	case errors.Is(err, hello.ErrSilent) && key.IsZero():
		fmt.Fprintf(std.out, "proof   the port alone: HELLO is not answered, whatever is plugged in there is %s\n", p.leaf)
		return nil
	case errors.Is(err, hello.ErrSilent):
		return &failure{exitTimedOut, what, fmt.Errorf("%w within %s, at %d baud", err, short(limit), line.Baud), "switch it on, and try again; without --key-file the port alone says who it is"}
	case err != nil:
		return &failure{exitFailed, what, err, p.list}
	case answer.Leaf == p.leaf && key.IsZero():
		if key, err = p.ask(ctx, std, what); err != nil {
			return err
		}
	}
	if err = answer.Check(p.leaf, key); err != nil { // or there was noise
		if again := hello.Prove(ctx, at, p.leaf, key, limit, nil); !errors.Is(again, hello.ErrSilent) {
			err = again // else the wrong answer stands
		}
	}
	switch {
	case errors.Is(err, hello.ErrWrong):
		claim := control.Claiming{Opening: control.Opening{Transport: pairing.OverSerial}, ID: p.leaf, Address: line.Port}
		if failed := p.client().WrongProof(ctx, claim); failed != nil {
			return p.failed(what, failed)
		}
		return &failure{exitRejected, what, err, "give the key that is in the firmware, and the name: --as LEAF --key-file FILE; whose ports are: fieldgate serial list"}
	case err != nil:
		return &failure{exitFailed, what, err, p.list}
	}
	line.Key = key.Text()
	fmt.Fprintf(std.out, "proof   its key: HELLO is answered as %s\n", p.leaf)
	return nil
}

// ask asks for the key at the terminal.
func (p *serialPairing) ask(ctx context.Context, std streams, what string) (key hello.Key, err error) {
	if !isTerminal(std.in) {
		return key, &failure{exitForbidden, what, errors.New("the device has a key, and it was not given"), "give it: --key-file FILE; or have the port alone say who it is: --no-hello"}
	}
	text, err := readHidden(ctx, std, "Key of "+p.leaf)
	if err == nil {
		key, err = hello.ParseKey(text)
	}
	if err != nil {
		return key, &failure{exitUsage, what, err, "give it in a file: --key-file FILE"}
	}
	return key, nil
}

// portCode is the exit code for a port that cannot be opened.
func portCode(err error) int {
	if errors.Is(err, port.ErrBusy) {
		return exitForbidden
	}
	return exitFailed
}

// lasting returns the name of a port that stays, where it is called by the one of today.
func (p *serialPairing) lasting(name string) string {
	for _, one := range p.ports.list() {
		if one.Device == name {
			return one.Name
		}
	}
	return name
}

// there is an error where no port of that name is there now: before a window is opened
// for it, and others wait.
func (p *serialPairing) there(name string) error {
	for _, one := range p.ports.list() {
		if one.Name == name && one.Device != "" {
			return nil
		}
	}
	_, err := port.Find(name)
	return err
}

// owner returns the leaf whose port it is by the configuration, also under another
// name; "" is nobody's.
func (p *serialPairing) owner(name string) string {
	whose := p.ports.whose()
	if whose[name] != "" {
		return whose[name]
	}
	device, err := port.Find(name)
	if err != nil {
		return ""
	}
	for other, leaf := range whose {
		if there, err := port.Find(other); err == nil && there == device {
			return leaf
		}
	}
	return ""
}

// listen finds out what the line lacks, and shows what was heard.
func (p *serialPairing) listen(ctx context.Context, std streams, table *port.Config, line *control.SerialLine) error {
	const what = "cannot tell what is spoken on the serial port"
	fmt.Fprintf(std.err, "listening on %s for up to %s\n", line.Port, short(p.limit))
	speeds := usualSpeeds
	if p.baud != 0 {
		speeds = []int{p.baud}
	}
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	heard, err := overhearAll(ctx, table, speeds)
	switch {
	case errors.Is(err, port.ErrBusy):
		return &failure{exitForbidden, what, err, "whose ports are: fieldgate serial list"}
	case err != nil:
		return &failure{exitFailed, what, err, p.list}
	case heard.format == "" && heard.noise == 0:
		return &failure{exitTimedOut, what, fmt.Errorf("nothing was heard within %s", short(p.limit)), "switch the device on, or listen longer: --for 2m; or say what it speaks: --baud 9600 --format json"}
	case heard.format == "":
		return &failure{exitTimedOut, what, errors.New("what was heard makes sense at none of the usual speeds"), "say what it speaks: --baud 1200 --format text"}
	}
	line.Baud, line.Format = table.Baud, cmp.Or(p.format, heard.format)
	fmt.Fprintf(std.out, "port    %s\nbaud    %d\nformat  %s\n", line.Port, line.Baud, line.Format)
	for _, s := range heard.samples {
		fmt.Fprintf(std.out, "heard   %s\n", s)
	}
	return nil
}

// overhearAll listens at one speed after the other until it is clear what is spoken, or
// ctx ends. The speed in the table is that of what it returns.
func overhearAll(ctx context.Context, table *port.Config, speeds []int) (*overheard, error) {
	for noise := 0; ; {
		for _, table.Baud = range speeds {
			heard, err := overhear(ctx, table)
			if err != nil {
				return nil, err
			}
			noise += heard.noise
			if heard.format != "" || ctx.Err() != nil {
				heard.noise = noise
				return heard, nil
			}
		}
	}
}

// overhear listens at one speed until it is clear what is spoken there, that it is
// noise, or ctx ends.
func overhear(ctx context.Context, table *port.Config) (*overheard, error) {
	p, err := openSoon(ctx, table)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.Flush() // what came at another speed
	heard, some, buf := new(overheard), false, make([]byte, 1024)
	for ctx.Err() == nil {
		if err := p.SetReadDeadline(time.Now().Add(quietAfter)); err != nil {
			return nil, err
		}
		n, err := p.Read(buf)
		heard.feed(buf[:n])
		quiet := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !quiet {
			return nil, err
		}
		if some = some || n > 0; some && heard.wrong(quiet) {
			heard.noise = max(heard.noise, 1)
			return heard, nil
		}
		if heard.sure() {
			return heard, nil
		}
	}
	return heard, nil
}

// openSoon opens a port that is still being given back after the last speed.
func openSoon(ctx context.Context, table *port.Config) (*port.Port, error) {
	for give := time.Now().Add(2 * time.Second); ; {
		p, err := port.Open(table)
		if !errors.Is(err, port.ErrBusy) || time.Now().After(give) {
			return p, err
		}
		select {
		case <-time.After(quietAfter / 6):
		case <-ctx.Done():
			return nil, err
		}
	}
}
