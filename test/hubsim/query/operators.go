package query

import "strings"

// expression reads … OR …, or anything that binds its operands tighter.
func (p *parser) expression() (expression, error) {
	out, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer out()
	return p.chain(p.and, "OR")
}

// deeper counts how far expressions are inside each other; call the function it
// returns when the inner one has been read.
func (p *parser) deeper() (out func(), err error) {
	if p.nesting++; p.nesting > maxNesting {
		return nil, wrongAt(p.peek().position, "it is nested deeper than %d", maxNesting)
	}
	return func() { p.nesting-- }, nil
}

// and reads … AND ….
func (p *parser) and() (expression, error) { return p.chain(p.not, "AND") }

// chain reads operands with operators of one rank between them.
func (p *parser) chain(operand func() (expression, error), operators ...string) (expression, error) {
	left, err := operand()
	if err != nil {
		return nil, err
	}
	for {
		op, ok := p.operator(operators)
		if !ok {
			return left, nil
		}
		right, err := operand()
		if err != nil {
			return nil, err
		}
		left = binary{op: op, left: left, right: right}
	}
}

// operator takes the next token if it is one of the operators.
func (p *parser) operator(list []string) (string, bool) {
	for _, op := range list {
		if p.accept(op) {
			return op, true
		}
	}
	return "", false
}

// not reads NOT … or a comparison.
func (p *parser) not() (expression, error) {
	if !p.accept("NOT") {
		return p.comparison()
	}
	out, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer out()
	value, err := p.not()
	return not{value}, err
}

// comparison reads a sum, or two with a comparison between them, or a sum that
// is looked for in a list.
func (p *parser) comparison() (expression, error) {
	left, err := p.sum()
	if err != nil {
		return nil, err
	}
	if op, ok := p.operator([]string{"=", "!=", "<>", "<=", ">=", "<", ">"}); ok {
		right, err := p.sum()
		return binary{op: op, left: left, right: right}, err
	}
	switch {
	case p.accept("IN"):
		return p.in(left, false)
	case p.accept("NIN"):
		return p.in(left, true)
	case p.peek().isKeyword("NOT") && len(p.tokens) > 1 && p.tokens[1].isKeyword("IN"):
		p.next()
		p.next()
		return p.in(left, true)
	}
	return left, nil
}

// in reads the list behind IN.
func (p *parser) in(value expression, negated bool) (expression, error) {
	if err := p.expect("["); err != nil {
		return nil, err
	}
	list, err := p.list("]")
	return in{value: value, list: list, negated: negated}, err
}

// list reads expressions with commas between them, up to a bracket, and the
// bracket.
func (p *parser) list(bracket string) ([]expression, error) {
	var list []expression
	if p.accept(bracket) {
		return list, nil
	}
	for {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if !p.accept(",") {
			return list, p.expect(bracket)
		}
	}
}

// sum reads … + … and … - ….
func (p *parser) sum() (expression, error) { return p.chain(p.product, "+", "-") }

// product reads … * …, … / … and … % ….
func (p *parser) product() (expression, error) { return p.chain(p.signed, "*", "/", "%") }

// signed reads an operand with or without a sign.
func (p *parser) signed() (expression, error) {
	if !p.accept("-") {
		return p.operand()
	}
	out, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer out()
	value, err := p.signed()
	return binary{op: "-", left: constant{0.0}, right: value}, err
}

// operand reads a constant, a path, a call, or an expression in brackets.
func (p *parser) operand() (expression, error) {
	switch t := p.peek(); {
	case t.kind == number:
		p.next()
		return constant{t.number}, nil
	case t.kind == text:
		p.next()
		return constant{t.text}, nil
	case p.accept("("):
		inner, err := p.expression()
		if err != nil {
			return nil, err
		}
		return inner, p.expect(")")
	case p.accept("["):
		list, err := p.list("]")
		return array(list), err
	case t.kind == word && p.followedBy("("):
		return p.call()
	case t.kind == word && !p.followedBy(".") && !p.followedBy("["):
		if c, ok := constants[strings.ToLower(t.text)]; ok {
			p.next()
			return c, nil
		}
	}
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	return within(names), nil
}

// constants are the words that are values.
var constants = map[string]constant{
	"true": {true}, "false": {false}, "null": {nil}, "undefined": {undefined},
}

// call reads a function and its brackets.
func (p *parser) call() (expression, error) {
	name := p.next()
	f, ok := functions[strings.ToLower(name.text)]
	if !ok {
		return nil, wrongAt(name.position, "there is no function %s", name)
	}
	p.next()
	args, err := p.list(")")
	if err != nil {
		return nil, err
	}
	if len(args) < f.least || len(args) > f.most {
		return nil, wrongAt(name.position, "%s does not take %d values", name.text, len(args))
	}
	return call{f: f.eval, args: args}, nil
}
