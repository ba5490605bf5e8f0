package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// publishing is what "pub" is asked for.
type publishing struct {
	remote
	topic      string
	message    string
	file       string
	in, lines  bool // standard input, as one message or one a line
	null       bool
	retain     bool
	qos        int
	leaf       string
	properties []string
	limit      *time.Duration
}

func pubCommand(std streams) *cobra.Command {
	p := publishing{remote: remote{list: devicesHint}}
	c := &cobra.Command{
		Use:   "pub [-t] TOPIC {-m TEXT | -f FILE | -s | -l | -n}",
		Short: "Publish on a topic of the local broker, without a password",
		Long: `Publishes through the daemon, as root or a member of fieldgate-admin. Flags are named
as those of mosquitto_pub.

A topic leaf/LEAF/command/NAME is for a leaf: the command goes there as those of the
hub do, and the leaf's word is waited for; "device send" is the same.

With --leaf it is as if the leaf had published: telemetry, alarms and reported
properties, by the rules for that leaf's topics and into the same custody. The
configuration must let operators stand in for it (stand_in = true in its table), and
the hub is told with the property fieldgate-trust = operator that it is not the
leaf's own word. With -q 1, the default, it exits with 0 when the message is in custody:
settled by the hub or on flash. With -q 0 that is not waited for.

It exits with 7 if there was no word in time, 8 if there is no such leaf or it does not
listen, 9 if the topic or the message is refused, 10 if the store is full.`,
		Example: `  fieldgate pub leaf/pump-1/command/set -m '{"rate": 5}'
  fieldgate pub --leaf test-1 -t leaf/test-1/telemetry/temp -m 21.5
  vmstat 1 | fieldgate pub --leaf test-1 -t leaf/test-1/telemetry/vmstat -l`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (p.topic != "") {
				return errors.New("name one topic")
			}
			if len(args) == 1 {
				p.topic = args[0]
			}
			return p.run(cmd.Context(), std)
		},
	}
	p.flags(c)
	f := c.Flags()
	f.StringVarP(&p.topic, "topic", "t", "", "the `TOPIC`")
	f.StringVarP(&p.message, "message", "m", "", "what to publish, `TEXT`")
	f.StringVarP(&p.file, "file", "f", "", "publish what is in `FILE`; - is standard input")
	f.BoolVarP(&p.in, "stdin-file", "s", false, "publish standard input as one message")
	f.BoolVarP(&p.lines, "stdin-line", "l", false, "publish each line of standard input as a message, until one is refused")
	f.BoolVarP(&p.null, "null-message", "n", false, "publish a message of no bytes")
	f.IntVarP(&p.qos, "qos", "q", 1, "1 to wait for custody, 0 not to")
	f.BoolVarP(&p.retain, "retain", "r", false, "with --leaf: tell the hub that the leaf asked for it (mqtt-retain); nothing is retained here")
	f.StringVar(&p.leaf, "leaf", "", "publish in the place of `LEAF`")
	f.StringArrayVar(&p.properties, "property", nil, "application property, `NAME=VALUE`; may be repeated")
	p.limit = timeoutFlag(c)
	what := []string{"message", "file", "stdin-file", "stdin-line", "null-message"}
	c.MarkFlagsMutuallyExclusive(what...)
	c.MarkFlagsOneRequired(what...)
	return c
}

func (p *publishing) run(ctx context.Context, std streams) error {
	if p.qos != 0 && p.qos != 1 {
		return fmt.Errorf("-q %d: write 0 or 1, QoS 2 is not offered", p.qos)
	}
	if p.retain && p.leaf == "" {
		return errors.New("-r: commands are not retained")
	}
	properties, err := propertiesOf(p.properties)
	if err != nil {
		return err
	}
	send, err := p.sender(properties)
	if err != nil {
		return err
	}
	if !p.lines {
		body, err := p.body(std)
		if err != nil {
			return err
		}
		return send(ctx, body)
	}
	in := bufio.NewScanner(std.in)
	in.Buffer(nil, maxLine)
	for n := 1; in.Scan(); n++ {
		if err := send(ctx, in.Bytes()); err != nil {
			fmt.Fprintf(std.err, "line %d was not taken, those before it were\n", n)
			return err
		}
	}
	if err := in.Err(); err != nil {
		return &failure{exitFailed, "cannot read standard input", err, fmt.Sprintf("write lines of at most %d bytes", maxLine)}
	}
	return nil
}

// maxLine bounds a message: the hub takes no more, with its properties.
const maxLine = 256 << 10

func (p *publishing) body(std streams) ([]byte, error) {
	in := std.in
	switch {
	case p.null:
		return nil, nil
	case p.in, p.file == "-":
	case p.file == "":
		return []byte(p.message), nil
	default:
		f, err := os.Open(p.file)
		if err != nil {
			return nil, &failure{exitFailed, "cannot read the message", err, "name a file that can be read"}
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxLine+1))
}

// sender returns what sends a message to where the topic says.
func (p *publishing) sender(properties map[string]string) (func(context.Context, []byte) error, error) {
	client := p.client()
	if p.leaf != "" {
		return func(ctx context.Context, body []byte) error {
			out := control.Publication{Topic: p.topic, Body: body, Properties: properties, Retain: p.retain, Wait: p.qos > 0}
			return standInFailed(p.leaf, p.failed("cannot publish in the place of the leaf", client.Publish(ctx, p.leaf, out, *p.limit)))
		}, nil
	}
	leaf, rest, _ := plain.Cut(p.topic)
	name, ok := strings.CutPrefix(rest, "command/")
	if !ok || leaf == "" || name == "" || strings.ContainsAny(p.topic, "+#") || strings.Contains(name, "/") {
		why := fmt.Errorf("%q is no topic on which a leaf hears", p.topic)
		return nil, &failure{exitForbidden, "cannot publish", why, "write leaf/LEAF/command/NAME, or --leaf LEAF to publish in the place of a leaf"}
	}
	properties["command"] = name
	return func(ctx context.Context, body []byte) error {
		verdict, err := client.Send(ctx, leaf, control.Command{Body: body, Properties: properties}, *p.limit)
		if err != nil {
			return p.failed("cannot send the command", err)
		}
		return untaken(verdict)
	}, nil
}

// untaken is the failure of a command that the leaf has not taken, nil if it has.
func untaken(verdict string) error {
	if verdict == "completed" {
		return nil
	}
	return &failure{exitFailed, "the leaf has not taken the command", errors.New("it says: " + verdict), "look at what the leaf expects"}
}

// standInFailed says how an operator is let stand in for a leaf, if that is missing.
func standInFailed(leaf string, err error) error {
	if f, is := errors.AsType[*failure](err); is && leaf != "" && errors.Is(f.why, control.ErrPolicy) {
		f.next = "let operators do that: fieldgate config set leaf." + leaf + ".stand_in true, then: fieldgate config apply"
	}
	return err
}
