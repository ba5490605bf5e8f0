package bulk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// export writes the registry to a blob, an item a line.
type export struct {
	from        Changer
	to          container
	blob        string
	excludeKeys bool
}

func (e export) run(ctx context.Context, progress func(percent int)) error {
	var text bytes.Buffer
	lines := json.NewEncoder(&text)
	lines.SetEscapeHTML(false)
	all := e.from.Registry.All()
	for n, identity := range all {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		item, err := e.item(identity)
		if err != nil {
			return err
		}
		if err := lines.Encode(item); err != nil {
			return fmt.Errorf("cannot write %s: %w", identity.ID, err)
		}
		progress(n * 99 / len(all)) // the last per cent is the upload
	}
	return e.to.put(ctx, e.blob, text.Bytes())
}

// item writes down an identity with its twin.
func (e export) item(i registry.Identity) (Item, error) {
	item := Item{
		Device:       i.ID.Device,
		Module:       i.ID.Module,
		ETag:         i.ETag,
		Status:       registry.Status(i.Disabled),
		StatusReason: i.StatusReason,
		Auth:         i.Auth,
		Capabilities: Capabilities{i.Edge},
		Scope:        i.Scope,
		ParentScopes: i.ParentScopes,
	}
	if e.excludeKeys {
		item.Auth.PrimaryKey, item.Auth.SecondaryKey = "", ""
	}
	text, err := e.from.Twins.Get(i.ID)
	if err != nil {
		// Deleted since the list was made: as it was, without its twin.
		return item, nil
	}
	if err := item.addTwin(text); err != nil {
		return Item{}, fmt.Errorf("cannot write twin of %s: %w", i.ID, err)
	}
	return item, nil
}

// addTwin takes over what an import could write, from the service's view.
func (i *Item) addTwin(view json.RawMessage) error {
	var twin struct {
		ETag       string          `json:"etag"`
		Tags       json.RawMessage `json:"tags"`
		Properties Properties      `json:"properties"`
	}
	if err := json.Unmarshal(view, &twin); err != nil {
		return err
	}
	i.TwinETag, i.Tags = twin.ETag, twin.Tags
	for _, section := range []struct{ from, to *json.RawMessage }{
		{&twin.Properties.Desired, &i.Properties.Desired},
		{&twin.Properties.Reported, &i.Properties.Reported},
	} {
		values, err := written(*section.from)
		if err != nil {
			return err
		}
		if *section.to, err = json.Marshal(values); err != nil {
			return err
		}
	}
	return nil
}
