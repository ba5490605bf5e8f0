package ble

import (
	"encoding/json"
	"strings"

	"github.com/fieldgate/fieldgate/drivers/ble/advert"
	"github.com/fieldgate/fieldgate/gateway"
)

// body writes readings as a JSON object in their order, with the units behind them:
// {"temperature":21.5,"rssi":-60,"units":{"temperature":"°C"}}. rssi is 0 where it is
// not known or does not count.
func body(readings []advert.Reading, rssi int, units bool) []byte {
	var b strings.Builder
	field := func(name string, value any) {
		if b.Len() > 1 && !strings.HasSuffix(b.String(), "{") {
			b.WriteByte(',')
		}
		// Nothing here can fail: values are finite numbers, bools and strings.
		n, _ := json.Marshal(name)
		v, _ := json.Marshal(value)
		b.Write(n)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('{')
	for _, r := range readings {
		field(r.Name, r.Value)
	}
	if rssi != 0 {
		field("rssi", rssi)
	}
	if units {
		named := make(map[string]string)
		for _, r := range readings {
			if r.Unit != "" {
				named[r.Name] = r.Unit
			}
		}
		if len(named) > 0 {
			field("units", named)
		}
	}
	b.WriteByte('}')
	return []byte(b.String())
}

func jsonBody() gateway.System {
	return gateway.System{ContentType: "application/json", ContentEncoding: "utf-8"}
}

// trusted marks what a leaf has not proven; "" for nothing.
func trusted(mark string) []gateway.Property {
	if mark == "" {
		return nil
	}
	return []gateway.Property{{Name: gateway.PropertyTrust, Value: mark}}
}
