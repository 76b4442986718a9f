package provider

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hookline/hookline/internal/callback"
)

const (
	// timeout of one delivery. Stripe's is not documented; others give up after 10 to 30 s.
	timeout = 10 * time.Second
	// firstWait before a delivery is made again doubles up to longestWait. Real ones wait for minutes and hours: a demo does
	// not. A Retry-After is heeded, up to longestWait, too.
	firstWait   = 250 * time.Millisecond
	longestWait = 5 * time.Second
)

// Provider delivers events. It is safe for concurrent use.
type Provider struct {
	url, secret string
	client      *http.Client
}

// New makes a provider that delivers to url and signs with the secret. At most atOnce of its connections are kept.
func New(url, secret string, atOnce int) *Provider {
	return &Provider{url: url, secret: secret, client: &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: atOnce, IdleConnTimeout: time.Minute},
	}}
}

// Close closes the connections that are kept.
func (p *Provider) Close() { p.client.CloseIdleConnections() }

// Deliver sends the event until it is accepted with a 2xx, and returns how often that was. A refusal that a repetition does
// not mend, which is a 4xx, is an error; so is the end of ctx.
func (p *Provider) Deliver(ctx context.Context, e Event) (sent int, err error) {
	body, err := e.Body()
	if err != nil {
		return 0, err
	}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		sent++
		status, after, err := p.post(ctx, body)
		switch {
		case ctx.Err() != nil:
			return sent, ctx.Err()
		case err == nil && status >= 200 && status <= 299:
			return sent, nil
		case err == nil && status >= 400 && status <= 499 && status != http.StatusTooManyRequests:
			return sent, fmt.Errorf("event %s was refused with %d", e.ID, status)
		}
		if err := pause(ctx, max(wait, min(after, longestWait))); err != nil {
			return sent, err
		}
	}
}

// post makes one delivery. after is what the answer asks to wait.
func (p *Provider) post(ctx context.Context, body []byte) (status int, after time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return 0, 0, fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Stripe-Signature", callback.StripeSignature(p.secret, time.Now(), body))
	response, err := p.client.Do(request)
	if err != nil {
		return 0, 0, fmt.Errorf("delivering: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		after = time.Duration(seconds) * time.Second
	}
	return response.StatusCode, after, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
