package deliver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// guardedBody asks its guard before the first byte is read out of it. net/http writes the headers into a
// buffer and then reads the body, so the guard is asked when the connection stands, however long the dial
// and the TLS handshake took, and before anything is on the wire. A request without its body is no webhook
// even if its headers should have left.
type guardedBody struct {
	reader *bytes.Reader
	guard  Guard
	asked  bool
	begun  *atomic.Bool // shared by the bodies of one request: net/http makes a new one to try a fresh connection
}

// started reports whether a byte of the body was handed out.
func (b *guardedBody) started() bool { return b.begun.Load() }

// Read implements io.Reader.
func (b *guardedBody) Read(p []byte) (int, error) {
	if !b.asked {
		if err := b.guard(); err != nil {
			return 0, fmt.Errorf("%w: %w", errGuard, err)
		}
		b.asked = true
		b.begun.Store(true)
	}
	return b.reader.Read(p)
}

// Close implements io.Closer.
func (*guardedBody) Close() error { return nil }

func newRequest(ctx context.Context, url string, body []byte, guard Guard) (*http.Request, *guardedBody, error) {
	begun := &atomic.Bool{}
	fresh := func() *guardedBody { return &guardedBody{reader: bytes.NewReader(body), guard: guard, begun: begun} }
	first := fresh()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, first)
	if err != nil {
		return nil, nil, err
	}
	request.ContentLength = int64(len(body))
	// net/http repeats a POST only on a pooled connection that was closed before anything was written.
	request.GetBody = func() (io.ReadCloser, error) { return fresh(), nil }
	return request, first, nil
}
