package master

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
)

// register is one value of a slave.
type register struct {
	RegisterConfig
	unit      byte
	due       time.Time // of the next poll
	alone     bool      // the slave has refused it together with others
	told      any       // what was last reported, nil for nothing
	toldAt    time.Time
	complains bool // its exception is in the log already
}

// block is one request that reads registers that lie together.
type block struct {
	request   *modbus.Request
	registers []*register
}

// plan puts registers of one slave together into as few requests as the protocol
// and the slave allow. They are sorted by table and address.
func plan(sorted []*register, maxGap int) []block {
	var blocks []block
	for _, r := range sorted {
		f, limit := r.reader(), modbus.MaxReadRegisters
		if r.bit() {
			limit = modbus.MaxReadBits
		}
		if n := len(blocks); n > 0 && !r.alone {
			b := &blocks[n-1]
			start := int(b.request.Address)
			end := start + int(b.request.Count)
			whole := max(end, r.Address+r.size()) - start
			if b.request.Function == f && !b.registers[0].alone && r.Address <= end+maxGap && whole <= limit {
				b.request.Count = uint16(whole)
				b.registers = append(b.registers, r)
				continue
			}
		}
		blocks = append(blocks, block{modbus.Read(r.unit, f, uint16(r.Address), uint16(r.size())), []*register{r}})
	}
	return blocks
}

// value takes the register's value out of the answer to a block; nil when the
// slave says that it has none.
func (b *block) value(a *modbus.Answer, r *register) (any, error) {
	at := r.Address - int(b.request.Address)
	if r.bit() {
		return a.Bits[at], nil
	}
	raw, err := modbus.Decode(r.Type, r.Order, a.Registers[at:at+r.size()])
	if err != nil || !r.number() || r.Scale == 1 && r.Offset == 0 {
		return raw, err
	}
	var v float64
	switch n := raw.(type) {
	case int64:
		v = float64(n)
	case uint64:
		v = float64(n)
	case float64:
		v = n
	default:
		return nil, nil
	}
	return finite(v*r.Scale + r.Offset), nil
}

// finite cuts what binary arithmetic adds behind the digits: 237 times 0.1 is
// 23.7. A value that is too large for a number is none.
func finite(v float64) any {
	v, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 14, 64), 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		return nil
	}
	return v
}

// news says whether a value that was read at a time is to be reported.
func (r *register) news(v any, now time.Time) bool {
	if r.Report != reportChange || r.told == nil {
		return true
	}
	if age := r.MaxAge.D(); age > 0 && now.Sub(r.toldAt) >= age {
		return true
	}
	a, aIsNumber := toFloat(v)
	b, bIsNumber := toFloat(r.told)
	if aIsNumber && bIsNumber && r.Deadband > 0 {
		return math.Abs(a-b) > r.Deadband
	}
	return !reflect.DeepEqual(v, r.told)
}

func toFloat(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// errValue says that a value does not suit the register.
var errValue = errors.New("the value does not suit the register")

// write makes the request that writes a JSON value.
func (r *register) write(raw json.RawMessage) (*modbus.Request, error) {
	q := &modbus.Request{Unit: r.unit, Address: uint16(r.Address), Count: uint16(r.size())}
	if r.bit() {
		on, err := asBool(raw)
		q.Function, q.Bits = modbus.WriteCoil, []bool{on}
		return q, err
	}
	values, err := r.encode(raw)
	if err != nil {
		return nil, err
	}
	q.Function, q.Values = modbus.WriteRegister, values
	if len(values) > 1 {
		q.Function = modbus.WriteRegisters
	}
	return q, nil
}

func (r *register) encode(raw json.RawMessage) (values []uint16, err error) {
	switch r.Type {
	case modbus.Bool:
		on, err := asBool(raw)
		if err != nil {
			return nil, err
		}
		return modbus.EncodeBits(r.Type, r.Order, []bool{on})
	case modbus.Bits:
		var bits []bool
		if json.Unmarshal(raw, &bits) != nil {
			return nil, fmt.Errorf("%w: write a list of 16 times true or false", errValue)
		}
		values, err = modbus.EncodeBits(r.Type, r.Order, bits)
	case modbus.Text:
		var text string
		if json.Unmarshal(raw, &text) != nil || string(raw) == "null" {
			return nil, fmt.Errorf("%w: write a text in quotes", errValue)
		}
		values, err = modbus.EncodeText(r.Order, text, r.Count)
	default:
		values, err = r.encodeNumber(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errValue, err)
	}
	return values, nil
}

// encodeNumber takes whole numbers exactly where there is no scale, and with one
// the nearest value that the register can have.
func (r *register) encodeNumber(raw json.RawMessage) ([]uint16, error) {
	var n json.Number
	if len(raw) == 0 || raw[0] == '"' || json.Unmarshal(raw, &n) != nil || n == "" {
		return nil, errors.New("write a number")
	}
	whole := r.Type != modbus.Float32 && r.Type != modbus.Float64
	if whole && r.Scale == 1 && r.Offset == 0 && len(n) < 64 {
		if i, ok := new(big.Int).SetString(n.String(), 10); ok {
			if !new(big.Int).Abs(i).IsUint64() {
				return nil, modbus.ErrRange
			}
			return modbus.EncodeInt(r.Type, r.Order, i.Sign() < 0, new(big.Int).Abs(i).Uint64())
		}
	}
	v, err := n.Float64()
	if err != nil {
		return nil, err
	}
	v = (v - r.Offset) / r.Scale
	if whole && (r.Scale != 1 || r.Offset != 0) {
		v = math.Round(v)
	}
	return modbus.Encode(r.Type, r.Order, v)
}

// asBool takes true, false, 1 and 0.
func asBool(raw json.RawMessage) (bool, error) {
	switch string(raw) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%w: write true or false", errValue)
}

// object is a JSON object in the making, whose keys are in the order in which
// they were added.
type object struct{ text []byte }

func (o *object) add(name string, value any) {
	v, err := json.Marshal(value)
	if err != nil {
		return // not a value of a register
	}
	if len(o.text) == 0 {
		o.text = append(o.text, '{')
	} else {
		o.text = append(o.text, ',')
	}
	o.text = append(append(append(o.text, quoted(name)...), ':'), v...)
}

func (o *object) bytes() []byte {
	if len(o.text) == 0 {
		return []byte("{}")
	}
	return append(o.text, '}')
}
