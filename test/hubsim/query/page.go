package query

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Rows gives the documents of a collection with the keys they are sorted by:
// those whose keys are greater than one.
type Rows func(after string) iter.Seq2[string, map[string]any]

// Position is a place in the results of a query: behind the result with a key.
// Because it names a key and not a number, results that come or go before it
// neither repeat nor hide others. The zero value is the beginning.
type Position struct {
	Key   string
	Given int // results before it, which TOP counts
}

// Page returns up to size results behind a position, and the position of the
// next page; nil when there is none. rows are the documents of q.Source.
func (q *Query) Page(rows Rows, from Position, size int) (results []any, next *Position) {
	results = []any{} // an empty page is written [], not null
	if q.top > 0 {
		size = min(size, q.top-from.Given)
	}
	last := from
	for key, result := range q.results(rows, from.Key) {
		if len(results) >= size {
			if q.top > 0 && last.Given >= q.top {
				return results, nil
			}
			return results, &last
		}
		results = append(results, result)
		last = Position{Key: key, Given: last.Given + 1}
	}
	return results, nil
}

// results gives all results behind a key, each with its own.
func (q *Query) results(rows Rows, after string) iter.Seq2[string, any] {
	if q.aggregated() {
		return q.grouped(rows(""), after)
	}
	return func(yield func(string, any) bool) {
		for key, document := range rows(after) {
			if q.Matches(document) && !yield(key, q.shape(document)) {
				return
			}
		}
	}
}

// shape makes the result of one document.
func (q *Query) shape(document map[string]any) any {
	if q.columns == nil {
		return document
	}
	result := make(map[string]any, len(q.columns))
	for _, c := range q.columns {
		if value := c.value.eval(document); value != undefined {
			result[c.name] = value
		}
	}
	return result
}

// group is the documents that have the same values.
type group struct {
	first   map[string]any // one of them
	tallies []tally        // one for each column
}

// grouped gives one result for each group, sorted by the values that make it.
// Without GROUP BY there is one group, even of no documents.
func (q *Query) grouped(rows iter.Seq2[string, map[string]any], after string) iter.Seq2[string, any] {
	groups := make(map[string]*group)
	if len(q.groups) == 0 {
		groups[q.groupKey(nil)] = &group{tallies: make([]tally, len(q.columns))}
	}
	for _, document := range rows {
		if !q.Matches(document) {
			continue
		}
		key := q.groupKey(document)
		g := groups[key]
		if g == nil {
			g = &group{first: document, tallies: make([]tally, len(q.columns))}
			groups[key] = g
		}
		for n, c := range q.columns {
			g.tallies[n].add(c, document)
		}
	}
	return func(yield func(string, any) bool) {
		for _, key := range slices.Sorted(maps.Keys(groups)) {
			if key > after && !yield(key, q.summary(groups[key])) {
				return
			}
		}
	}
}

// groupKey is the text by which documents are put into groups. It is never
// empty.
func (q *Query) groupKey(document map[string]any) string {
	var b strings.Builder
	b.WriteByte('/')
	for _, p := range q.groups {
		value := p.eval(document)
		if f, ok := float(value); ok {
			value = f // 1 and 1.0 are the same
		}
		encoded, err := json.Marshal(value)
		if err != nil { // undefined is encoded as {}, and all else came from JSON
			panic(fmt.Sprintf("query: cannot encode a value: %v", err))
		}
		if value == undefined {
			encoded = nil
		}
		b.Write(encoded)
		b.WriteByte('/')
	}
	return b.String()
}

// summary makes the result of a group.
func (q *Query) summary(g *group) map[string]any {
	result := make(map[string]any, len(q.columns))
	for n, c := range q.columns {
		value := g.tallies[n].result(c.aggregate)
		if c.aggregate == "" {
			value = c.value.eval(g.first)
		}
		if value != undefined {
			result[c.name] = value
		}
	}
	return result
}

// tally gathers one column of a group.
type tally struct {
	count           int // of documents that have a value
	numbers         int // of those that are numbers
	total, min, max float64
}

func (t *tally) add(c column, document map[string]any) {
	if c.value == nil { // COUNT()
		t.count++
		return
	}
	value := c.value.eval(document)
	if value != undefined {
		t.count++
	}
	f, ok := float(value)
	if !ok {
		return
	}
	if t.numbers == 0 {
		t.min, t.max = f, f
	}
	t.numbers++
	t.total += f
	t.min, t.max = min(t.min, f), max(t.max, f)
}

// result is undefined for what needs numbers when there are none.
func (t *tally) result(aggregate string) any {
	switch {
	case aggregate == "COUNT":
		return t.count
	case aggregate == "SUM":
		return defined(t.total)
	case t.numbers == 0:
		return undefined
	case aggregate == "AVG":
		return defined(t.total / float64(t.numbers))
	case aggregate == "MIN":
		return t.min
	}
	return t.max
}
