package restate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	sdk "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/encoding"
	"github.com/restatedev/sdk-go/ingress"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

const (
	// callTimeout is how long a call waits for its invocation before it is sent again with the same key.
	callTimeout = 30 * time.Second
	// forwardPatience is how long a callback that Restate has taken is watched: a handler that refuses it does so at once.
	forwardPatience = time.Second
	// historyTimeout is how long somebody who looks at a payment waits for its callbacks.
	historyTimeout = 5 * time.Second
)

// Client reaches the handlers through Restate's ingress. It is safe for concurrent use.
type Client struct {
	base    *ingress.Client
	process ingress.Requester[[]byte, sdk.Void]
	attempt ingress.Requester[delivery.AttemptList, sdk.Void]
	http    *http.Client
}

// NewClient makes a Client for the ingress at url that makes at most calls calls at once.
func NewClient(url string, calls int) *Client {
	client := &http.Client{
		Timeout:   callTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: calls, IdleConnTimeout: 90 * time.Second},
	}
	base := ingress.NewClient(url, ingress.WithHttpClient(client))
	return &Client{
		base:    base,
		process: ingress.Service[[]byte, sdk.Void](base, DispatcherService, ProcessHandler),
		attempt: ingress.Service[delivery.AttemptList, sdk.Void](base, DispatcherService, AttemptHandler),
		http:    client,
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Dispatch calls the dispatcher with a batch and returns when the invocation has ended. A fault.Unavailable error
// means that it is not known whether the invocation began: call again with the same key, and Restate runs it once.
// A fault.Conflict error comes from the invocation itself, which an operator killed or which failed: call again
// with a new key, as this one's answer will stay the same.
func (c *Client) Dispatch(ctx context.Context, key string, batch []event.Ref) error {
	input, err := json.Marshal(Batch{Events: batch})
	if err != nil {
		return fmt.Errorf("encoding a batch: %w", err)
	}
	_, err = c.process.Request(ctx, input, sdk.WithIdempotencyKey(key), sdk.WithInputCodec(encoding.BinaryCodec))
	if err == nil {
		return nil
	}
	if refusal, ok := errors.AsType[ingress.Error](err); ok && refusal.IsInvocationError() {
		return fault.Wrap(err, fault.Conflict, "the invocation failed")
	}
	return fault.Wrap(err, fault.Unavailable, "calling the dispatcher")
}

// SendAttempt hands over a list of attempts and returns when Restate has it durably. Sent twice, the second list finds
// its tickets void.
func (c *Client) SendAttempt(ctx context.Context, list delivery.AttemptList) error {
	if _, err := c.attempt.Send(ctx, list); err != nil {
		return fault.Wrap(err, fault.Unavailable, "sending attempts")
	}
	return nil
}

// SendAttemptIn is SendAttempt of a list that is due after the delay.
func (c *Client) SendAttemptIn(ctx context.Context, list delivery.AttemptList, delay time.Duration) error {
	if _, err := c.attempt.Send(ctx, list, sdk.WithDelay(delay)); err != nil {
		return fault.Wrap(err, fault.Unavailable, "sending attempts")
	}
	return nil
}

// Wake has a sequence looked at, and returns when Restate has that durably. A wake too many does nothing.
func (c *Client) Wake(ctx context.Context, s delivery.Sequence) error {
	// The SDK puts the key into the path as it is.
	if _, err := ingress.ObjectSend[sdk.Void](c.base, SequencerService, url.PathEscape(s.Key()), WakeHandler).Send(ctx, sdk.Void{}); err != nil {
		return fault.Wrap(err, fault.Unavailable, "waking a sequence")
	}
	return nil
}

// WakeDrainer has the drainer of an endpoint look, and returns when Restate has that durably.
func (c *Client) WakeDrainer(ctx context.Context, endpointID uuid.UUID) error {
	if _, err := ingress.ObjectSend[DrainWake](c.base, DrainerService, endpointID.String(), WakeHandler).Send(ctx, DrainWake{}); err != nil {
		return fault.Wrap(err, fault.Unavailable, "waking a drainer")
	}
	return nil
}

// ForwardCallback hands a callback over, as it came, to the handler of its provider. It returns nil when Restate has it
// durably, and the handler did not refuse it within a second; the event's id is the idempotency key, so that an event that
// comes again runs once. A refusal is not final: Restate keeps it under the key for a week, so the callback is sent once more
// under a key of this delivery's signature, which a provider makes anew for each. Any error is a fault.Unavailable: the
// provider should send the callback again.
func (c *Client) ForwardCallback(ctx context.Context, e callback.Event, header http.Header, body []byte) error {
	handler := EventHandler
	if e.Provider == callback.Stripe {
		handler = StripeEventHandler
	}
	headers := map[string]string{headerProvider: e.Provider}
	signature := sha256.New()
	for _, name := range callback.SignatureHeaders() {
		if value := header.Get(name); value != "" {
			headers[name] = value
			fmt.Fprintf(signature, "%s\n", value)
		}
	}
	key := callbackKey(e)
	refusal := c.forward(ctx, handler, key, headers, body)
	if fault.ClassOf(refusal) == fault.Conflict {
		refusal = c.forward(ctx, handler, key+":"+hex.EncodeToString(signature.Sum(nil)[:8]), headers, body)
	}
	if refusal != nil {
		return fault.Wrap(refusal, fault.Unavailable, "forwarding a callback")
	}
	return nil
}

// forward returns a fault.Conflict where the invocation of the key has failed.
func (c *Client) forward(ctx context.Context, handler, key string, headers map[string]string, body []byte) error {
	sent, err := ingress.Service[[]byte, sdk.Void](c.base, RouterService, handler).
		Send(ctx, body, sdk.WithIdempotencyKey(key), sdk.WithHeaders(headers), sdk.WithCodec(encoding.BinaryCodec))
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "calling Restate")
	}
	watching, cancel := context.WithTimeout(ctx, forwardPatience)
	defer cancel()
	_, err = ingress.InvocationById[sdk.Void](c.base, sent.Id()).Attach(watching)
	if err == nil || ctx.Err() == nil && watching.Err() != nil {
		return nil
	}
	if failure, ok := errors.AsType[ingress.Error](err); ok && failure.IsInvocationError() {
		return fault.Wrap(err, fault.Conflict, "the handler refused the callback")
	}
	return fault.Wrap(err, fault.Unavailable, "waiting for the handler")
}

// callbackKey is the event's key as a header may hold it.
func callbackKey(e callback.Event) string {
	if strings.ContainsFunc(e.ID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		hash := sha256.Sum256([]byte(e.ID))
		return e.Provider + ":sha256:" + hex.EncodeToString(hash[:])
	}
	return e.Key()
}

// PaymentHistory returns the callbacks that came for a payment, in the order in which they came: none for one that no
// callback ever named. Any error is a fault.Unavailable.
func (c *Client) PaymentHistory(ctx context.Context, paymentID uuid.UUID) ([]callback.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	entries, err := ingress.Object[sdk.Void, []callback.Entry](c.base, TrackerService, paymentID.String(), HistoryHandler).Request(ctx, sdk.Void{})
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "asking Restate for a payment's callbacks")
	}
	return entries, nil
}

// RedriveCallback has a callback that is a dead record decided about again, and returns what became of it: empty where
// payments-api is away, and the callback comes again by itself. A fault.Conflict says that it is as dead as it was.
func (c *Client) RedriveCallback(ctx context.Context, record int64) (callback.Outcome, error) {
	outcome, err := ingress.Service[RedriveInput, callback.Outcome](c.base, RouterService, RedriveHandler).Request(ctx, RedriveInput{ID: record})
	if err == nil {
		return outcome, nil
	}
	if failure, ok := errors.AsType[ingress.Error](err); ok && failure.IsInvocationError() {
		return "", fault.New(fault.Conflict, "%s", failure.Message())
	}
	return "", fault.Wrap(err, fault.Unavailable, "calling Restate")
}
