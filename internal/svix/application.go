package svix

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/svix/svix-webhooks/go/models"
)

// applicationTries bounds get-or-create: Svix looks first and then inserts, without a lock. Who inserts second gets a 409,
// and finds the application with the next look.
const applicationTries = 3

// application is a merchant's at Svix.
type application struct {
	merchantID string
	there      atomic.Bool
	turn       chan struct{} // held while one of us asks, so that a thousand first messages are one request
}

func (c *Client) application(merchantID string) *application {
	if known, ok := c.applications.Load(merchantID); ok {
		return known.(*application) //nolint:forcetypeassert // only these are stored
	}
	known, _ := c.applications.LoadOrStore(merchantID, &application{merchantID: merchantID, turn: make(chan struct{}, 1)})
	return known.(*application) //nolint:forcetypeassert // only these are stored
}

// forget has the next message look again.
func (a *application) forget() { a.there.Store(false) }

// ensure creates the application unless it is there, and otherwise says why not.
func (a *application) ensure(ctx context.Context, c *Client) (Result, bool) {
	if a.there.Load() {
		return Result{}, true
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		result := c.failure(ctx, &call{}, ctx.Err())
		result.Detail = "another message of the merchant is asking for its application"
		return result, false
	}
	if a.there.Load() {
		return Result{}, true
	}
	var result Result
	for range applicationTries {
		var err error
		if result, err = a.getOrCreate(ctx, c); err == nil {
			a.there.Store(true)
			return Result{}, true
		}
		if result.StatusCode != http.StatusConflict {
			return result, false
		}
	}
	result.StatusCode = 0 // it must not pass for the 409 of a message
	return result, false
}

// getOrCreate leaves the idempotency key to the SDK, which draws one: with one of ours Svix would answer for twelve hours
// that an application is there which somebody deleted.
func (a *application) getOrCreate(ctx context.Context, c *Client) (Result, error) {
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	out, err := c.api.Application.GetOrCreate(watched, models.ApplicationIn{Name: a.merchantID, Uid: &a.merchantID}, nil)
	if err == nil && out != nil && out.Uid != nil && *out.Uid == a.merchantID {
		return Result{}, nil
	}
	if err == nil {
		err = errNotOurs
	}
	return c.failure(ctx, &seen, err), err
}

// errNotOurs stands for a 2xx that is not about what was asked for.
var errNotOurs = errors.New("the answer is about something else")
