package site

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Metrics are readings of the gateway: each series under its full name, for
// example fieldgate_messages_dropped_total{reason="ttl"}.
type Metrics map[string]float64

// Sum adds up all series of a name, whatever their labels.
func (m Metrics) Sum(name string) (sum float64) {
	for series, v := range m {
		if bare, _, _ := strings.Cut(series, "{"); bare == name {
			sum += v
		}
	}
	return sum
}

// Has says whether there is a series of the name.
func (m Metrics) Has(name string) bool {
	for series := range m {
		if bare, _, _ := strings.Cut(series, "{"); bare == name {
			return true
		}
	}
	return false
}

// Metrics reads the gateway's metrics.
func (s *Site) Metrics(ctx context.Context) (Metrics, error) { return ReadMetrics(ctx, s.metrics) }

// ReadMetrics reads the metrics of the gateway that serves them at the address.
func ReadMetrics(ctx context.Context, address string) (Metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", answer.Status)
	}
	return parseMetrics(answer.Body)
}

// parseMetrics reads the text format of Prometheus as far as the gateway uses
// it: comments, and lines of a series and a value.
func parseMetrics(r io.Reader) (Metrics, error) {
	m := make(Metrics)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		cut := strings.LastIndexByte(line, ' ')
		if cut < 0 {
			return nil, fmt.Errorf("metrics: line %q", line)
		}
		v, err := strconv.ParseFloat(line[cut+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		m[line[:cut]] = v
	}
	return m, lines.Err()
}
