// Package strict reads TOML into Go structs and is strict about it: a key that
// the struct does not know, a value of the wrong type or without its unit, is a
// problem with file, line and column, and with the nearest thing that would
// have been right. It reports all problems of a document, not only the first,
// since the person who has to mend it may be on a slow line.
//
// Structs name their keys with `toml:"..."` tags. Fields without a tag are not
// touched; structs tagged `toml:",inline"` lend their keys to the table they are
// in. A field of type Table or []Table receives that part of the document as it
// is, to be decoded later by somebody who knows more.
package strict
