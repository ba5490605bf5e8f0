// Package twin stands between leaves and their twins at the hub. It keeps a copy
// of each twin on flash, so that a leaf can read it with no hub; it has reported
// patches in custody until the hub has taken them; and it finds by version which
// desired changes a leaf has missed.
//
// json.go is what patches do, twins.go the two doors (the leaf's and the hub's),
// work.go what is done for one leaf after the other door has closed, keep.go what
// is on flash.
package twin
