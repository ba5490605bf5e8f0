package bulk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// maxLine is the longest item of a file in bytes: a twin of 72 KiB (section 6.2)
// fits many times.
const maxLine = 1 << 20

// maxImport is the largest file in bytes.
const maxImport = 1 << 30

// intake carries out the items of a blob and writes down which of them failed.
type intake struct {
	to     Changer
	from   container
	blob   string
	report container
}

func (i intake) run(ctx context.Context, progress func(percent int)) error {
	body, err := i.from.get(ctx, i.blob)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(io.LimitReader(body, maxImport))
	_ = body.Close() // it was read to its end
	if err != nil {
		return fmt.Errorf("cannot read blob %s: %w", i.blob, err)
	}
	failures, err := i.carryOut(ctx, content, progress)
	if err != nil {
		return err
	}
	if len(failures) > 0 {
		return i.report.put(ctx, errorsBlob, failures)
	}
	return nil
}

// carryOut changes the registry line by line and returns the failures, one a
// line too.
func (i intake) carryOut(ctx context.Context, content []byte, progress func(percent int)) ([]byte, error) {
	content = bytes.TrimPrefix(content, []byte("\ufeff")) // of Windows tools
	var report bytes.Buffer
	failures := json.NewEncoder(&report)
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxLine)
	done := 0
	for number := 1; lines.Scan(); number++ {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		done += len(lines.Bytes()) + 1
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			if f := i.line(number, line); f != nil {
				if err := failures.Encode(f); err != nil {
					return nil, err
				}
			}
		}
		progress(min(99, done*99/len(content)))
	}
	return report.Bytes(), lines.Err()
}

// line carries out one item; nil when that went well.
func (i intake) line(number int, text []byte) *Failure {
	var item Item
	err := json.Unmarshal(text, &item)
	if err != nil {
		err = refusal.New(400004, fmt.Sprintf("line %d is no item: %v", number, err))
	} else {
		_, err = i.to.Change(item)
	}
	if err == nil {
		return nil
	}
	f := failure(item, err)
	return &f
}
