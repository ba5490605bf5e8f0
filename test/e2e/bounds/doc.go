// Package bounds measures what the real gateway uses: memory with a large
// backlog and while leaves come and go, what a start reads, and how much of the
// disk comes back.
package bounds
