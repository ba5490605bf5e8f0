package firstboot

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// known are some keys of the gateway.
func known(path string) bool {
	return strings.Contains(" hub.host hub.device_id hub.key_file hub.password_file leaf leaf[].id leaf[].key_file leaf[].password_file ", " "+path+" ")
}

const example = "\ufeff# mine\r\n[hub]\r\nconnection_string = 'SharedAccessKey=c2VjcmV0LW9uZQ==;DeviceId=g;HostName=h'\r\n\r\n" +
	"[ ssh ]\r\nauthorized_keys = []\r\n[wifi]\r\nssid = \"s\"\r\npsk = \"twelve letters\"\r\n" +
	"[[leaf]]\r\nid = \"a:b\"\r\nkey = \"\"\"\r\nc2Vjcm\r\nV0\"\"\" # here\r\n[[leaf]]\r\nid = \"c\"\r\nkey = \"c2VjcmV0LXR3bw==\"\r\n"

func TestRead(t *testing.T) {
	s, err := read(File, []byte(example), known)
	if err != nil {
		t.Fatal(err)
	}
	text, at, extra := s.configuration("secrets/X")
	var c struct {
		Hub  map[string]string
		Leaf []map[string]string
	}
	if err := toml.Unmarshal(text, &c); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if c.Hub["host"] != "h" || c.Hub["device_id"] != "g" || c.Hub["key_file"] != "secrets/X/hub.key" ||
		len(c.Leaf) != 2 || c.Leaf[0]["key_file"] != "secrets/X/leaf.a=3Ab.key" || c.Leaf[1]["key_file"] != "secrets/X/leaf.c.key" {
		t.Errorf("the configuration says %+v:\n%s", c, text)
	}
	if at != 3 || extra != 2 || bytes.Count(text, []byte("\n")) != strings.Count(example, "\n")+extra {
		t.Errorf("%d lines more behind line %d:\n%s", extra, at, text)
	}
	if want := []string{"c2VjcmV0LW9uZQ==", "twelve letters", "c2Vjcm\r\nV0", "c2VjcmV0LXR3bw=="}; len(s.secrets) != len(want) {
		t.Errorf("secrets %+v", s.secrets)
	} else {
		for i, one := range s.secrets {
			if one.value != want[i] && one.value != strings.ReplaceAll(want[i], "\r", "") {
				t.Errorf("secret %s is %q, want %q", one.name, one.value, want[i])
			}
		}
	}
	clean := starred([]byte(example), s.spans(), '*')
	if want := "c2Vjc"; bytes.Contains(clean, []byte(want)) || bytes.Contains(clean, []byte("twelve")) {
		t.Errorf("stars leave secrets:\n%s", clean)
	}
}

// The values of IEEE 802.11-2020, annex J.4.2.
func TestNetworkKey(t *testing.T) {
	for _, c := range []struct{ password, ssid, want string }{
		{"password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"},
		{"ThisIsAPassword", "ThisIsASSID", "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"},
	} {
		if got, err := networkKey(c.ssid, c.password); err != nil || got != c.want {
			t.Errorf("%s, %s: %s, %v", c.ssid, c.password, got, err)
		}
	}
}

// Whatever stands on a card: if it is taken, what is left there with stars is TOML as
// before, says that its secrets were taken over, and holds none; and the configuration
// is TOML, too.
func FuzzRead(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("hub = {connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=kkkkkkkkkk\", key = \"x\"}\nwifi.ssid = 'a'\n"))
	f.Add([]byte("[hub]\nkey = \"\\u0041\\\"\"\npassword = '''a\n'''\n[wifi] # ]\n"))
	f.Add([]byte("[[leaf]]\nid = \"\"\nkey = \"****\"\n[[leaf]]\nkey = \"*\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := read(File, text, known)
		if err != nil {
			return
		}
		config, _, _ := s.configuration("f")
		var any map[string]any
		if err := toml.Unmarshal(config, &any); err != nil && s.hub == nil {
			t.Errorf("the configuration is not TOML: %v\n%q\n%q", err, text, config)
		}
		clean := starred(text, s.spans(), '*')
		again, err := read(File, clean, known)
		if err != nil {
			t.Fatalf("with stars: %v\n%q\n%q", err, text, clean)
		}
		if len(again.secrets) != len(s.secrets) {
			t.Fatalf("with stars there are %d secrets, were %d", len(again.secrets), len(s.secrets))
		}
		for i := range again.secrets {
			if one := &again.secrets[i]; !one.kept() && s.secrets[i].stars.To > s.secrets[i].stars.From {
				t.Errorf("%q of %q is not taken for kept", one.value, clean)
			}
		}
	})
}
