// Package apiclient calls payments-api on behalf of the pipeline itself, which writes no business table.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

const (
	// timeout is above payments-api's own patience with its database, so that it is payments-api that says what is wrong.
	timeout   = 8 * time.Second
	maxAnswer = 64 << 10
)

// Client is an HTTP client of payments-api. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New makes a client of the payments-api at baseURL. The token may be empty. It does not connect.
func New(baseURL, token string) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("the address of payments-api must be http://host:port, not %q", baseURL)
	}
	return &Client{base: base, token: token, http: &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute},
		// A redirect would carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Publish makes an event of what happened. It may be repeated: its id is the idempotency key. A fault.Unavailable error
// means that it may or may not have been taken; fault.Invalid that it never will.
func (c *Client) Publish(ctx context.Context, e event.Operational) error {
	body, err := json.Marshal(map[string]any{"event_type": e.Type, "merchant_id": e.MerchantID, "data": e.Data})
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	return c.send(ctx, http.MethodPost, "/events", e.ID.String(), body, nil)
}

// Payment reads the payment as it is now. A fault.NotFound error means that there is none; any other, that it is not known.
func (c *Client) Payment(ctx context.Context, id uuid.UUID) (payment.Payment, error) {
	return c.payment(ctx, http.MethodGet, id, nil)
}

// ChangeStatus moves the payment at a version to a status, and returns it as it is then. It may be repeated: a payment that is
// there already is left alone. A fault.Conflict error means that it is at another version, or cannot go there from where it
// is, a fault.NotFound that there is none; after a fault.Unavailable it may or may not have moved.
func (c *Client) ChangeStatus(ctx context.Context, id uuid.UUID, version int64, status payment.Status) (payment.Payment, error) {
	body, err := json.Marshal(struct {
		Status  payment.Status `json:"status"`
		Version int64          `json:"if_version"`
	}{status, version})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("encoding a status: %w", err)
	}
	return c.payment(ctx, http.MethodPatch, id, body)
}

func (c *Client) payment(ctx context.Context, method string, id uuid.UUID, body []byte) (payment.Payment, error) {
	var p payment.Payment
	err := c.send(ctx, method, "/payments/"+id.String(), "", body, &p)
	if err == nil && p.ID != id {
		err = fault.New(fault.Unavailable, "what answered for payments-api knows no payments")
	}
	return p, err
}

// send decodes the answer into out, where there is one. No body is sent where there is none.
func (c *Client) send(ctx context.Context, method, path, key string, body []byte, out any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "payments-api does not answer")
	}
	defer response.Body.Close()
	answer, broken := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // of a refusal, what came will do
	if response.StatusCode >= 200 && response.StatusCode <= 299 {
		if out == nil {
			return nil
		}
		if err := errors.Join(broken, json.Unmarshal(answer, out)); err != nil {
			return fault.Wrap(err, fault.Unavailable, "payments-api's answer cannot be read")
		}
		return nil
	}
	class := fault.Unavailable // a wrong token, or another service at the address, says nothing about the request
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		class = fault.Invalid
	case http.StatusConflict:
		class = fault.Conflict
	case http.StatusNotFound:
		if out != nil { // a payment was asked for
			class = fault.NotFound
		}
	}
	var problem struct {
		Detail string            `json:"detail"`
		Errors map[string]string `json:"errors"`
	}
	if err := json.Unmarshal(answer, &problem); err != nil {
		return fault.Wrap(err, fault.Unavailable, "payments-api answered %s", response.Status)
	}
	refused := fault.New(class, "payments-api answered %s: %s", response.Status, problem.Detail)
	refused.Fields = problem.Errors
	return refused
}
