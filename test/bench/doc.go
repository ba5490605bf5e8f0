// Package bench measures a gateway beside what people use today: the same load,
// from the same leaves, on the same machine, goes in turn through Fieldgate to an
// IoT hub and through a mosquitto that bridges to a second one. Both listen with
// TLS and both send with TLS.
//
//	load.go      leaves that publish as fast as they may, or at a rate
//	rig.go       what is measured: a gateway process and what is behind it
//	fieldgate.go fieldgate and hubsim
//	bridge.go    mosquitto and mosquitto
//	process.go   what a process has cost, as the kernel counts it
//	run.go       one load through one rig
//	special.go   backlog, growth, idle memory, loss
//	others.go    what one leaf does to the others
//	bomb.go      by what it throws
//	report.go    the tables
//
// The gateway is one process and is measured as a whole. The load and what
// receives it run beside it on the same cores, and their own cost is reported: it
// bounds what any gateway could reach there.
package bench
