// Package upload carries files from leaves to the hub's storage. A file is
// spooled on flash as it comes, block by block, each synced before the leaf is
// told; the leaf says when it is whole. It is then sent to the hub on behalf of
// the leaf, when there is one to be reached, within a budget, and goes on behind
// the last block after every break.
//
// spool.go is what is on flash, sender.go the way to the hub, door.go HTTP for
// leaves that upload as to the hub itself.
package upload
