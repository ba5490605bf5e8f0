// Package rows plays every row of the hub's contract through the real gateway:
// telemetry, commands, twins, methods and files, of leaves made of the hub
// vendor's SDK over MQTT and over WebSockets, with the link to the hub breaking
// and the gateway being killed in the middle of all of them. What is right is
// judged by the hub's own account and by what the leaves say.
//
// The other tests here are of sessions, of the hub's limits as leaves meet them,
// of leaves that attack, and of 900 leaves at once.
package rows
