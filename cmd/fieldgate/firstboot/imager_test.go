package firstboot

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	sshKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJ6mFhFPlY3g6HkMxNJmZUXlXpqZzQmLKfMbCVmMPzY me"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMPzYCVmMKfMbzQmLXpqZZUXl3g6HkMxNJmHJ6mFhFPl you"
)

// imaged is a gateway in a folder, whose card is its folder boot.
func imaged(t *testing.T, files map[string]string) (*Gateway, string) {
	t.Helper()
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	if err := os.Mkdir(boot, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(boot, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain := func([]byte) (func([]byte) []byte, error) { return func(s []byte) []byte { return s }, nil }
	return &Gateway{
		Config: filepath.Join(dir, File), SSHKeys: filepath.Join(dir, "ssh/keys"), WiFi: filepath.Join(dir, "wifi/conf"),
		Known: known, Check: func([]byte) error { return nil }, Sealer: plain,
	}, boot
}

func content(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// What Raspberry Pi Imager writes on a card, and what becomes of it.
func TestImager(t *testing.T) {
	preseed := "config_version = \"1.1\"\n[system]\nhostname = \"pump-house\"\n[user]\nname = \"alice\"\npassword = \"alices password\"\n" +
		"[ssh]\nenabled = true\nauthorized_keys = [\n  \"" + sshKey + "\",\n]\n[wlan]\nssid = \"site\"\npassword = \"network password\"\ncountry = \"DE\"\nhidden = true\n" +
		"[locale]\nkeymap = \"gb\"\n[runcmd]\nlate = [\"reboot\"]\n"
	userData := "#cloud-config\r\nhostname: pump-house\r\nmanage_etc_hosts: true\r\nusers:\r\n- default\r\n- name: alice\r\n  passwd: $6$abcdefgh$0123456789\r\n" +
		"  ssh_authorized_keys:\r\n    - " + sshKey + "\r\n  sudo: ALL=(ALL) NOPASSWD:ALL\r\nssh_authorized_keys: ['" + otherKey + "']\r\nruncmd: [reboot]\r\n"
	netplan := "network:\n  version: 2\n  wifis:\n    wlan0:\n      dhcp4: true\n      regulatory-domain: \"DE\"\n      access-points:\n" +
		"        \"site\":\n          password: \"network password\"\n          hidden: true\n      optional: true\n"
	conf, err := (&network{SSID: "site", Country: "DE", Hidden: true}).supplicant("network password")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, text string
		host, keys, wifi string
		gone             []string // from the card
		wrong            string   // instead of all that
	}{
		{
			name: "preseed", file: "rpi-preseed.toml", text: preseed,
			host: "pump-house", keys: sshKey + "\n", wifi: conf, gone: []string{"alices password", "network password"},
		},
		{
			name: "custom.toml, with a key in the place of a password", file: "custom.toml",
			text: "config_version = 1\n[wlan]\nssid = 'IEEE'\npassword = 'F42C6FC52DF0EBEF9EBB4B90B38A5F902E83FE1B135A70E23AED762E9710A12E'\npassword_encrypted = true\n",
			wifi: "network={\n\tssid=49454545\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tpsk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e\n}\n",
			gone: []string{"F42C6FC5"},
		},
		{
			name: "user-data", file: "user-data", text: userData,
			host: "pump-house", keys: otherKey + "\n" + sshKey + "\n", gone: []string{"$6$abcdefgh"},
		},
		{name: "network-config", file: "network-config", text: netplan, wifi: conf, gone: []string{"network password"}},
		{
			name: "network-config, not nested, in other quotes", file: "network-config",
			text: "version: 2\nwifis:\n  wlan0:\n    regulatory-domain: DE\n    access-points:\n      site:\n        hidden: true\n        auth:\n          key-management: psk\n          password: 'network password'\n",
			wifi: conf, gone: []string{"network password"},
		},
		{
			name: "an open network", file: "network-config", text: "wifis: {wlan0: {access-points: {open: {password: \"\"}}}}\n",
			wifi: "network={\n\tssid=6f70656e\n\tkey_mgmt=NONE\n}\n",
		},
		{name: "a name with a domain", file: "user-data", text: "#cloud-config\nfqdn: a.b.example\n", host: "a"},
		{name: "nothing that counts", file: "user-data", text: "#cloud-config\npackages: [vim]\n"},
		{name: "a script", file: "user-data", text: "#!/bin/sh\nreboot\n", wrong: "user-data:1:1: only a file that begins with #cloud-config is understood"},
		{name: "no YAML", file: "network-config", text: "network:\n  - a\n b: [secret words\n", wrong: "network-config:"},
		{name: "no TOML", file: "rpi-preseed.toml", text: "[system]\nhostname = \n", wrong: "rpi-preseed.toml:2:"},
		{name: "no host name", file: "rpi-preseed.toml", text: "[system]\nhostname = \"a b\"\n", wrong: "rpi-preseed.toml:2:13: \"a b\" is no host name"},
		{name: "no key", file: "user-data", text: "#cloud-config\nssh_authorized_keys:\n- ssh-rsa AAAA\n", wrong: "user-data:3:3: this is no public key of SSH"},
		{name: "a short password", file: "custom.toml", text: "[wlan]\nssid = \"site\"\npassword = \"x\"\n", wrong: "custom.toml:2:9: Wi-Fi: psk: a password has 8 to 63 letters"},
		{
			name: "two networks", file: "network-config", text: "wifis: {wlan0: {access-points: {a: {}, b: {}}}}\n",
			wrong: "Wi-Fi: there is more than one network",
		},
		{
			name: "a password that cannot be overwritten", file: "network-config",
			text: "wifis: {wlan0: {access-points: {site: {password: \"network password\"}}}}\n", wrong: "this password cannot be overwritten",
		},
		{
			name: "a password that is spelt in another way", file: "network-config",
			text: "wifis:\n  wlan0:\n    access-points:\n      site:\n        password: >-\n          network\n          password\n", wrong: "this password cannot be overwritten",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, boot := imaged(t, map[string]string{c.file: c.text})
			outcome, err := g.Apply(boot)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "secret words") {
					t.Errorf("%v, want %s", err, c.wrong)
				}
				if g.Mistake() != err.Error() || g.Name() != "" || content(t, g.SSHKeys) != "" || content(t, g.WiFi) != "" {
					t.Error("some of it was applied")
				}
				return
			}
			if err != nil || outcome != Applied {
				t.Fatalf("%v, %v", outcome, err)
			}
			if g.Name() != c.host || content(t, g.SSHKeys) != c.keys || content(t, g.WiFi) != c.wifi {
				t.Errorf("name %q, keys %q, Wi-Fi %q", g.Name(), content(t, g.SSHKeys), content(t, g.WiFi))
			}
			left := content(t, filepath.Join(boot, c.file))
			for _, secret := range c.gone {
				if strings.Contains(left, secret) {
					t.Errorf("%q is still there:\n%s", secret, left)
				}
			}
			if len(left) != len(c.text) || len(c.gone) == 0 && left != c.text {
				t.Errorf("the file is %q", left)
			}
			// Once: what has been changed since then on the gateway stays.
			if err := os.WriteFile(g.SSHKeys, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if outcome, err := g.Apply(boot); err != nil || outcome == Applied || content(t, g.SSHKeys) != "mine" {
				t.Errorf("applied again: %v, %v", outcome, err)
			}
			// Changed, it counts again, and the Wi-Fi that was taken over stays.
			if err := os.WriteFile(filepath.Join(boot, c.file), []byte(left+"# more\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if outcome, err := g.Apply(boot); err != nil || outcome != Applied || content(t, g.WiFi) != c.wifi {
				t.Errorf("changed: %v, %v, Wi-Fi %q", outcome, err, content(t, g.WiFi))
			}
		})
	}
}

// What comes later counts more, and fieldgate.toml most.
func TestImagerOrder(t *testing.T) {
	g, boot := imaged(t, map[string]string{
		"rpi-preseed.toml": "[system]\nhostname = \"one\"\n[ssh]\nauthorized_keys = ['" + sshKey + "']\n[wlan]\nssid = \"one\"\n",
		"user-data":        "#cloud-config\nhostname: two\nssh_authorized_keys: ['" + otherKey + "']\n",
		"network-config":   "wifis: {wlan0: {access-points: {two: {}}}}\n",
		File:               "[hub]\nhost = \"h\"\n[ssh]\nauthorized_keys = ['" + sshKey + "']\n",
	})
	if outcome, err := g.Apply(boot); err != nil || outcome != Applied {
		t.Fatalf("%v, %v", outcome, err)
	}
	if g.Name() != "two" || content(t, g.SSHKeys) != sshKey+"\n" || !strings.Contains(content(t, g.WiFi), "ssid=74776f") {
		t.Errorf("name %q, keys %q, Wi-Fi %q", g.Name(), content(t, g.SSHKeys), content(t, g.WiFi))
	}
}

// Whatever stands on a card: what is taken leaves no password there that it had.
func FuzzImager(f *testing.F) {
	f.Add(0, []byte("[wlan]\nssid = \"site\"\npassword = \"network password\"\n[user]\npassword = '''x\n'''\n"))
	f.Add(2, []byte("#cloud-config\nhostname: a\nusers:\n- passwd: \"$6$aaaaaaaa\" # here\nssh_authorized_keys: [a]\n"))
	f.Add(3, []byte("wifis:\n  w:\n    access-points:\n      s:\n        'password' : network password\n"))
	f.Add(3, []byte("a: &a [*a, *a]\nwifis: *a\n"))
	f.Fuzz(func(t *testing.T, which int, text []byte) {
		i := imagers[max(0, which)%len(imagers)]
		w := &wishes{file: i.file, text: text, mark: i.mark}
		if w.check(i.read) != nil {
			return
		}
		clean := starred(text, w.spans, i.mark)
		for _, s := range w.secrets {
			if len(s) >= 8 && bytes.Contains(clean, []byte(s)) && bytes.Count(text, []byte(s)) == 1 {
				t.Errorf("%q stays in %q", s, clean)
			}
		}
	})
}
