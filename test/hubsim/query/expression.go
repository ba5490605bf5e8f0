package query

import (
	"encoding/json"
	"math"
	"strings"
)

// expression is something that has a value for a document: a bool, float64,
// string, json.Number, integer, []any or map[string]any, nil for null, or
// undefined. Whatever cannot be computed is undefined: a missing member, a
// comparison of different kinds, a division by zero.
type expression interface {
	eval(document map[string]any) any
}

type nothing struct{}

// undefined is the value of what is not there.
var undefined any = nothing{}

// constant is a value written in the query.
type constant struct{ value any }

func (c constant) eval(map[string]any) any { return c.value }

// path names a member of a member, and so on. The case of the first name does
// not matter: services write ModuleId and DeviceId too (Azure/iotedge 2958,
// Azure/azure-iot-sdk-csharp 40).
type path []string

func (p path) eval(document map[string]any) any {
	value, ok := document[p[0]]
	if !ok {
		value = folded(document, p[0])
	}
	for _, name := range p[1:] {
		object, ok := value.(map[string]any)
		if !ok {
			return undefined
		}
		if value, ok = object[name]; !ok {
			return undefined
		}
	}
	return value
}

// folded looks for a member without regard to case.
func folded(document map[string]any, name string) any {
	for member, value := range document {
		if strings.EqualFold(member, name) {
			return value
		}
	}
	return undefined
}

// array is a list of values in brackets.
type array []expression

func (a array) eval(document map[string]any) any {
	list := make([]any, 0, len(a))
	for _, e := range a {
		if v := e.eval(document); v != undefined {
			list = append(list, v)
		}
	}
	return list
}

// call is a function with its arguments.
type call struct {
	f    func(args []any) any
	args []expression
}

func (c call) eval(document map[string]any) any {
	values := make([]any, len(c.args))
	for n, a := range c.args {
		values[n] = a.eval(document)
	}
	return c.f(values)
}

// not is NOT.
type not struct{ value expression }

func (n not) eval(document map[string]any) any {
	if b, ok := n.value.eval(document).(bool); ok {
		return !b
	}
	return undefined
}

// in says whether a value is in a list; negated is NIN.
type in struct {
	value   expression
	list    []expression
	negated bool
}

func (i in) eval(document map[string]any) any {
	value := i.value.eval(document)
	if value == undefined {
		return undefined
	}
	for _, e := range i.list {
		if compare("=", value, e.eval(document)) == true {
			return !i.negated
		}
	}
	return i.negated
}

// binary is an operator between two values.
type binary struct {
	op          string
	left, right expression
}

func (b binary) eval(document map[string]any) any {
	left := b.left.eval(document)
	switch b.op {
	case "AND":
		return decide(left, b.right, document, false)
	case "OR":
		return decide(left, b.right, document, true)
	case "+", "-", "*", "/", "%":
		return calculate(b.op, left, b.right.eval(document))
	}
	return compare(b.op, left, b.right.eval(document))
}

// decide is AND and OR: one side that is decisive decides, even when the other
// is not a bool.
func decide(left any, right expression, document map[string]any, decisive bool) any {
	if left == decisive {
		return decisive
	}
	value := right.eval(document)
	if value == decisive {
		return decisive
	}
	if left == !decisive && value == !decisive {
		return !decisive
	}
	return undefined
}

// calculate does arithmetic.
func calculate(op string, left, right any) any {
	a, isNumber := float(left)
	b, areNumbers := float(right)
	if !isNumber || !areNumbers {
		return undefined
	}
	switch op {
	case "+":
		return defined(a + b)
	case "-":
		return defined(a - b)
	case "*":
		return defined(a * b)
	case "/":
		return defined(a / b)
	}
	return defined(math.Mod(a, b))
}

// defined returns a number if JSON can hold it.
func defined(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return undefined
	}
	return f
}

// float returns the value of a number.
func float(value any) (float64, bool) {
	switch v := value.(type) {
	case float64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	}
	return 0, false
}
