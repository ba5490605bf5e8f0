// Package powercut takes the storage away from a running gateway and looks what
// becomes of what it has acknowledged.
//
// The gateway is the real program, its data folder is on a file system of package
// cutfs, its leaves and its hub are those of package site. There are two stories:
//
//   - The power is cut, again and again, at random moments and at chosen ones: at
//     a group commit, at the start of a segment, at the removal of another, while
//     the store is being opened. What was synced survives, what was not does as
//     luck has it. Each time the gateway must start, and in the end everything
//     acknowledged must have arrived, in order.
//   - Operations fail, each in turn, once or until further notice, with EIO,
//     ENOSPC and EROFS. The gateway must stay alive, say that it cannot write,
//     acknowledge nothing that a cut would take, and go on by itself when the
//     fault ends.
//
// That both can fail is tested too, with a disk that lies about its syncs.
package powercut
