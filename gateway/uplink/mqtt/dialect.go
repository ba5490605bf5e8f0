package mqtt

import (
	"errors"
	"fmt"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// dialect is how messages and logins are worded: for an IoT hub, or for a broker.
type dialect interface {
	// login words the user name and password of a new connection, and says how long
	// they are good; 0 is for ever. The uplink has waited for trusted time.
	login(p *packets.ConnectPacket, now gateway.Instant) (life time.Duration, err error)

	// word words a message. problem says why it can never be sent, "" where it can.
	word(m *gateway.Message, now gateway.Instant) (topic string, body []byte, problem string)

	// probe is where an empty message can be sent to find out whether any is taken.
	probe() string

	// listens says whether the far side can send anything to leaves.
	listens() bool
}

// hubDialect is that of the IoT hub.
type hubDialect struct {
	host, device string
	tokenTTL     time.Duration
	tokens       Tokens
}

// errNoTime: a token that is dated by a clock that is not set is refused, and then
// the gateway would wait on the long schedule.
var errNoTime = errors.New("no token without trusted time")

func (d *hubDialect) login(p *packets.ConnectPacket, at gateway.Instant) (time.Duration, error) {
	if at.Quality == gateway.Unsynced {
		return 0, errNoTime
	}
	expiry := at.Wall.Add(d.tokenTTL).Truncate(time.Second)
	token, err := d.tokens.DeviceToken(d.device, expiry)
	if errors.Is(err, identity.ErrNoKey) {
		return 0, &uplink.Fault{Remedy: uplink.Refused, Err: err}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot sign token: %w", err)
	}
	// The session is kept at the hub: commands that are sent while the gateway is away
	// are then surely for it (wire contract, section 2.7).
	p.UsernameFlag, p.Username = true, hub.FormatUsername(d.host, d.device, "fieldgate/"+version())
	p.PasswordFlag, p.Password = true, []byte(token)
	return expiry.Sub(at.Wall), nil
}

func (d *hubDialect) word(m *gateway.Message, now gateway.Instant) (topic string, body []byte, problem string) {
	topic, problem = hub.ToMQTT(d.device, m, now)
	return topic, m.Body, problem
}

func (d *hubDialect) probe() string {
	return "devices/" + d.device + "/messages/events/fieldgate-probe=1"
}

func (d *hubDialect) listens() bool { return true }
