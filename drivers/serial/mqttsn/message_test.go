package mqttsn_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
)

// Vectors of Zephyr's test suite (tests/net/lib/mqtt_sn_packet).
var vectors = []struct {
	hex  string
	want mqttsn.Message
}{
	{"05002ADEAD", mqttsn.Message{Type: mqttsn.Advertise, Gateway: 42, Duration: 0xDEAD}},
	{"030101", mqttsn.Message{Type: mqttsn.SearchGW, Radius: 1}},
	{"07022A7F000001", mqttsn.Message{Type: mqttsn.GWInfo, Gateway: 42, Text: []byte{127, 0, 0, 1}}},
	{"12040C01012C7A6570687972636C69656E74", mqttsn.Message{
		Type: mqttsn.Connect, Flags: mqttsn.Flags{Will: true, Clean: true}, Protocol: 1, Duration: 300, Text: []byte("zephyrclient"),
	}},
	{"030500", mqttsn.Message{Type: mqttsn.ConnAck}},
	{"0206", mqttsn.Message{Type: mqttsn.WillTopicReq}},
	{"0208", mqttsn.Message{Type: mqttsn.WillMsgReq}},
	{"0A07302F7A6570687972", mqttsn.Message{Type: mqttsn.WillTopic, Flags: mqttsn.Flags{QoS: 1, Retain: true}, Text: []byte("/zephyr")}},
	{"08096D7977696C6C", mqttsn.Message{Type: mqttsn.WillMsg, Data: []byte("mywill")}},
	{"0D0A1A1B1C1D2F7A6570687972", mqttsn.Message{Type: mqttsn.Register, TopicID: 0x1A1B, MessageID: 0x1C1D, Text: []byte("/zephyr")}},
	{"0D0A00001C1D2F7A6570687972", mqttsn.Message{Type: mqttsn.Register, MessageID: 0x1C1D, Text: []byte("/zephyr")}},
	{"070B1A1B1C1D00", mqttsn.Message{Type: mqttsn.RegAck, TopicID: 0x1A1B, MessageID: 0x1C1D}},
	{"0D0CD252421C1D7A6570687972", mqttsn.Message{
		Type: mqttsn.Publish, Flags: mqttsn.Flags{DUP: true, QoS: 2, Retain: true, Topic: mqttsn.ShortName},
		TopicID: 'R'<<8 | 'B', MessageID: 0x1C1D, Data: []byte("zephyr"),
	}},
	{"070D1A1B1C1D03", mqttsn.Message{Type: mqttsn.PubAck, TopicID: 0x1A1B, MessageID: 0x1C1D, Code: mqttsn.NotSupported}},
	{"040FBEEF", mqttsn.Message{Type: mqttsn.PubRec, MessageID: 0xBEEF}},
	{"0410BEEF", mqttsn.Message{Type: mqttsn.PubRel, MessageID: 0xBEEF}},
	{"040EBEEF", mqttsn.Message{Type: mqttsn.PubComp, MessageID: 0xBEEF}},
	{"0C12801C1D2F7A6570687972", mqttsn.Message{
		Type: mqttsn.Subscribe, Flags: mqttsn.Flags{DUP: true}, MessageID: 0x1C1D, Named: true, Text: []byte("/zephyr"),
	}},
	{"0813601A1B190901", mqttsn.Message{Type: mqttsn.SubAck, Flags: mqttsn.Flags{QoS: -1}, TopicID: 0x1A1B, MessageID: 0x1909, Code: mqttsn.Congestion}},
	{"0714011C1D1234", mqttsn.Message{Type: mqttsn.Unsubscribe, Flags: mqttsn.Flags{Topic: mqttsn.Predefined}, MessageID: 0x1C1D, TopicID: 0x1234}},
	{"04151337", mqttsn.Message{Type: mqttsn.UnsubAck, MessageID: 0x1337}},
	{"0216", mqttsn.Message{Type: mqttsn.PingReq}},
	{"0E167A6570687972636C69656E74", mqttsn.Message{Type: mqttsn.PingReq, Text: []byte("zephyrclient")}},
	{"0217", mqttsn.Message{Type: mqttsn.PingResp}},
	{"04182710", mqttsn.Message{Type: mqttsn.Disconnect, HasDuration: true, Duration: 10000}},
	{"0218", mqttsn.Message{Type: mqttsn.Disconnect}},
	{"0A1A102F7A6570687972", mqttsn.Message{Type: mqttsn.WillTopicUpd, Flags: mqttsn.Flags{Retain: true}, Text: []byte("/zephyr")}},
	{"031B00", mqttsn.Message{Type: mqttsn.WillTopicResp}},
	{"081C6D7977696C6C", mqttsn.Message{Type: mqttsn.WillMsgUpd, Data: []byte("mywill")}},
	{"031D00", mqttsn.Message{Type: mqttsn.WillMsgResp}},
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plain makes empty slices nil: they mean the same.
func plain(m mqttsn.Message) mqttsn.Message {
	if len(m.Text) == 0 {
		m.Text = nil
	}
	if len(m.Data) == 0 {
		m.Data = nil
	}
	return m
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		b := unhex(t, v.hex)
		m, err := mqttsn.Parse(b)
		if err != nil || !reflect.DeepEqual(plain(*m), v.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", v.hex, m, err, v.want)
			continue
		}
		if got := m.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%s: written as %X", v.hex, got)
		}
		for n := range b {
			if _, err := mqttsn.Parse(b[:n]); !errors.Is(err, mqttsn.ErrMalformed) {
				t.Errorf("%s cut off at %d: got %v", v.hex, n, err)
			}
		}
	}
}

// A short message may have its length in the long form.
func TestLongLength(t *testing.T) {
	for text, want := range map[string]mqttsn.Message{
		"0100050502": {Type: mqttsn.ConnAck, Code: mqttsn.InvalidTopic},
		"01000418":   {Type: mqttsn.Disconnect},
	} {
		if m, err := mqttsn.Parse(unhex(t, text)); err != nil || !reflect.DeepEqual(plain(*m), want) {
			t.Errorf("%s: got %+v, %v", text, m, err)
		}
	}
	big := mqttsn.Message{Type: mqttsn.Publish, TopicID: 1, Data: make([]byte, 300)}
	m, err := mqttsn.Parse(big.Append(nil))
	if err != nil || len(m.Data) != 300 {
		t.Errorf("300 octets: %v", err)
	}
}

func TestMalformed(t *testing.T) {
	for _, text := range []string{
		"", "01", "0100", "00", "02", "0218FF", "0318", "0303", "03FE00",
		"06040C01012C", // no client id
		"1E040C01012C" + "616161616161616161616161616161616161616161616161", // 24 characters
		"060A1A1B1C1D",    // no name
		"05128000" + "00", // no topic
		"070C63000100" + "00",
	} {
		if m, err := mqttsn.Parse(unhex(t, text)); !errors.Is(err, mqttsn.ErrMalformed) {
			t.Errorf("%s: got %+v, %v", text, m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := mqttsn.Parse(b)
		if err != nil {
			return
		}
		again, err := mqttsn.Parse(m.Append(nil))
		if err != nil || !reflect.DeepEqual(plain(*again), plain(*m)) {
			t.Errorf("%X: %+v is written as %X: %+v, %v", b, m, m.Append(nil), again, err)
		}
	})
}
