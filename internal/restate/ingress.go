package restate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	sdk "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/encoding"
	"github.com/restatedev/sdk-go/ingress"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

// callTimeout is how long a call waits for its invocation before it is sent again with the same key.
const callTimeout = 30 * time.Second

// Client hands batches to the dispatcher through Restate's ingress. It is safe for concurrent use.
type Client struct {
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
