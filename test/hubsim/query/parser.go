package query

import (
	"math"
	"strconv"
	"strings"
)

// maxNesting bounds brackets and operators inside each other.
const maxNesting = 100

// keywords cannot be names, unless a dot stands before them.
var keywords = []string{"SELECT", "TOP", "FROM", "WHERE", "GROUP", "BY", "AS", "AND", "OR", "NOT", "IN", "NIN"}

// aggregates make one value of many documents.
var aggregates = []string{"COUNT", "AVG", "SUM", "MIN", "MAX"}

// parser reads tokens. Each of its methods reads one part of the grammar.
type parser struct {
	tokens  []token // the last is the end and is never passed
	nesting int
}

func newParser(s string) (*parser, error) {
	list, err := tokens(s)
	return &parser{tokens: list}, err
}

// peek returns the next token.
func (p *parser) peek() token { return p.tokens[0] }

// next takes the next token.
func (p *parser) next() token {
	t := p.tokens[0]
	if t.kind != end {
		p.tokens = p.tokens[1:]
	}
	return t
}

// isKeyword says whether the token is the keyword; the case does not matter.
func (t token) isKeyword(keyword string) bool {
	return t.kind == word && strings.EqualFold(t.text, keyword)
}

// oneOf returns the keyword that the token is; false when it is none of them.
func (t token) oneOf(list []string) (string, bool) {
	for _, k := range list {
		if t.isKeyword(k) {
			return k, true
		}
	}
	return "", false
}

// accept takes the next token if it is the keyword or symbol.
func (p *parser) accept(what string) bool {
	t := p.peek()
	if t.isKeyword(what) || (t.kind == symbol && t.text == what) {
		p.next()
		return true
	}
	return false
}

// expect takes the keyword or symbol, which must be next.
func (p *parser) expect(what string) error {
	if !p.accept(what) {
		return p.unexpected(what)
	}
	return nil
}

// unexpected says that the next token is wrong.
func (p *parser) unexpected(want string) error {
	return wrongAt(p.peek().position, "%s stands where %s should", p.peek(), want)
}

// query reads SELECT … FROM … [WHERE …] [GROUP BY …].
func (p *parser) query(q *Query) error {
	if err := p.expect("SELECT"); err != nil {
		return err
	}
	if p.accept("TOP") {
		n := p.next()
		if n.kind != number || n.number < 1 || n.number > math.MaxInt32 || n.number != math.Trunc(n.number) {
			return wrongAt(n.position, "TOP needs a number from 1, not %s", n)
		}
		q.top = int(n.number)
	}
	if err := p.columns(q); err != nil {
		return err
	}
	if err := p.from(q); err != nil {
		return err
	}
	if p.accept("GROUP") {
		if err := p.groups(q); err != nil {
			return err
		}
	}
	return p.ended()
}

// condition reads what chooses the devices of a job.
func (p *parser) condition(q *Query) error {
	if p.accept("*") {
		return p.ended()
	}
	var err error
	if p.peek().isKeyword("FROM") {
		if err = p.from(q); err == nil && q.Source == Jobs {
			err = wrong("a job is done by devices or modules")
		}
	} else {
		q.where, err = p.expression()
	}
	if err != nil {
		return err
	}
	return p.ended()
}

func (p *parser) ended() error {
	if p.peek().kind != end {
		return p.unexpected("the end")
	}
	return nil
}

// columns reads what is behind SELECT.
func (p *parser) columns(q *Query) error {
	if p.accept("*") {
		return nil
	}
	for {
		c, err := p.column(len(q.columns) + 1)
		if err != nil {
			return err
		}
		for _, other := range q.columns {
			if other.name == c.name {
				return wrong("two columns are called %s", strconv.Quote(c.name))
			}
		}
		q.columns = append(q.columns, c)
		if !p.accept(",") {
			return nil
		}
	}
}

// column reads one column and its AS. One without a name is called by the last
// name of its path, or $1 for the first column.
func (p *parser) column(n int) (column, error) {
	c := column{name: "$" + strconv.Itoa(n)}
	var err error
	if name, ok := p.peek().oneOf(aggregates); ok && p.followedBy("(") {
		c.aggregate = name
		c.value, err = p.aggregated(name)
	} else {
		c.value, err = p.expression()
	}
	if err != nil {
		return c, err
	}
	if names, ok := c.value.(path); ok && c.aggregate == "" {
		c.name = names[len(names)-1]
	}
	if p.accept("AS") {
		t := p.next()
		if t.kind != word {
			return c, wrongAt(t.position, "%s stands where a name should", t)
		}
		c.name = t.text
	}
	return c, nil
}

// followedBy says whether the symbol stands behind the next token.
func (p *parser) followedBy(what string) bool {
	return len(p.tokens) > 1 && p.tokens[1].kind == symbol && p.tokens[1].text == what
}

// aggregated reads an aggregate and its brackets. COUNT needs nothing inside.
func (p *parser) aggregated(name string) (expression, error) {
	p.next()
	p.next()
	if name == "COUNT" {
		if p.accept(")") {
			return nil, nil
		}
		if p.accept("*") {
			return nil, p.expect(")")
		}
	}
	value, err := p.expression()
	if err != nil {
		return nil, err
	}
	return value, p.expect(")")
}

// from reads FROM … [WHERE …].
func (p *parser) from(q *Query) error {
	if err := p.expect("FROM"); err != nil {
		return err
	}
	at := p.peek().position
	names, err := p.names()
	if err != nil {
		return err
	}
	q.Source = Source(strings.ToLower(strings.Join(names, ".")))
	if q.Source != Devices && q.Source != Modules && q.Source != Jobs {
		return wrongAt(at, "there is no collection %s", strconv.Quote(string(q.Source)))
	}
	if p.accept("WHERE") {
		q.where, err = p.expression()
	}
	return err
}

// groups reads BY and the paths behind it.
func (p *parser) groups(q *Query) error {
	if err := p.expect("BY"); err != nil {
		return err
	}
	for {
		names, err := p.names()
		if err != nil {
			return err
		}
		q.groups = append(q.groups, within(names))
		if !p.accept(",") {
			return nil
		}
	}
}

// names reads names with dots between them. A name that is no word is written
// ['like this'].
func (p *parser) names() ([]string, error) {
	t := p.next()
	if _, reserved := t.oneOf(keywords); t.kind != word || reserved {
		return nil, wrongAt(t.position, "%s stands where a name should", t)
	}
	names := []string{t.text}
	for {
		switch {
		case p.accept("."):
			t := p.next()
			if t.kind != word {
				return nil, wrongAt(t.position, "%s stands where a name should", t)
			}
			names = append(names, t.text)
		case p.accept("["):
			t := p.next()
			if t.kind != text {
				return nil, wrongAt(t.position, "%s stands where a name in quotes should", t)
			}
			names = append(names, t.text)
			if err := p.expect("]"); err != nil {
				return nil, err
			}
		default:
			return names, nil
		}
	}
}

// within takes the collection off a path: devices.jobs.status is status. No
// document has a member of that name.
func within(names []string) path {
	for _, s := range []Source{Jobs, Modules, Devices} {
		prefix := strings.Split(string(s), ".")
		if len(names) > len(prefix) && strings.EqualFold(strings.Join(names[:len(prefix)], "."), string(s)) {
			return names[len(prefix):]
		}
	}
	return names
}
