// Package edit changes single keys in the text of a TOML document. Only the bytes of
// the value, or of the line that comes or goes, are touched: comments, spacing and
// the order of everything else stay as somebody wrote them.
//
// It knows nothing of what the keys mean; whoever calls it looks whether the result
// is any good before it is written.
package edit
