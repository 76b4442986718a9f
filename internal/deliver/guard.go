package deliver

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
)

// Guard is asked right before a request is written. An error keeps the request back.
type Guard func() error

// turnstile asks the guard when the request has its connection, however long the dial and the TLS handshake took,
// and before anything is on the wire. A body that asks when it is read would be too late: net/http sends the
// headers of a body of unknown type, and of any HTTP/2 request, before it reads from it.
type turnstile struct {
	guard    Guard
	cancel   context.CancelFunc
	progress progress
	passed   bool
	denied   bool
}

// watch returns the context of a request that has to pass. Its hook runs in RoundTrip's own goroutine, once for
// each connection that net/http tries: it takes another one only where nothing went over the first.
func (t *turnstile) watch(ctx context.Context) context.Context {
	ctx, t.cancel = context.WithCancel(ctx)
	trace := t.progress.trace()
	trace.GotConn = func(info httptrace.GotConnInfo) {
		// A guard that takes until the time is up has denied: what nobody waits for is not worth a duplicate.
		t.denied = t.denied || t.guard() != nil || ctx.Err() != nil
		if !t.denied {
			t.passed = true
			t.progress.enter(requesting)
			return
		}
		t.cancel() // HTTP/2 looks at it before it writes the headers, and ends the loop over connections
		if !multiplexed(info.Conn) {
			info.Conn.Close()
		}
	}
	return httptrace.WithClientTrace(ctx, trace)
}

// multiplexed reports whether other requests share the connection.
func multiplexed(conn net.Conn) bool {
	secured, ok := conn.(*tls.Conn)
	return ok && secured.ConnectionState().NegotiatedProtocol == "h2"
}
