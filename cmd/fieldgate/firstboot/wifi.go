package firstboot

import (
	"crypto/pbkdf2"
	"crypto/sha1" // of the standard, see below
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fieldgate/fieldgate/gateway/seal"
)

// joinWiFi writes what wpa_supplicant is to join. folder has the password.
func (g *Gateway) joinWiFi(n *network, folder string) error {
	psk, err := seal.ReadFile(filepath.Join(folder, "wifi.psk"))
	if err != nil && n.PSK != "" {
		return err
	}
	text, err := n.supplicant(string(psk))
	if err != nil {
		return err
	}
	return replace(g.WiFi, []byte(text), 0o600, false)
}

var (
	country  = regexp.MustCompile(`^[A-Z]{2}$`)
	wholeKey = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

// problem says what is wrong with a network, "" for nothing. hashed allows its key, in
// hexadecimal, in the place of the password: Raspberry Pi Imager writes that.
func (n *network) problem(hashed bool) string {
	switch {
	case n.SSID == "" || len(n.SSID) > 32:
		return "ssid: write the name of the network, 1 to 32 bytes"
	case hashed && wholeKey.MatchString(n.PSK):
	case strings.Trim(n.PSK, "*") != "" && (len(n.PSK) < 8 || len(n.PSK) > 63):
		return "psk: a password has 8 to 63 letters; leave it out for a network without one"
	}
	if n.Country != "" && !country.MatchString(n.Country) {
		return "country: write two capital letters, like \"DE\""
	}
	return ""
}

// supplicant is a configuration of wpa_supplicant (its page wpa_supplicant.conf(5)).
// Name and key are in hexadecimal: nothing in them can be taken for something else.
func (n *network) supplicant(psk string) (string, error) {
	var out strings.Builder
	if n.Country != "" {
		fmt.Fprintf(&out, "country=%s\n", n.Country)
	}
	fmt.Fprintf(&out, "network={\n\tssid=%x\n", n.SSID)
	if n.Hidden {
		out.WriteString("\tscan_ssid=1\n")
	}
	if psk == "" {
		out.WriteString("\tkey_mgmt=NONE\n")
	} else {
		key := strings.ToLower(psk)
		if !wholeKey.MatchString(psk) {
			var err error
			if key, err = networkKey(n.SSID, psk); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&out, "\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tpsk=%s\n", key)
	}
	out.WriteString("}\n")
	return out.String(), nil
}

// networkKey is the key of a network with a password (IEEE 802.11-2020, annex J.4).
func networkKey(ssid, password string) (string, error) {
	if len(password) < 8 || len(password) > 63 {
		return "", errors.New("a Wi-Fi password has 8 to 63 letters")
	}
	key, err := pbkdf2.Key(sha1.New, password, []byte(ssid), 4096, 32)
	return hex.EncodeToString(key), err
}
