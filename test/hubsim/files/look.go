package files

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"
)

// lookLife is how long the SAS of our own requests lives. They come at once; the
// rest allows for clocks that disagree.
const lookLife = 15 * time.Minute

// ask asks the blob server about a blob.
func (u *Uploads) ask(ctx context.Context, _, blob string) (Properties, error) {
	address := u.address(blob)
	address.RawQuery = u.sign(blob, "r", time.Now().Add(lookLife))
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, address.String(), nil)
	if err != nil {
		return Properties{}, err
	}
	request.Header.Set("X-Ms-Version", sasVersion)
	answer, err := cmp.Or(u.cfg.Client, http.DefaultClient).Do(request)
	if err != nil {
		return Properties{}, err
	}
	if err := answer.Body.Close(); err != nil {
		return Properties{}, err
	}
	if answer.StatusCode != http.StatusOK {
		return Properties{}, fmt.Errorf("the blob server answers %s (%s)", answer.Status, answer.Header.Get("X-Ms-Error-Code"))
	}
	modified, err := http.ParseTime(answer.Header.Get("Last-Modified"))
	if err != nil {
		return Properties{}, fmt.Errorf("cannot read answer of the blob server: %w", err)
	}
	return Properties{Size: answer.ContentLength, LastModified: modified}, nil
}
