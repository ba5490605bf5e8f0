package bench

import "testing"

// Heads are thrown 40 times: 13 of them or fewer, or 27 or more, come up in 4 of 100 cases.
func TestMedianIsBounded(t *testing.T) {
	values := make([]float64, 40)
	for i := range values {
		values[len(values)-1-i] = float64(i)
	}
	if low, middle, high := median(values); low != 13 || middle != 19.5 || high != 26 {
		t.Errorf("between %v and %v: %v", low, high, middle)
	}
	if low, middle, high := median([]float64{3, 1}); low != 1 || middle != 2 || high != 3 {
		t.Errorf("two: between %v and %v: %v", low, high, middle)
	}
}
