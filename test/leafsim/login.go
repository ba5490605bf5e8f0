package leafsim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"time"
)

// Login says with which user name and password a leaf connects. It is asked
// anew for every connection: tokens run out.
type Login func(leaf string) (user, password string)

// PasswordLogin is the plain login: the leaf's id and its password.
func PasswordLogin(password string) Login {
	return func(leaf string) (string, string) { return leaf, password }
}

// tokenLife is how long a token is valid. Stock device SDKs use an hour (wire
// contract, section 1.4).
const tokenLife = time.Hour

// TokenLogin is the login of a stock device SDK: the user name of the IoT Hub
// dialect and a SAS token for the hub's name, signed with the device key as the
// hub hands it out, in Base64. A key that is not Base64 is an error.
func TokenLogin(hubHost, key string) (Login, error) {
	secret, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, err
	}
	return func(leaf string) (string, string) {
		user := hubHost + "/" + leaf + "/?api-version=2021-04-12"
		return user, deviceToken(hubHost, leaf, secret, time.Now().Add(tokenLife))
	}, nil
}

// deviceToken makes a SAS token (wire contract, section 1.1).
func deviceToken(hubHost, leaf string, secret []byte, expiry time.Time) string {
	resource := url.QueryEscape(hubHost + "/devices/" + leaf)
	se := strconv.FormatInt(expiry.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(resource + "\n" + se))
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return "SharedAccessSignature sr=" + resource + "&sig=" + sig + "&se=" + se
}
