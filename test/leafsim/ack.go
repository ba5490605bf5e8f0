package leafsim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Ack says that the gateway acknowledged a message: from then on it answers for
// it.
type Ack struct {
	Leaf string    `json:"leaf"`
	Lane string    `json:"lane"`
	N    uint64    `json:"n"`
	Sent time.Time `json:"sent"` // first handed to a connection
	At   time.Time `json:"at"`   // acknowledgement received
}

// AckLog is a file of acknowledgements, one JSON object a line, in the order in
// which they came. Each is written with one system call before the leaf goes
// on, so the file is complete however the process ends. Safe for concurrent
// use.
type AckLog struct {
	mu   sync.Mutex
	file *os.File // guarded by mu
}

// OpenAckLog opens the file, which is made or continued.
func OpenAckLog(path string) (*AckLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &AckLog{file: f}, nil
}

// Write adds one acknowledgement.
func (l *AckLog) Write(a Ack) error {
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.file.Write(append(line, '\n'))
	return err
}

// Close closes the file.
func (l *AckLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// ReadAcks reads a file of acknowledgements. A last line without its line feed
// is left out: its writer was stopped before it could count the message as
// acknowledged.
func ReadAcks(path string) ([]Ack, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseAcks(path, f)
}

func parseAcks(name string, r io.Reader) ([]Ack, error) {
	var acks []Ack
	lines := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return acks, nil
		}
		if err != nil {
			return nil, err
		}
		var a Ack
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		acks = append(acks, a)
	}
}
