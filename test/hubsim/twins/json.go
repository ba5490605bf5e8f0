package twins

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// decodeReported reads a patch from a device. Names with $ are refused, so a
// section that is sent back as it was read is refused too (trap 9.28).
func decodeReported(text []byte) (map[string]any, error) {
	patch, err := decode(text)
	if err != nil {
		return nil, err
	}
	return patch, checkMembers(patch, 0)
}

// decodeWrite reads what a service sends. Members other than tags and desired
// are not written, and neither are the hub's own marks in desired: services send
// back whole twins as they read them (Azure/iotedge 1246). Names with $ are
// refused everywhere else.
func decodeWrite(text []byte, replace bool) (write, error) {
	body, err := decode(text)
	if err != nil {
		return write{}, err
	}
	w := write{replace: replace}
	if w.tags, err = object(body, "tags"); err != nil {
		return write{}, err
	}
	properties, err := object(body, "properties")
	if err != nil {
		return write{}, err
	}
	if w.desired, err = object(properties, "desired"); err != nil {
		return write{}, err
	}
	delete(w.desired, "$metadata")
	delete(w.desired, "$version")
	if replace {
		withoutNulls(w.tags)
		withoutNulls(w.desired)
	}
	if err := checkMembers(w.tags, 0); err != nil {
		return write{}, err
	}
	return w, checkMembers(w.desired, 0)
}

// object returns a member that is an object; nil when it is null or not there.
func object(parent map[string]any, name string) (map[string]any, error) {
	switch v := parent[name].(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	}
	return nil, invalid("%s must be an object", name)
}

// withoutNulls takes out what a replacement does not write. Its full section
// goes to the device, which must not take it for a patch.
func withoutNulls(object map[string]any) {
	for name, value := range object {
		switch v := value.(type) {
		case nil:
			delete(object, name)
		case map[string]any:
			withoutNulls(v)
		}
	}
}

// decode reads one JSON object. Numbers keep their text: 1.0 stays 1.0.
func decode(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return nil, invalid("the body is not a JSON object: %v", err)
	}
	if members == nil {
		return nil, invalid("the body is null, not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("there is more than one JSON object")
	}
	return members, nil
}

// encode writes what was decoded, or made of it, and so cannot fail.
func encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic("twins: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
