package svix

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// Limits of a connection, beside the deadline of the hand-over, which bounds everything.
const (
	connectTimeout = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	// Below the 60 s after which the usual load balancers close an idle connection, so that it is the client that lets go
	// first: a request on a connection that is just being closed ends without an answer.
	idleTimeout = 50 * time.Second
	// maxAnswer keeps a broken peer from filling the memory: the SDK reads all there is. A page of 250 endpoints has some
	// 200 kB.
	maxAnswer       = 4 << 20
	maxAnswerHeader = 64 << 10
)

// phase is how far a request has come.
type phase int32

const (
	queueing phase = iota // for a connection, while all of the pool are in use
	connecting
	handshaking
	requesting
)

type callKey struct{}

// call is one request as the transport sees it. The SDK tells neither headers nor how far a request came, and the guard has
// to be asked where it cannot.
type call struct {
	guard      func() error // nil where the request can have no effect for the merchant
	now        atomic.Int32 // the phase: its hooks run in several goroutines
	sent       bool         // the first byte may have left
	denied     bool
	status     int       // 0 without an answer
	date       time.Time // by the server's clock, or ours where it does not tell
	retryAfter time.Duration
}

// watch returns the context of the request. The guard is asked when the request has its connection, however long the dial
// and the TLS handshake took, and before anything is on the wire: in RoundTrip's own goroutine, once for each connection
// that net/http tries, and it takes another one only where nothing went over the first.
func (s *call) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	return httptrace.WithClientTrace(context.WithValue(ctx, callKey{}, s), &httptrace.ClientTrace{
		TLSHandshakeStart: func() { s.now.CompareAndSwap(int32(connecting), int32(handshaking)) },
		GotConn: func(info httptrace.GotConnInfo) {
			if s.guard != nil && !s.denied {
				// A guard that takes until the time is up has denied: what nobody waits for is not worth a duplicate.
				s.denied = s.guard() != nil || ctx.Err() != nil
			}
			if !s.denied && ctx.Err() == nil {
				s.sent = true
				s.now.Store(int32(requesting))
				return
			}
			cancel() // ends net/http's loop over connections
			info.Conn.Close()
		},
	}), cancel
}

// reached is the phase that a time-out came in.
func (s *call) reached() string {
	switch phase(s.now.Load()) {
	case queueing:
		return "no free connection"
	case connecting:
		return "no connection"
	case handshaking:
		return "the TLS handshake did not end"
	default:
		return "no answer"
	}
}

// transport is HTTP/1.1 with a pool, and looks at what the SDK hides. The requests' contexts come from call.watch.
type transport struct {
	pool *http.Transport
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func newTransport(maxConns int) *transport {
	t := &transport{dial: (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext}
	t.pool = &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if seen, ok := ctx.Value(callKey{}).(*call); ok {
				seen.now.CompareAndSwap(int32(queueing), int32(connecting))
			}
			return t.dial(ctx, network, address)
		},
		TLSHandshakeTimeout:    tlsTimeout,
		MaxConnsPerHost:        maxConns,
		MaxIdleConnsPerHost:    maxConns,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // a bomb stays packed
		Protocols:              http1(),
	}
	return t
}

// http1 leaves HTTP/2 off, as the SDK's own client does: a connection is one request's, and can be closed on it.
func http1() *http.Protocols {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &protocols
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if key := request.Header.Get("Idempotency-Key"); key != "" {
		// By this name net/http takes a POST for one that it may repeat after it was sent. It does not know another spelling.
		request = request.Clone(request.Context())
		request.Header.Del("Idempotency-Key")
		request.Header["idempotency-key"] = []string{key}
	}
	response, err := t.pool.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if seen, ok := request.Context().Value(callKey{}).(*call); ok {
		seen.status, seen.date = response.StatusCode, time.Now()
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			seen.date = date
		}
		if response.StatusCode >= 400 {
			seen.retryAfter = readRetryAfter(response.Header, seen.date)
		}
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxAnswer), response.Body}
	return response, nil
}
