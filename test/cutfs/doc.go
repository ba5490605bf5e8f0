// Package cutfs is a file system whose power can be cut and whose operations can
// be made to fail. It is served to the kernel over FUSE, so that real programs
// use it without knowing: with plain writes, with MAP_SHARED and msync, with
// fallocate.
//
// Everything is held in this process's memory. Beside what a program sees, the
// live state, it knows what would be left if the power went now:
//
//   - of a file, each page and the length as of the last fsync, and which pages
//     were written since;
//   - of folders, the changes of names that are not durable yet, in their order.
//
// What makes a name durable is a matter of the file system, see Names. What
// becomes of that which was never synced is a matter of luck, see Mode.
//
// A cut goes in three steps, so that nothing that happens later counts:
//
//	fs.Cut()         // or CutWhen: from now on nothing is answered
//	kill -9          // the program cannot die before its calls return
//	fs.Thaw()        // they fail, and the program dies without seeing it
//
// Dirty pages of memory maps that the kernel writes back when the program dies
// count as written and not synced, which they were. Then Survivors gives what is
// left, and Mount serves it again.
//
// The order of files: tree.go is the live state and what is durable of it,
// survivors.go what a cut leaves, power.go cuts and faults, serve.go the kernel's
// side.
//
// A program must not use the file system through a memory map in the process
// that serves it: a page fault stops the Go runtime that should answer it.
package cutfs
