// Package store is custody on flash: it keeps messages that the hub has not yet
// taken, across crashes and power cuts, in the order in which they came.
//
// Badger is used in the one shape that measured well as a queue: a ring of small
// databases instead of one big one. The words:
//
//	block    the messages of one group commit, framed with checksums of its own
//	commit   one synced Badger transaction that writes one or more blocks
//	segment  one small database, a folder with some megabytes of blocks
//	head     the segment of a lane that is being written
//	sealed   a segment that is complete and closed; it is only read from now on
//	settled  a message that is done with; a segment of only such messages is
//	         removed whole, so that space comes back at once
//
// On disk:
//
//	store-format            marker: this folder is ours, and of which version
//	ballast                 allocated, given up when there is no room to start, to
//	                        write a damaged segment anew, or for dead letters and notes
//	starts                  how often the store was opened
//	meta/                   long-lived database: start number, dead letters
//	queue/<lane>/<number>/  one segment: Badger's files and beside them
//	    index               how many messages each block has (sealed ones only)
//	    settled             journal of what is done with
//	    full-logs           there while the logs have the full size that they were made
//	                        with: a shorter one is damaged
//	trash/                  being removed
//	damaged/                segments that could not be read, kept for diagnosis
//
// Read the files in this order to follow a message: message.go and frame.go
// (what it looks like on flash), commit.go (how it gets there), segment.go (what
// is remembered about it), read.go (how it comes back), keeper.go (how it
// leaves). open.go and recover.go are the start, bound.go is what happens when
// the lane is full, space.go is what happens when the disk is, damage.go is the
// account of what was lost to damage.
package store
