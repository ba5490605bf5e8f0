package registry

import "strings"

// ID names an identity: a device, or a module of a device.
type ID struct {
	Device string
	Module string // "" for the device itself
}

// String returns "device" or "device/module", as in an MQTT client id.
func (id ID) String() string {
	if id.Module == "" {
		return id.Device
	}
	return id.Device + "/" + id.Module
}

// Path returns "devices/{d}" or "devices/{d}/modules/{m}", not escaped.
func (id ID) Path() string {
	if id.Module == "" {
		return "devices/" + id.Device
	}
	return "devices/" + id.Device + "/modules/" + id.Module
}

// ParseID reads what String writes.
func ParseID(text string) ID {
	device, module, _ := strings.Cut(text, "/")
	return ID{device, module}
}
