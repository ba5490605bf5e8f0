// Package edit changes single keys in the text of a TOML document, and adds and removes
// tables of lists. Only the bytes of the value, of the line or of the table that comes or
// goes, are touched: comments, spacing and
// the order of everything else stay as somebody wrote them.
//
// It knows nothing of what the keys mean; whoever calls it looks whether the result
// is any good before it is written.
package edit
