package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// pieces are the commands whose output is in a bundle, by the name of its file there.
var pieces = []struct {
	name   string
	args   []string
	daemon bool // it takes --socket
	config bool // it takes --config
}{
	{"version.json", []string{"version", "--json"}, false, false},
	{"check.json", []string{"check", "--output", "json"}, false, true},
	{"netcheck.json", []string{"netcheck", "--output", "json"}, false, true},
	{"config.toml", []string{"config", "show"}, false, true},
	{"status.json", []string{"status", "--output", "json"}, true, false},
	{"devices.json", []string{"device", "list", "--output", "json"}, true, false},
	{"dead-letters.json", []string{"store", "dead-letters", "list", "--output", "json"}, true, false},
	{"logs.jsonl", []string{"logs", "--output", "jsonl"}, true, false},
}

// facts are files of the machine that are in a bundle. None of them holds what a user
// has written.
var facts = []string{"/etc/os-release", "/proc/meminfo", "/proc/mounts", "/proc/uptime", "/proc/version", "/proc/net/dev"}

func diagCommand(std streams) *cobra.Command {
	return group("diag", "Pack what others need to help", collectCommand(std))
}

func collectCommand(std streams) *cobra.Command {
	var r remote
	var config, file string
	c := &cobra.Command{
		Use:   "collect",
		Short: "Pack everything that helps to find a fault into one file",
		Long: `Writes a .tar.gz with what the commands check, netcheck, config show, status, device
list, store dead-letters list and logs say, and with facts of the machine. There are
no secrets in it: keys, passwords, tokens and bodies of messages are left out, and
whatever else looks like a key or token, or stands in a file of secrets that the
configuration names, is taken out of all of it. It works without the daemon too.`,
		Example: "  fieldgate diag collect\n  fieldgate diag collect --file /media/usb/gate-7.tar.gz\n  ssh gate-7 fieldgate diag collect --file - > gate-7.tar.gz",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			bundle, err := collect(cmd.Context(), config, r.socket, now)
			if err != nil {
				return &failure{exitFailed, "cannot pack the bundle", err, "look at the disk: df -h"}
			}
			if file == "-" {
				_, err := std.out.Write(bundle)
				return err
			}
			file = cmp.Or(file, "fieldgate-diag-"+now.UTC().Format("20060102T150405Z")+".tar.gz")
			if err := os.WriteFile(file, bundle, 0o600); err != nil {
				return &failure{exitFailed, "cannot write the bundle", err, "name a place that has room: fieldgate diag collect --file FILE"}
			}
			fmt.Fprintln(std.out, file)
			return nil
		},
	}
	r.flags(c)
	c.Flags().StringVarP(&config, "config", "c", defaultConfig(), "configuration `FILE`")
	c.Flags().StringVar(&file, "file", "", "where to write it, `FILE`; - is standard output")
	return c
}

// collect packs the bundle.
func collect(ctx context.Context, config, socket string, now time.Time) ([]byte, error) {
	hide := secretsOf(config)
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zip)
	add := func(name string, text []byte) error {
		if len(text) == 0 {
			return nil
		}
		text = redact(text, hide)
		head := &tar.Header{Name: "fieldgate-diag/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: now}
		if err := archive.WriteHeader(head); err != nil {
			return err
		}
		_, err := archive.Write(text)
		return err
	}
	var errs []error
	for _, p := range pieces {
		args := slices.Clone(p.args)
		if p.daemon {
			args = append(args, "--socket", socket)
		}
		if p.config {
			args = append(args, "--config", config)
		}
		var out, said bytes.Buffer
		code := execute(ctx, args, streams{strings.NewReader(""), &out, &said})
		if code != exitOK {
			fmt.Fprintf(&said, "exit code %d\n", code)
		}
		errs = append(errs, add(p.name, out.Bytes()), add(p.name+".err", said.Bytes()))
	}
	for _, f := range facts {
		text, err := os.ReadFile(f)
		if err == nil { // not every machine has every file
			errs = append(errs, add("machine"+f, text))
		}
	}
	errs = append(errs, archive.Close(), zip.Close())
	return packed.Bytes(), errors.Join(errs...)
}

// maxSecret is how much of a file of secrets is read, in bytes, and minSecret how long
// a text must be to be looked for: a shorter one is in every file by chance.
const (
	maxSecret = 64 << 10
	minSecret = 4
)

// secretsOf returns the secrets that the configuration holds, or that stand in the
// files that it names, as far as they can be read.
func secretsOf(config string) (all []string) {
	s, err := readSettings(config, true)
	if err != nil {
		return nil
	}
	note := func(text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); len(line) >= minSecret && !strings.HasPrefix(line, "-----") {
				all = append(all, line)
			}
		}
	}
	for _, one := range s.all {
		text, ok := one.value.(string)
		switch {
		case !ok || text == "":
		case one.secret():
			note(text)
		case strings.HasSuffix(one.name, "key_file") || strings.HasSuffix(one.name, "password_file"):
			if !filepath.IsAbs(text) {
				text = filepath.Join(filepath.Dir(cmp.Or(one.file, config)), text)
			}
			f, err := os.Open(text)
			if err != nil {
				continue
			}
			content, err := io.ReadAll(io.LimitReader(f, maxSecret))
			f.Close()
			if err == nil {
				note(string(content))
			}
		}
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // the longer ones first: one may be part of another
	return all
}

// looksSecret is what keys, tokens and passwords look like where the hub's words, or
// a URL, might repeat them.
var looksSecret = regexp.MustCompile(`(?i)(SharedAccessKey=|SharedAccessSignature[ =]|\bsig=|\bpassword["']?\s*[=:]\s*|://[^\s/:@"]*:)([^\s;&"'@]+)`)

// redact takes secrets out of a text.
func redact(text []byte, hide []string) []byte {
	for _, s := range hide {
		text = bytes.ReplaceAll(text, []byte(s), []byte("(hidden)"))
	}
	return looksSecret.ReplaceAll(text, []byte("${1}(hidden)"))
}
