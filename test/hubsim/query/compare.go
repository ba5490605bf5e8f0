package query

import "cmp"

// compare does =, !=, <>, <, >, <= and >=. Values of different kinds, objects and
// arrays cannot be compared; null equals null and nothing else.
func compare(op string, left, right any) any {
	if left == undefined || right == undefined {
		return undefined
	}
	if left == nil || right == nil {
		return ofEquality(op, left == nil && right == nil)
	}
	if a, ok := float(left); ok {
		if b, ok := float(right); ok {
			return ofOrder(op, cmp.Compare(a, b))
		}
		return undefined
	}
	switch a := left.(type) {
	case string:
		if b, ok := right.(string); ok {
			return ofOrder(op, cmp.Compare(a, b))
		}
	case bool:
		if b, ok := right.(bool); ok {
			return ofEquality(op, a == b)
		}
	}
	return undefined
}

// ofEquality answers a comparison of values that have no order.
func ofEquality(op string, equal bool) any {
	switch op {
	case "=":
		return equal
	case "!=", "<>":
		return !equal
	}
	return undefined
}

// ofOrder answers a comparison; order is negative when the left side is smaller.
func ofOrder(op string, order int) any {
	switch op {
	case "<":
		return order < 0
	case ">":
		return order > 0
	case "<=":
		return order <= 0
	case ">=":
		return order >= 0
	}
	return ofEquality(op, order == 0)
}
