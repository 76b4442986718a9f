package deliver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/signing"
)

// Limits of what is read of an answer: enough for a person to see what went wrong. The connection is kept for
// the next webhook only where the whole answer fits the first.
const (
	maxAnswerRead = 16 << 10
	maxAnswerKept = 1 << 10
	// answerPatience bounds the reading of an answer whose status is known. The status is what counts, and what is
	// known only later is sent twice if the process dies in between.
	answerPatience = 200 * time.Millisecond
)

// Response says how an attempt ended.
type Response struct {
	Cause      delivery.Cause
	StatusCode int // 0 without an answer
	Latency    time.Duration
	Answer     []byte // the first bytes of it
	// Sent is false when surely not a byte of the request left.
	Sent bool
}

// Client posts webhooks over pooled connections. It follows no redirect, keeps no cookie, and takes no proxy
// from the environment: a webhook goes where its endpoint says, and nowhere else. It is safe for concurrent use.
type Client struct {
	transport *http.Transport // not an http.Client: that one reads Location, and follows it
}

// NewClient makes a Client that keeps at most idlePerHost connections open per host between webhooks.
func NewClient(idlePerHost int) *Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &Client{transport: &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           0, // bounded per host
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a bomb stays packed
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

var userAgent = "Hookline/" + metrics.Version()

// Post makes one attempt within the endpoint's time-out. It never returns an error: whatever happens is a
// Response. ctx is for the end of the process, not for the end of a batch.
func (c *Client) Post(ctx context.Context, endpoint delivery.Endpoint, message Message, number int, guard Guard) Response {
	start := time.Now()
	signature := sign(endpoint.Secrets, message, start)
	if signature == "" {
		return Response{Cause: delivery.CauseNoSecret}
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
		return Response{Cause: delivery.CauseInternal, Answer: []byte("the endpoint's URL cannot be used")}
	}
	request.Header = http.Header{
		"Content-Type":      {"application/json"},
		"User-Agent":        {userAgent},
		"Webhook-Id":        {message.EventID.String()},
		"Webhook-Timestamp": {strconv.FormatInt(start.Unix(), 10)},
		"Webhook-Signature": {signature},
		"Webhook-Attempt":   {strconv.Itoa(number)},
	}
	response, err := c.transport.RoundTrip(request)
	switch {
	case gate.denied:
		return Response{Cause: delivery.CauseNotStarted, Latency: time.Since(start)}
	case err != nil:
		return Response{Cause: causeOf(ctx, err), Latency: time.Since(start), Sent: gate.passed}
	}
	defer response.Body.Close()
	out := Response{Cause: delivery.CauseStatus, StatusCode: response.StatusCode, Sent: true}
	if response.StatusCode >= 200 && response.StatusCode <= 299 {
		// The status line is the answer: what breaks while the rest is read takes nothing back.
		out.Cause = delivery.CauseOK
	}
	if response.StatusCode != http.StatusSwitchingProtocols { // after that one the connection knows no time-out
		patience := time.AfterFunc(answerPatience, gate.cancel)
		defer patience.Stop()
		answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswerRead))
		out.Answer = bytes.Clone(answer[:min(len(answer), maxAnswerKept)]) // and lets go of the rest
	}
	out.Latency = time.Since(start)
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

func causeOf(ctx context.Context, err error) delivery.Cause {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return delivery.CauseTimeout
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return delivery.CauseTimeout
	}
	return delivery.CauseConnection
}
