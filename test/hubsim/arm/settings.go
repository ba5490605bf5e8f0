package arm

import (
	"regexp"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
)

// defaults are the settings of a hub whose operator says nothing (sections 5.8
// and 5.11).
func defaults() properties {
	var p properties
	usual := queue{Lock: Duration(time.Minute), TTL: Duration(time.Hour), MaxDelivery: 10}
	p.EventHubEndpoints.Events = eventHub{Retention: 1, Partitions: 4}
	p.CloudToDevice = cloudToDevice{MaxDelivery: 10, TTL: Duration(time.Hour), Feedback: usual}
	p.MessagingEndpoints.FileNotifications = usual
	p.Features = "None"
	return p
}

// tier is a size in which hubs are sold ([D: Quotas]).
type tier struct {
	name     string
	class    string // Free, Basic or Standard
	units    int    // at most
	messages int    // a day and unit
	devices  int
}

// million is how many devices a hub may have (section 6.2).
const million = 1_000_000

var tiers = []tier{
	{"F1", "Free", 1, 8_000, 500},
	{"B1", "Basic", 200, 400_000, million},
	{"B2", "Basic", 200, 6_000_000, million},
	{"B3", "Basic", 10, 300_000_000, million},
	{"S1", "Standard", 200, 400_000, million},
	{"S2", "Standard", 200, 6_000_000, million},
	{"S3", "Standard", 10, 300_000_000, million},
}

// tierOf returns the tier of a name; false when there is none.
func tierOf(name string) (tier, bool) {
	i := slices.IndexFunc(tiers, func(t tier) bool { return t.name == name })
	if i < 0 {
		return tier{}, false
	}
	return tiers[i], true
}

// hubName is how the names of hubs must look: 3 to 50 letters, digits and
// hyphens, no hyphen at either end.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{1,48}[A-Za-z0-9]$`)

// regionName is how the names of regions must look.
var regionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 -]*$`)

// check says what is wrong with a hub that somebody wants to put.
func (d *description) check() error {
	t, ok := tierOf(d.SKU.Name)
	switch {
	case d.Location == "":
		return failed(400, "LocationRequired", "the location property is required")
	case !regionName.MatchString(d.Location):
		return failed(400, "InvalidRequestContent", "%q is not a location", d.Location)
	case !ok:
		return failed(400, "InvalidRequestContent", "sku.name %q is not a tier", d.SKU.Name)
	case d.SKU.Capacity < 1 || d.SKU.Capacity > t.units:
		return failed(400, "InvalidRequestContent", "sku.capacity of %s must be 1 to %d", t.name, t.units)
	}
	p := &d.Properties
	e := p.EventHubEndpoints.Events
	for _, limit := range []struct {
		what         string
		is, from, to int
	}{
		{"eventHubEndpoints.events.partitionCount", e.Partitions, 1, 128},
		{"eventHubEndpoints.events.retentionTimeInDays", e.Retention, 1, 7},
		{"cloudToDevice.maxDeliveryCount", p.CloudToDevice.MaxDelivery, 1, 100},
		{"cloudToDevice.feedback.maxDeliveryCount", p.CloudToDevice.Feedback.MaxDelivery, 1, 100},
		{"messagingEndpoints.fileNotifications.maxDeliveryCount", p.MessagingEndpoints.FileNotifications.MaxDelivery, 1, 100},
	} {
		if limit.is < limit.from || limit.is > limit.to {
			return failed(400, "InvalidRequestContent", "%s must be %d to %d", limit.what, limit.from, limit.to)
		}
	}
	return p.checkSpans()
}

// checkSpans checks the durations (section 5.8).
func (p *properties) checkSpans() error {
	const day = 24 * time.Hour
	for _, limit := range []struct {
		what     string
		is       Duration
		from, to time.Duration
	}{
		{"cloudToDevice.defaultTtlAsIso8601", p.CloudToDevice.TTL, time.Minute, 2 * day},
		{"cloudToDevice.feedback.ttlAsIso8601", p.CloudToDevice.Feedback.TTL, time.Minute, 2 * day},
		{"cloudToDevice.feedback.lockDurationAsIso8601", p.CloudToDevice.Feedback.Lock, 5 * time.Second, 5 * time.Minute},
		{"messagingEndpoints.fileNotifications.ttlAsIso8601", p.MessagingEndpoints.FileNotifications.TTL, time.Minute, 2 * day},
		{"messagingEndpoints.fileNotifications.lockDurationAsIso8601", p.MessagingEndpoints.FileNotifications.Lock, 5 * time.Second, 5 * time.Minute},
	} {
		if is := time.Duration(limit.is); is < limit.from || is > limit.to {
			return failed(400, "InvalidRequestContent", "%s must be %s to %s", limit.what, Duration(limit.from), Duration(limit.to))
		}
	}
	return nil
}

// apply makes the settings those of a hub.
func (p *properties) apply(h *hub.Hub) {
	h.Commands.Configure(commands.Config{
		TTL: time.Duration(p.CloudToDevice.TTL), MaxDelivery: p.CloudToDevice.MaxDelivery,
	})
	h.Feedback.Configure(p.CloudToDevice.Feedback.config())
	h.FileNotices.Configure(p.MessagingEndpoints.FileNotifications.config())
}

func (q queue) config() commands.Config {
	return commands.Config{
		TTL: time.Duration(q.TTL), Lock: time.Duration(q.Lock), MaxDelivery: q.MaxDelivery,
	}
}
