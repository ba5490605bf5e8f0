// Package site builds a whole installation in one directory and runs it: a hub
// on the bench, a gateway with the configuration that a user would write, and
// leaves. The demonstration and the end-to-end tests are stories told with it.
//
//	hub/             what hubsim writes: ca.pem, hub.json
//	gateway/         fieldgate.toml, certificate, keys and password files
//	gateway/data/    the store
//	leaf/ca.pem      what the leaves trust
//	leaf/tty-…       the serial ports, links to pseudo-terminals
//	acks.jsonl       what the gateway acknowledged, as the leaves saw it
//	arrivals.jsonl   what had arrived at the hub when the site was closed
//	*.log            what the programs said
//
// It uses the programs' command lines and files only.
package site
