package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// The two small files that a segment has beside Badger's. Both are plain files
// so that a full disk is an ordinary error, and both may be lost: without the
// index the segment is scanned, without the journal messages are sent twice.
const (
	indexName   = "index"
	journalName = "settled"

	indexMagic = "FGI1"
)

var errIndex = errors.New("damaged index")

// writeIndex writes the index of a sealed segment: that it is complete, and how
// many messages each block has. It is not synced: an index that a power cut left
// incomplete is told by its checksum.
func writeIndex(dir string, s *segment) error {
	buf := []byte(indexMagic)
	var flags byte
	if s.thinned {
		flags |= 1
	}
	buf = append(buf, byte(s.lane), flags)
	buf = binary.LittleEndian.AppendUint64(buf, s.number)
	buf = appendInstant(buf, s.first)
	buf = appendInstant(buf, s.last)
	buf = binary.AppendUvarint(buf, uint64(s.maxStart))
	buf = binary.AppendUvarint(buf, uint64(len(s.table)))
	for block := range uint32(len(s.table)) {
		buf = binary.AppendUvarint(buf, uint64(s.count(block)))
	}
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
	return replaceFile(filepath.Join(dir, indexName), buf)
}

func appendInstant(buf []byte, i gateway.Instant) []byte {
	if i.Wall.IsZero() {
		buf = append(buf, 0)
	} else {
		buf = appendTime(append(buf, 1), i.Wall)
	}
	buf = append(buf, byte(i.Quality))
	buf = binary.AppendUvarint(buf, i.Boot)
	return binary.AppendVarint(buf, int64(i.Uptime))
}

// readIndex fills a new segment from its index file.
func readIndex(s *segment) error {
	data, err := os.ReadFile(filepath.Join(s.dir, indexName))
	if err != nil {
		return err
	}
	return decodeIndex(s, data)
}

func decodeIndex(s *segment, data []byte) error {
	n := len(data) - 4
	if n < len(indexMagic)+10 || !bytes.HasPrefix(data, []byte(indexMagic)) ||
		crc32.Checksum(data[:n], castagnoli) != binary.LittleEndian.Uint32(data[n:]) {
		return errIndex
	}
	lane, flags, number := data[4], data[5], binary.LittleEndian.Uint64(data[6:])
	if gateway.Lane(lane) != s.lane || number != s.number {
		return fmt.Errorf("%w: it belongs to another segment", errIndex)
	}
	d := decoder{rest: data[14:n]}
	s.thinned = flags&1 != 0
	s.first, s.last = d.instant(), d.instant()
	s.maxStart = uint32(d.uvarint(math.MaxUint32))
	for range d.uvarint(uint64(len(d.rest))) {
		s.add(int(d.uvarint(maxBlockMessages)), gateway.Unread)
	}
	if d.err != nil || len(d.rest) != 0 {
		return errIndex
	}
	s.trim()
	return nil
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail(errTruncated)
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) instant() (i gateway.Instant) {
	if d.byte() != 0 {
		i.Wall = d.time()
	}
	i.Quality = gateway.TimeQuality(d.byte())
	i.Boot = d.uvarint(math.MaxUint64)
	i.Uptime = time.Duration(d.varint())
	return i
}

// The journal is a row of records, each the settled messages of one block:
//
//	block u32  messages u16  one bit for each message  CRC-32C u32
//
// The checksum covers lane and number of the segment too: a journal in the wrong
// place would settle what is not settled. A later record of a block adds to the earlier ones. What stands behind a
// damaged record is not looked at.

// takeNews returns the records of the blocks and takes all news as written. The
// caller holds the lane's lock.
func (s *segment) takeNews(blocks []uint32) []byte {
	var buf []byte
	for _, block := range blocks {
		start, count := len(buf), s.count(block)
		buf = binary.LittleEndian.AppendUint32(buf, block)
		buf = binary.LittleEndian.AppendUint16(buf, uint16(count))
		bits := make([]byte, (count+7)/8)
		for i := range count {
			if s.state(block, i) == settled {
				bits[i/8] |= 1 << (i % 8)
			}
		}
		buf = append(buf, bits...)
		buf = binary.LittleEndian.AppendUint32(buf, s.recordSum(buf[start:]))
	}
	clear(s.unwritten)
	s.fresh = 0
	return buf
}

// replayJournal settles what the journal says.
func replayJournal(s *segment) error {
	data, err := os.ReadFile(filepath.Join(s.dir, journalName))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if good := applyJournal(s, data); good < len(data) {
		return os.Truncate(filepath.Join(s.dir, journalName), int64(good))
	}
	return nil
}

// mendJournal takes out what stands behind the last whole record: those that follow
// would not be found behind it.
func mendJournal(s *segment) error {
	path := filepath.Join(s.dir, journalName)
	data, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if good := s.eachRecord(data, func(uint32, int, []byte) {}); good < len(data) {
		return os.Truncate(path, int64(good))
	}
	return nil
}

// applyJournal settles what the records say and returns how many bytes of data
// are undamaged.
func applyJournal(s *segment, data []byte) (good int) {
	good = s.eachRecord(data, func(block uint32, count int, bits []byte) {
		if int(block) >= len(s.table) || s.count(block) != count {
			return
		}
		for i := range count {
			if bits[i/8]>>(i%8)&1 != 0 {
				s.set(block, i, settled)
			}
		}
	})
	clear(s.unwritten)
	s.fresh = 0
	return good
}

// recordSum is the checksum of a record of the segment's journal.
func (s *segment) recordSum(record []byte) uint32 {
	place := binary.LittleEndian.AppendUint64([]byte{byte(s.lane)}, s.number)
	return crc32.Update(crc32.Checksum(place, castagnoli), castagnoli, record)
}

// eachRecord calls use for the records of a journal up to the first damage, and
// returns how many bytes those are. The bits alias data.
func (s *segment) eachRecord(data []byte, use func(block uint32, count int, bits []byte)) (good int) {
	for len(data) >= 6 {
		block, count := binary.LittleEndian.Uint32(data), int(binary.LittleEndian.Uint16(data[4:]))
		end := 6 + (count+7)/8
		if len(data) < end+4 || s.recordSum(data[:end]) != binary.LittleEndian.Uint32(data[end:]) {
			break
		}
		use(block, count, data[6:end])
		data = data[end+4:]
		good += end + 4
	}
	return good
}

// appendJournal appends records to the journal. With sync they are safe from a
// power cut, without it from the end of the process. What a full disk has taken
// of them is taken out again: nothing behind half a record would be read.
func appendJournal(dir string, records []byte, sync bool) error {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	before, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	failpoint.Hit(failpoint.JournalWrite)
	if _, err = f.Write(records); err != nil {
		err = errors.Join(err, f.Truncate(before))
	}
	failpoint.Hit(failpoint.JournalWritten)
	if err == nil && sync {
		err = f.Sync()
		failpoint.Hit(failpoint.JournalSynced)
	}
	return errors.Join(err, f.Close())
}

// replaceFile writes a file so that it is either the old or the new one.
func replaceFile(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	failpoint.Hit(failpoint.IndexWritten)
	return os.Rename(next, path)
}
