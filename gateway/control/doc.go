// Package control is the operator's way to the running daemon: HTTP and JSON over
// a unix socket, the server in the daemon and the client in the other
// subcommands. Who may do what is decided by the kernel's word on who is at the
// other end (SO_PEERCRED), never by the mode of the socket's file.
//
//	GET  /v1/state                  the one struct of state
//	GET  /v1/events                 the last warnings, an array of Event
//	GET  /v1/devices                the leaves, an array of Device
//	GET  /v1/devices/{id}           one of them; below it twin and messages, and
//	                                to POST to methods/{name} and commands
//	GET  /v1/logs?after=N&leaf=ID   lines of the log, an array of Record
//	GET  /v1/messages/{id}          what became of a message
//	POST /v1/round-trip             a twin is read from the hub: a Trip
//	GET  /v1/dead-letters           what is on the shelf, an array of Letter
//	GET  /v1/dead-letters/export    the same with properties and bodies, a line each
//	POST /v1/dead-letters/replay    a Selection: back into their lanes
//	POST /v1/dead-letters/purge     a Selection: gone for good
//	POST /v1/pairing/claim          a Claiming: a Claimed at once; the claim is held
//	                                until the caller's side of the connection ends
//	GET  /v1/ble/devices?for=5s     what the radio hears, an array of Heard
//	POST /v1/ble/pair               a Pairing: a line of JSON for each Step
//	POST /v1/ble/answer             an Answer to what a Step asks
//	POST /v1/ble/forget             a Pairing, of which only the address counts
//
// An answer that is no success is a Problem. The package knows nothing of what
// state there is or how it is shown: the program does.
package control
