package twins

import (
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// view is the twin as services see it (section 5.4).
func view(i registry.Identity, status Status, s state) map[string]any {
	v := map[string]any{
		"deviceId":                  i.ID.Device,
		"etag":                      s.etag(),
		"deviceEtag":                i.ETag,
		"status":                    "enabled",
		"statusUpdateTime":          Time(i.StatusUpdated),
		"connectionState":           "Disconnected",
		"lastActivityTime":          Time(time.Time{}),
		"cloudToDeviceMessageCount": status.Queued,
		"authenticationType":        string(i.Auth.Type),
		"x509Thumbprint": map[string]any{
			"primaryThumbprint":   textOrNull(i.Auth.PrimaryThumbprint),
			"secondaryThumbprint": textOrNull(i.Auth.SecondaryThumbprint),
		},
		"capabilities": map[string]any{"iotEdge": i.Edge},
		"version":      s.version,
		"tags":         s.tags.root.object(),
		"properties": map[string]any{
			"desired":  s.desired.withMetadata(true),
			"reported": s.reported.withMetadata(false),
		},
	}
	if i.ID.Module != "" {
		v["moduleId"] = i.ID.Module
	}
	if i.Disabled {
		v["status"] = "disabled"
	}
	if status.Connected {
		v["connectionState"] = "Connected"
	}
	if status.LastActivity != "" {
		v["lastActivityTime"] = status.LastActivity
	}
	if i.StatusReason != "" {
		v["statusReason"] = i.StatusReason
	}
	if i.Scope != "" {
		v["deviceScope"] = i.Scope
	}
	if len(i.ParentScopes) > 0 {
		scopes := make([]any, len(i.ParentScopes))
		for n, scope := range i.ParentScopes {
			scopes[n] = scope
		}
		v["parentScopes"] = scopes
	}
	return v
}

// Time writes a time as the service does: ISO 8601 in units of 100 ns. One that
// was never set is the year 1.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.9999999Z") }

func textOrNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}
