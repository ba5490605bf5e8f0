package main

import "strings"

// What a change of a key needs before it counts.
const (
	changeLive      = "live"      // nothing: it counts at once
	changeReconnect = "reconnect" // the connection to the hub is replaced; leaves stay
	changeRestart   = "restart"   // the daemon starts again
)

// changes says what a change needs, by key or by the tables around it; what is
// nearest to the key counts.
var changes = map[string]string{
	"":                             changeRestart,
	"hub":                          changeReconnect,
	"hub.profile":                  changeRestart, // these say who everybody is, and to whom
	"hub.host":                     changeRestart,
	"hub.transport":                changeRestart,
	"hub.device_id":                changeRestart,
	"uplink":                       changeReconnect,
	"broker":                       changeLive,
	"broker.max_inflight_messages": changeRestart, // the MQTT server is made with it
	"broker.listener[]":            changeRestart,
	"broker.listener[].cert_file":  changeLive,
	"broker.listener[].key_file":   changeLive,
	"twin":                         changeLive,
	"upload":                       changeLive,
	"path":                         changeLive,
	"lane":                         changeLive,
	"lane.alarm.custody":           changeRestart, // the order of what is under way was made for these
	"lane.alarm.live_first":        changeRestart,
	"lane.telemetry.custody":       changeRestart,
	"lane.telemetry.live_first":    changeRestart,
	"log.level":                    changeLive,
	"leaf[]":                       changeLive,
	"leaf[].key_file":              changeReconnect,
	"leaf[].auth":                  changeReconnect,
	"serial[]":                     changeLive,
	"ble.advert[]":                 changeLive,
	"ble.device[]":                 changeLive,
	"map[]":                        changeLive,
	"module[]":                     changeLive,
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
