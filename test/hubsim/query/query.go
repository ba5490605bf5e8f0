// Package query is the hub's query language (wire contract, section 5.5): it
// reads the text of a query and picks, shapes and counts documents with it.
//
// A text passes through the lexer, which makes tokens, the parser, which makes a
// Query of expressions, and is then asked for pages of results. A document is
// what encoding/json decodes with UseNumber. The package does not know where
// documents come from.
package query

import (
	"slices"
	"strconv"
)

// MaxText is the longest query, in characters (section 5.5).
const MaxText = 8192

// Source is a collection of documents.
type Source string

// The three collections, as queries write them.
const (
	Devices Source = "devices"
	Modules Source = "devices.modules"
	Jobs    Source = "devices.jobs" // one document for each device of each job
)

// Query is a query that has been read. It does not change.
type Query struct {
	Source  Source
	top     int        // at most so many results; 0 for all
	columns []column   // nil for SELECT *
	where   expression // nil for everything
	groups  []path
}

// column is one value of a result.
type column struct {
	name      string
	aggregate string     // COUNT, AVG, SUM, MIN or MAX; "" for a plain value
	value     expression // nil for COUNT()
}

// Parse reads a query. The error is a *refusal.Error with 400004 that says where
// the text is wrong.
func Parse(text string) (*Query, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	q := &Query{}
	if err := p.query(q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	return q, nil
}

// ParseCondition reads what chooses the devices of a job (section 5.6): what a
// query may have behind WHERE, or "*" for all devices. "FROM devices.modules"
// with or without a WHERE chooses modules. The error is as for Parse.
func ParseCondition(text string) (*Query, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	q := &Query{Source: Devices}
	if err := p.condition(q); err != nil {
		return nil, err
	}
	return q, nil
}

// Matches says whether the query is about the document: its condition is true.
func (q *Query) Matches(document map[string]any) bool {
	return q.where == nil || q.where.eval(document) == true
}

// ItemType is what the results are, for the header x-ms-item-type.
func (q *Query) ItemType() string {
	switch {
	case q.Source == Jobs:
		return "DeviceJob"
	case q.columns == nil:
		return "Twin"
	}
	return "Raw"
}

// aggregated says whether results are made of groups of documents.
func (q *Query) aggregated() bool {
	return len(q.groups) > 0 || slices.ContainsFunc(q.columns, func(c column) bool { return c.aggregate != "" })
}

// check refuses what can be written but not asked.
func (q *Query) check() error {
	if q.Source == Jobs && (q.columns != nil || len(q.groups) > 0) {
		return wrong("devices.jobs can only be asked with SELECT *")
	}
	if !q.aggregated() {
		return nil
	}
	if q.columns == nil {
		return wrong("SELECT * cannot be grouped")
	}
	for _, c := range q.columns {
		if c.aggregate == "" && !q.groupedBy(c.value) {
			return wrong("%s is neither counted nor named in GROUP BY", strconv.Quote(c.name))
		}
	}
	return nil
}

// groupedBy says whether all documents of a group have the same value.
func (q *Query) groupedBy(value expression) bool {
	p, ok := value.(path)
	return ok && slices.ContainsFunc(q.groups, func(g path) bool { return slices.Equal(g, p) })
}
