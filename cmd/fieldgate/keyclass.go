package main

import "strings"

// What a change of a key needs before it counts.
const (
	changeLive      = "live"      // nothing: it counts at once
	changeReconnect = "reconnect" // the connection or port that it is about is opened anew
	changeRestart   = "restart"   // the daemon starts again
)

// changes says what a change needs, by key or by the tables around it; what is
// nearest to the key counts.
var changes = map[string]string{
	"":                     changeRestart,
	"hub":                  changeReconnect,
	"uplink":               changeReconnect,
	"enrol":                changeReconnect,
	"broker":               changeLive,
	"broker.listener[]":    changeReconnect,
	"broker.max_keepalive": changeReconnect,
	"twin":                 changeLive,
	"upload":               changeLive,
	"upload.max_bytes":     changeRestart,
	"path":                 changeLive,
	"lane":                 changeLive,
	"log.level":            changeLive,
	"leaf[]":               changeLive,
	"map[]":                changeLive,
	"module[]":             changeLive,
	"serial[]":             changeReconnect,
	"ble":                  changeReconnect,
}

// secrets are the keys that can hold a secret themselves. All others name at most a
// file that does.
var secrets = map[string]bool{
	"hub.proxy":                           true, // a password in it is refused, but may be in it till then
	"ble.device[].characteristic[].write": true, // some devices are unlocked by what is written
}

// change says what a change of the key needs.
func (k *key) change() string {
	for at := k.path; ; at = at[:max(strings.LastIndexByte(at, '.'), 0)] {
		if class, ok := changes[at]; ok {
			return class
		}
	}
}

// Data classes.
const (
	dataPlain  = "plain"
	dataSecret = "secret" // never shown
)

func (k *key) data() string {
	if secrets[k.path] {
		return dataSecret
	}
	return dataPlain
}
