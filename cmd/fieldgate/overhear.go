package main

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/drivers/serial/nmea"
	"github.com/fieldgate/fieldgate/drivers/serial/senml"
)

const (
	// longestOverheard is how much of a line without an end is kept, in bytes: what a
	// [[serial]] table takes unless it says otherwise.
	longestOverheard = 4 << 10
	// samplesKept lines are shown to the operator.
	samplesKept = 3
	// textLines lines of text in a row, and nothing better among them, are taken for
	// what is spoken: a device that speaks JSON may say something at its start.
	textLines = 8
	// noiseEnough bytes of noise and no line say that the speed is wrong.
	noiseEnough = 64
)

// overheard finds out what is spoken on a serial line at one speed, from bytes that
// anybody may have sent. The zero value is ready.
type overheard struct {
	format  string   // "" is not known yet; FormatText may still become something better
	samples []string // of that, the first ones

	frames hdlc.Reader
	line   []byte
	over   bool // line is longer than what is kept of it
	begun  bool // what came before the first end of a line may have lost its beginning
	texts  int
	noise  int // bytes of lines that are no text
}

// feed takes bytes as they come.
func (o *overheard) feed(b []byte) {
	o.frames.Feed(b, func(content []byte) { o.framed(content) })
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		room := longestOverheard - len(o.line)
		o.over = o.over || len(part) > room
		o.line = append(o.line, part[:min(len(part), room)]...)
		if b = rest; ended {
			o.ended()
		}
	}
}

// framed takes the content of a frame whose checksum is right. Each says its length
// first (MQTT-SN 1.2, section 5.2.1), which text between two flags does not.
func (o *overheard) framed(content []byte) {
	if len(content) >= 2 && int(content[0]) == len(content) || len(content) >= 4 && content[0] == 1 && int(content[1])<<8|int(content[2]) == len(content) {
		o.found(mqttsn.Format, "")
	}
}

// ended takes the line that is over.
func (o *overheard) ended() {
	line := bytes.TrimSuffix(o.line, []byte{'\r'})
	switch format := formatOf(line); {
	case len(line) == 0:
	case o.over || format == "":
		o.noise += len(line)
	case format != serial.FormatText:
		o.found(format, string(line))
	case o.begun:
		o.texts++
		if o.format == "" || o.format == serial.FormatText {
			o.found(format, string(line))
		}
	}
	o.line, o.over, o.begun = o.line[:0], false, true
}

func (o *overheard) found(format, sample string) {
	if o.format != format {
		o.format, o.samples = format, nil
	}
	if sample != "" && len(o.samples) < samplesKept {
		o.samples = append(o.samples, sample)
	}
}

// sure says that more would change nothing.
func (o *overheard) sure() bool {
	return o.format != "" && o.format != serial.FormatText || o.texts >= textLines
}

// wrong says that this is not the speed at which the device speaks: what it has heard
// is noise. quiet says that nothing more comes for the moment.
func (o *overheard) wrong(quiet bool) bool {
	if o.format != "" {
		return false
	}
	noise := o.noise
	if part := bytes.TrimSuffix(o.line, []byte{'\r'}); !utf8.Valid(part) || bytes.ContainsFunc(part, isNoise) {
		noise += len(part)
	}
	return noise >= noiseEnough || quiet && noise > 0
}

func isNoise(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }

// formatOf says what a line is in, "" for noise.
func formatOf(line []byte) string {
	if !utf8.Valid(line) || bytes.ContainsFunc(line, isNoise) {
		return ""
	}
	if _, err := nmea.Parse(line); err == nil {
		return serial.FormatNMEA
	}
	if _, err := senml.Resolve(line, time.Time{}); err == nil {
		return serial.FormatSenML
	}
	if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		return serial.FormatJSON
	}
	return serial.FormatText
}
