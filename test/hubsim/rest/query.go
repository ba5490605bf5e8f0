package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/query"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// maxPage is the largest page of results (section 5.5). A client that does not
// ask for a size gets as many; trap 9.33 is one reason.
const maxPage = 1000

// The headers by which results come page by page.
const (
	pageSizeHeader     = "x-ms-max-item-count"
	continuationHeader = "x-ms-continuation"
	itemTypeHeader     = "x-ms-item-type"
)

// query answers one page of a query.
func (a *API) query(w http.ResponseWriter, r *http.Request) error {
	if err := a.hub.Limits.Take(limits.Query, 0); err != nil {
		return err
	}
	var body struct {
		Query string `json:"query"`
	}
	if err := read(r, &body); err != nil {
		return err
	}
	q, err := query.Parse(body.Query)
	if err != nil {
		return err
	}
	size, err := pageSize(r)
	if err != nil {
		return err
	}
	from, err := continuation(r, body.Query)
	if err != nil {
		return err
	}
	results, next := q.Page(a.rows(q.Source), from, size)
	w.Header().Set(itemTypeHeader, q.ItemType())
	if next != nil {
		setContinuation(w, body.Query, *next)
	}
	return reply(w, results)
}

// rows are the documents of a collection.
func (a *API) rows(s query.Source) query.Rows {
	if s == query.Jobs {
		return a.hub.Jobs.Rows
	}
	return func(after string) iter.Seq2[string, map[string]any] {
		return a.hub.Twins.Documents(s == query.Modules, after)
	}
}

// pageSize is how many results a client wants at most. A page is never larger
// than maxPage, whatever it wants.
func pageSize(r *http.Request) (int, error) {
	text := r.Header.Get(pageSizeHeader)
	if text == "" {
		return maxPage, nil
	}
	size, err := strconv.Atoi(text)
	if err != nil || size < 1 {
		return 0, refusal.New(400004, pageSizeHeader+" must be a number from 1")
	}
	return min(size, maxPage), nil
}

// ticket is what a continuation holds. Clients must not look inside.
type ticket struct {
	Of   []byte // the question it belongs to, hashed
	From query.Position
}

// hashed marks what belongs to a question.
func hashed(question string) []byte {
	sum := sha256.Sum256([]byte(question))
	return sum[:8] // told from others, not protected from them
}

// setContinuation tells the client where the next page of a question starts.
func setContinuation(w http.ResponseWriter, question string, from query.Position) {
	text, _ := json.Marshal(ticket{hashed(question), from}) // bytes, text and a number: cannot fail
	w.Header().Set(continuationHeader, base64.RawURLEncoding.EncodeToString(text))
}

// continuation is where the client wants to go on; zero for the beginning.
func continuation(r *http.Request, question string) (query.Position, error) {
	header := r.Header.Get(continuationHeader)
	if header == "" {
		return query.Position{}, nil
	}
	var t ticket
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil || !slices.Equal(t.Of, hashed(question)) || t.From.Given < 0 {
		return query.Position{}, refusal.New(400004, continuationHeader+" does not belong to this query")
	}
	return t.From, nil
}
