package deliver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/signing"
)

// Limits of what is read of an answer: enough for a person to see what went wrong. The connection is kept for
// the next webhook only where the whole answer fits the first.
const (
	maxAnswerRead   = 16 << 10
	maxAnswerKept   = 1 << 10
	maxAnswerHeader = 64 << 10 // with the 1xx answers before it
	// answerPatience bounds the reading of an answer whose status is known. The status is what counts, and what is
	// known only later is sent twice if the process dies in between.
	answerPatience = 200 * time.Millisecond
)

// Limits of a connection, beside the endpoint's time-out, which bounds everything. A connection goes on being made when
// its request has given up, for the next one; these bound that, too.
const (
	// connectTimeout is for the lookup of the name and TCP: long enough for two lost packets, as Linux repeats a SYN after 1
	// and 3 seconds, and for a lookup to lose none, as resolvers repeat theirs after 5.
	connectTimeout = 5 * time.Second
	// tlsTimeout is for one or two round trips and a signature, which take a busy server a second.
	tlsTimeout  = 5 * time.Second
	idleTimeout = 90 * time.Second // longer than the pauses of a merchant who gets webhooks at all
	// An HTTP/2 connection from which nothing has come for so long is asked for a sign of life. One that died without a
	// word would otherwise take every webhook of its host, until TCP gives it up after a quarter of an hour.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
	// What HTTP/2 may have on the way to us: not the 4 MiB a request and 1 GiB a connection that net/http would take.
	windowPerRequest    = 64 << 10
	windowPerConnection = 1 << 20
)

// Network is the way out: *egress.Guard, which lets webhooks go only where they may. Both methods return an
// *egress.Blocked, which may be wrapped, for a place where none may go.
type Network interface {
	CheckURL(ctx context.Context, raw string) error
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// Response says how an attempt ended.
type Response struct {
	Cause       delivery.Cause
	StatusCode  int // 0 without an answer
	Latency     time.Duration
	ContentType string // the answer's media type
	// RetryAfter is what an answer that is not 2xx asks for: whole seconds, at most MaxRetryAfter, 0 where it asks for nothing.
	RetryAfter time.Duration
	// Answer is the first bytes of the answer's body, as they came; or, where nothing could be sent, a word on why.
	Answer []byte
	// Sent is false when surely not a byte of the request left.
	Sent bool
}

// Client posts webhooks over pooled connections, by HTTP/1.1 or HTTP/2. It follows no redirect, keeps no cookie, and takes
// no proxy from the environment: a webhook goes where its endpoint says, and nowhere else. It is safe for concurrent use.
type Client struct {
	network   Network
	transport *http.Transport // not an http.Client: that one reads Location, and follows it
}

// NewClient makes a Client that keeps at most idlePerHost connections open per host between webhooks.
func NewClient(idlePerHost int, network Network) *Client {
	dial := func(ctx context.Context, kind, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return network.DialContext(ctx, kind, addr)
	}
	return &Client{network: network, transport: &http.Transport{
		DialContext:            dial,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    tlsTimeout,
		MaxIdleConns:           0, // bounded per host
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // a bomb stays packed
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
			MaxReceiveBufferPerStream: windowPerRequest, MaxReceiveBufferPerConnection: windowPerConnection,
		},
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Post makes one attempt within the endpoint's time-out. It never returns an error: whatever happens is a
// Response. ctx is for the end of the process, not for the end of a batch.
func (c *Client) Post(ctx context.Context, endpoint delivery.Endpoint, message Message, number int, guard Guard) Response {
	_, response := c.post(ctx, endpoint, message, number, guard)
	return response
}

// Try is Post of a first attempt for a person who wants to see it: it also returns the headers of the request, but for Host
// and Content-Length. They hold what the endpoint's own hold, credentials included; they are nil where none were made.
func (c *Client) Try(ctx context.Context, endpoint delivery.Endpoint, message Message) (http.Header, Response) {
	return c.post(ctx, endpoint, message, 1, func() error { return nil })
}

func (c *Client) post(ctx context.Context, endpoint delivery.Endpoint, message Message, number int, guard Guard) (http.Header, Response) {
	start := time.Now()
	signature := sign(endpoint.Secrets, message, start)
	if signature == "" {
		return nil, Response{Cause: delivery.CauseNoSecret}
	}
	ctx, cancel := context.WithTimeout(ctx, endpoint.Timeout)
	defer cancel()
	gate := turnstile{guard: guard}
	watched := gate.watch(ctx)
	defer gate.cancel()
	// A bytes.Reader, so that headers and body leave in one write, and that net/http can repeat a POST on a fresh
	// connection; it does so only where the pooled one was closed before anything was written.
	request, err := http.NewRequestWithContext(watched, http.MethodPost, endpoint.URL, bytes.NewReader(message.Body))
	if err != nil {
		return nil, Response{Cause: delivery.CauseInternal, Answer: []byte("the endpoint's URL cannot be used")}
	}
	user := request.URL.User
	request.URL.User = nil // it leaves as a header, if at all
	request.Header, err = header(endpoint, user, message, number, signature, start)
	if err != nil {
		return nil, Response{Cause: delivery.CauseInternal, Answer: []byte(err.Error())}
	}
	response, err := c.roundTrip(request)
	if err != nil {
		out := Response{Latency: time.Since(start), Sent: gate.passed}
		if blocked, ok := errors.AsType[*egress.Blocked](err); ok {
			out.Cause, out.Answer = delivery.CauseBlocked, []byte(blocked.Detail)
		} else if gate.denied {
			out.Cause, out.Sent = delivery.CauseNotStarted, false
		} else {
			out.Cause = gate.progress.cause(ctx, err)
		}
		return request.Header, out
	}
	defer response.Body.Close()
	patience := time.AfterFunc(answerPatience, gate.cancel)
	defer patience.Stop()
	out := read(response, func(answer []byte) []byte { return redact(answer, endpoint, request.URL, user, request.Header) })
	out.Latency = time.Since(start)
	return request.Header, out
}

// roundTrip sends the request where it may go. Which addresses and ports these are is decided with every connection; that
// http is not for everybody, only here. CheckURL would ask the name server about an https URL, too, for nothing.
func (c *Client) roundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" {
		if err := c.network.CheckURL(request.Context(), request.URL.String()); err != nil {
			return nil, err
		}
	}
	return c.transport.RoundTrip(request)
}

// read reads the answer. The status line is what counts: what breaks while the rest is read takes nothing back.
func read(response *http.Response, redact func(answer []byte) []byte) Response {
	out := Response{StatusCode: response.StatusCode, ContentType: mediaType(response.Header), Sent: true}
	out.Cause = statusCause(out.StatusCode, out.ContentType)
	if out.Cause != delivery.CauseOK {
		out.RetryAfter = retryAfter(response.Header, time.Now())
	}
	if response.StatusCode != http.StatusSwitchingProtocols { // after that one the connection knows no time-out
		answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswerRead))
		answer = redact(answer)                                            // before it is cut, which would leave a part of a secret
		out.Answer = bytes.Clone(answer[:min(len(answer), maxAnswerKept)]) // and lets go of the rest
	}
	return out
}

// sign returns the webhook-signature header: one signature per live secret, so that a merchant verifies with
// either while one rotates. It is empty where no secret can be used.
func sign(secrets []delivery.Secret, message Message, at time.Time) string {
	live := make([]signing.Secret, 0, len(secrets))
	for _, each := range secrets {
		if !each.ExpiresAt.IsZero() && !each.ExpiresAt.After(at) {
			continue
		}
		if secret, err := signing.ParseSecret(each.Value); err == nil {
			live = append(live, secret)
		}
	}
	return signing.Header(live, message.EventID.String(), at, message.Body)
}
