package check

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable writes the report for a terminal: one row per leaf and a total.
// Faults that no row has get no column, except the three that everybody looks
// for: lost, duplicated, out of order.
func (r Report) WriteTable(w io.Writer) error {
	total := r.Total()
	columns := []column{
		{"acknowledged", func(l *Leaf) int { return l.Acked }},
		{"arrived", func(l *Leaf) int { return l.Arrived }},
		{"lost", func(l *Leaf) int { return l.Lost }},
		{"duplicated", func(l *Leaf) int { return l.Duplicated }},
		{"out of order", func(l *Leaf) int { return l.OutOfOrder }},
	}
	for _, c := range []column{
		{"sent again by leaf", func(l *Leaf) int { return l.Resent }},
		{"wrong identity", func(l *Leaf) int { return l.Misnamed }},
		{"ragged repeats", func(l *Leaf) int { return l.Ragged }},
		{"id changed", func(l *Leaf) int { return l.IDChanged }},
		{"id reused", func(l *Leaf) int { return l.IDReused }},
		{"unreadable", func(l *Leaf) int { return l.Unreadable }},
		{"not leafsim's", func(l *Leaf) int { return l.Foreign }},
		{"unaccounted", func(l *Leaf) int { return l.Missing }},
	} {
		if c.value(&total) > 0 {
			columns = append(columns, c)
		}
	}
	return writeColumns(w, columns, append(r.Leaves[:len(r.Leaves):len(r.Leaves)], &total))
}

type column struct {
	title string
	value func(*Leaf) int
}

func writeColumns(w io.Writer, columns []column, rows []*Leaf) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "leaf\t")
	for _, c := range columns {
		fmt.Fprint(t, c.title, "\t")
	}
	fmt.Fprintln(t)
	for _, l := range rows {
		fmt.Fprint(t, l.ID, "\t")
		for _, c := range columns {
			fmt.Fprint(t, c.value(l), "\t")
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
