package broker

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// login is what a leaf said in its CONNECT.
type login struct {
	clientID      string
	username      string
	password      string
	method        string // authentication method of MQTT 5
	will          *publication
	willDelay     uint32 // seconds
	sessionExpiry uint32 // seconds, as asked for in MQTT 5
	clean         bool   // nothing of a former session is wanted
	keep          bool   // the session may outlive the connection
}

// refusal is how a CONNECT is refused: what is counted, and what the leaf is
// told in the words of MQTT 3.1.1 and of MQTT 5. 4 and 5 are final for stock
// SDKs, 3 is not (wire contract, section 1.6).
type refusal struct {
	result      ConnectResult
	code, code5 byte
}

func (r *refusal) Error() string { return "login refused: " + string(r.result) }

var (
	refuseVersion     = &refusal{ConnectVersion, 1, 0x84}
	refuseMethod      = &refusal{ConnectVersion, 5, 0x8c}
	refuseClientID    = &refusal{ConnectClientID, 2, 0x85}
	refuseUsername    = &refusal{ConnectUsername, 4, 0x86}
	refuseCredentials = &refusal{ConnectCredentials, 5, 0x87}
	refuseExpired     = &refusal{ConnectExpired, 5, 0x87}
	refuseWill        = &refusal{ConnectWill, 5, 0x87}
	refuseWillQoS     = &refusal{ConnectWill, 5, 0x9b}
	refuseBusy        = &refusal{ConnectBusy, 3, 0x89}
)

// connack returns the CONNACK (section 3.2) that says it.
func connack(version byte, r *refusal) []byte {
	if version == version5 {
		return []byte{2 << 4, 3, 0, r.code5, 0}
	}
	return []byte{2 << 4, 2, 0, r.code}
}

// claim is the identity that a user name claims.
type claim struct {
	leaf string
	hub  bool // in the form of the IoT Hub dialect, to be proven by a token
}

// claim reads the user name. No leaf id has a slash, every user name of the IoT
// Hub form has one.
func (l *login) claim() (claim, *refusal) {
	if !strings.Contains(l.username, "/") {
		if l.username == "" {
			return claim{}, refuseUsername
		}
		return claim{leaf: l.username}, nil
	}
	u, err := hub.ParseUsername(l.username)
	if err != nil {
		return claim{}, refuseUsername
	}
	if u.Module != "" {
		return claim{}, refuseCredentials // modules are no leaves
	}
	return claim{u.Device, true}, nil
}

// takeLogin keeps what a CONNECT says and returns what mochi is to see of it.
//
// The password and the will are for us only: mochi would send a will past all
// checks. The client id becomes part of the name of the leaf's own session, so
// that by construction no leaf can take over another's. A session is kept after its
// connection only if the client id is the leaf's id: a client with an id made
// up anew each time would fill the memory. Sessions are ours as well (desk.go):
// to mochi every one is new.
func (s *session) takeLogin(pk packets.Packet) packets.Packet {
	c := &pk.Connect
	s.login = login{
		clientID:      c.ClientIdentifier,
		username:      string(c.Username),
		password:      string(c.Password),
		method:        pk.Properties.AuthenticationMethod,
		willDelay:     c.WillProperties.WillDelayInterval,
		sessionExpiry: pk.Properties.SessionExpiryInterval,
		clean:         c.Clean,
	}
	s.out.window = window
	if n := int(pk.Properties.ReceiveMaximum); n > 0 {
		s.out.window = min(window, n)
	}
	s.out.maxPacket = int(pk.Properties.MaximumPacketSize)
	if c.WillFlag {
		properties := c.WillProperties
		s.login.will = &publication{
			topic: c.WillTopic, payload: c.WillPayload, properties: &properties, qos: c.WillQos, retain: c.WillRetain,
		}
	}
	c.Password, c.PasswordFlag = nil, false
	c.WillTopic, c.WillPayload, c.WillProperties = "", nil, packets.Properties{}
	c.WillFlag, c.WillRetain, c.WillQos = false, false, 0

	who, _ := s.login.claim() // logIn refuses what cannot be read
	s.login.keep = s.login.clientID != "" && s.login.clientID == who.leaf
	if s.login.clientID == "" && s.version() < version5 && !c.Clean {
		s.login.clientID = invalidClientID
	}
	switch {
	case s.login.keep:
		s.id = who.leaf
	case s.login.clientID != "":
		s.id = who.leaf + "/" + s.login.clientID
	}
	if s.id != "" {
		// mochi would end the older of two connections in an order of its own, and
		// both when they come at once.
		c.ClientIdentifier = "connection/" + strconv.FormatUint(s.b.numbers.Add(1), 10)
	}
	c.Clean = true
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 0, false
	return pk
}

// invalidClientID stands for an empty client id where MQTT 3.1.1 forbids it.
const invalidClientID = "/"

// logIn decides about a CONNECT. On success the session is the leaf's.
func (s *session) logIn() *refusal {
	if s.login.method != "" {
		return refuseMethod
	}
	if s.b.window != nil && s.login.username == pairing.User {
		return s.enterGuest()
	}
	who, refused := s.login.claim()
	if refused == nil {
		refused = s.checkCredentials(who)
	}
	s.login.password, s.certs = "", nil
	if refused == nil {
		refused = s.checkClientID(who)
	}
	if refused == nil {
		refused = s.checkWill(who.leaf)
	}
	if refused == nil {
		refused = s.paceLogin(who.leaf)
	}
	if refused != nil {
		return refused
	}
	return s.b.admit(s, who.leaf)
}

// checkCredentials proves the claim.
func (s *session) checkCredentials(who claim) *refusal {
	ctx, cancel := context.WithTimeout(s.ctx, s.b.cfg.Load().ConnectTimeout.D())
	defer cancel()
	var err error
	switch {
	case s.login.password == "" && len(s.certs) > 0:
		s.expiry, err = s.b.table.CheckCertificate(who.leaf, s.certs, s.b.clock())
	case who.hub:
		s.expiry, err = s.b.checkToken(ctx, who.leaf, s.login.password)
	default:
		err = s.b.table.CheckPassword(ctx, who.leaf, s.login.password)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pairing.ErrBusy):
		return refuseBusy
	case errors.Is(err, pairing.ErrExpired):
		return refuseExpired
	}
	return refuseCredentials
}

// checkToken proves a leaf with its key, or has the hub judge a leaf whose key is
// not here.
func (b *Broker) checkToken(ctx context.Context, leaf, token string) (expiry time.Time, err error) {
	if b.relay != nil && b.relay.Relays(leaf) {
		return b.relay.CheckToken(ctx, leaf, token, b.clock())
	}
	return b.table.CheckToken(leaf, token, b.clock())
}

// checkClientID binds the client id to the credential: in the IoT Hub form it
// is the device id; else it may be anything but the id of another leaf.
func (s *session) checkClientID(who claim) *refusal {
	id := s.login.clientID
	if id == who.leaf || !who.hub && id != invalidClientID && !s.b.table.Known(id) {
		return nil
	}
	return refuseClientID
}

// checkWill checks the will as if it were published now.
func (s *session) checkWill(leaf string) *refusal {
	p := s.login.will
	if p == nil {
		return nil
	}
	if p.qos > 1 {
		return refuseWillQoS
	}
	m, err := s.b.read(leaf, p)
	if err != nil {
		if s.b.rules.Load().Speaks(leaf) && !ofDialect(p.topic) {
			s.b.chatter(leaf, p.topic) // this leaf lives without a will
			return nil
		}
		return refuseWill
	}
	m.Kind = gateway.Will
	m.System.Expiry = time.Time{} // an interval counts from the sending
	m.Properties = append(m.Properties, gateway.Property{Name: "iothub-MessageType", Value: "Will"})
	s.will = m
	s.willIn = time.Duration(min(s.login.willDelay, s.login.sessionExpiry)) * time.Second
	return nil
}

// keepalive returns the keep-alive that holds, in seconds, and the longest
// silence that it allows: one and a half times as much (section 3.1.2.10).
func keepalive(asked uint16, longest time.Duration) (uint16, time.Duration) {
	seconds := uint16(min(longest/time.Second, math.MaxUint16))
	if asked > 0 {
		seconds = min(seconds, asked)
	}
	return seconds, time.Duration(seconds) * time.Second * 3 / 2
}
