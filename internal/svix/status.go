package svix

import (
	"context"
	"net/http"
	"time"

	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/delivery"
)

const (
	// overdueTry is how long a disabled endpoint's next attempt may be overdue, and abandonedTry any endpoint's, until it is
	// taken for one that never comes: Svix makes none at endpoints that were disabled or deleted, and a queue that lost its
	// store has forgotten them all.
	overdueTry   = 10 * time.Minute
	abandonedTry = 24 * time.Hour
	// forgotten is how long a message that Svix took may show no attempt until it is taken for lost by its queue. A queue that
	// is as far behind as that sends the message as well as the one that stands in for it.
	forgotten = time.Hour
)

// Fate is what has become of a message that Svix has.
type Fate int

// The fates.
const (
	Unanswered Fate = iota // no endpoint's answer is known
	Failing                // an endpoint failed, and is to be tried again
	Delivered              // every endpoint that it went to answered 2xx
	Exhausted              // an endpoint failed for the last time, and none is to be tried again
	Unwanted               // no endpoint wanted it
	Lost                   // Svix does not know it, or never queued it: it has to be handed over again
)

// Status asks what has become of the event's message, or of the newest that stands in for it. Its body is not needed. ok is
// false where Svix did not tell; the Result says why, as that of a hand-over does. All requests only read.
func (c *Client) Status(ctx context.Context, merchantID string, message Message) (fate Fate, failed Result, ok bool) { //nolint:nonamedreturns // says what the bool is
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if problem := unfit(merchantID); problem != "" {
		return 0, Result{Class: Terminal, Cause: delivery.CauseSvixRefused, Detail: problem}, false
	}
	look := look{c: c, merchantID: merchantID, eventType: message.EventType}
	fate, refusal := look.at(ctx, message.eventID(0))
	// The event's own message answers nearly always. One that has a stand-in was not attempted when that was made.
	if refusal == nil && fate != Delivered {
		fate, refusal = look.newest(ctx, message, fate)
	}
	if refusal != nil {
		return 0, *refusal, false
	}
	return fate, Result{}, true
}

// look is a look at a message and those that stand in for it.
type look struct {
	c          *Client
	merchantID string
	eventType  string
}

// newest looks at the newest of the messages that stand in for the event's own, whose fate is own.
func (l look) newest(ctx context.Context, message Message, own Fate) (Fate, *Result) {
	newest := 0
	for newest < maxReplacements {
		found, refusal := l.get(ctx, message.eventID(newest+1))
		if refusal != nil {
			return 0, refusal
		}
		if found.message == nil {
			break
		}
		newest++
	}
	if newest == 0 {
		return own, nil
	}
	return l.at(ctx, message.eventID(newest))
}

// at says what has become of the message of the id.
func (l look) at(ctx context.Context, id string) (Fate, *Result) {
	attempted, now, refusal := l.destinations(ctx, id)
	if refusal != nil {
		return 0, refusal
	}
	if attempted == nil {
		return Lost, nil
	}
	pending, exhausted := 0, 0
	tried := make(map[string]bool, len(attempted))
	for _, each := range attempted {
		tried[each.Id] = true
		switch {
		case each.Status == models.MESSAGESTATUS_SUCCESS:
		case over(each, now):
			exhausted++
		default:
			pending++
		}
	}
	switch {
	case pending > 0:
		return Failing, nil
	case exhausted > 0:
		return Exhausted, nil
	}
	return l.untried(ctx, id, tried)
}

// over reports whether the endpoint is not tried any more.
func over(to models.MessageEndpointOut, now time.Time) bool {
	switch to.Status {
	case models.MESSAGESTATUS_PENDING, models.MESSAGESTATUS_SENDING:
		return false
	default:
	}
	if to.NextAttempt == nil {
		return true
	}
	overdue := now.Sub(*to.NextAttempt)
	return overdue > abandonedTry || overdue > overdueTry && to.Disabled != nil && *to.Disabled
}

// untried looks at the endpoints that would have got the message and show no attempt yet: an attempt is there to be read only
// when it has ended. All that are in tried answered 2xx.
func (l look) untried(ctx context.Context, id string, tried map[string]bool) (Fate, *Result) {
	var missing []models.EndpointOut
	for cursor := (*string)(nil); ; {
		page, refusal := l.c.endpoints(ctx, l.merchantID, cursor)
		if refusal != nil {
			return 0, refusal
		}
		for _, each := range page.Data {
			if !tried[each.Id] && subscribed(each, l.eventType) {
				missing = append(missing, each)
			}
		}
		if page.Done || page.Iterator == nil || len(page.Data) == 0 {
			break
		}
		cursor = page.Iterator
	}
	if len(missing) == 0 && len(tried) > 0 {
		return Delivered, nil
	}
	found, refusal := l.get(ctx, id)
	switch {
	case refusal != nil:
		return 0, refusal
	case found.message == nil:
		return Lost, nil
	}
	age := found.now.Sub(found.message.Timestamp) // both times are Svix's: our clock has no say
	wanted := false
	for _, each := range missing {
		wanted = wanted || takes(each, found.message)
	}
	switch {
	case len(tried) > 0 && (!wanted || age > l.c.grace):
		return Delivered, nil // what is missing came later, or was disabled when it was its turn
	case age <= l.c.grace:
		return Unanswered, nil
	case !wanted:
		return Unwanted, nil
	case age > forgotten:
		return Lost, nil
	default:
		return Unanswered, nil
	}
}

// destinations returns the endpoints that the message was tried at, and the time by Svix's clock; nil where Svix does not know
// the message.
func (l look) destinations(ctx context.Context, id string) ([]models.MessageEndpointOut, time.Time, *Result) {
	out := []models.MessageEndpointOut{}
	for cursor := (*string)(nil); ; {
		page, now, missing, refusal := l.page(ctx, id, cursor)
		if refusal != nil || missing {
			return nil, now, refusal
		}
		out = append(out, page.Data...)
		if page.Done || page.Iterator == nil || len(page.Data) == 0 {
			return out, now, nil
		}
		cursor = page.Iterator
	}
}

func (l look) page(ctx context.Context, id string, cursor *string) (page *models.ListResponseMessageEndpointOut, now time.Time, missing bool, refusal *Result) { //nolint:nonamedreturns // there are four
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	page, err := l.c.api.MessageAttempt.ListAttemptedDestinations(watched, l.merchantID, id,
		&sdk.MessageAttemptListAttemptedDestinationsOptions{Limit: new(uint64(endpointsPage)), Iterator: cursor})
	switch {
	case err != nil && seen.status == http.StatusNotFound && saysNotFound(err):
		return nil, seen.date, true, nil
	case err == nil && (page == nil || page.Data == nil): // no list is not an empty one
		err = errNotOurs
	}
	if err != nil {
		return nil, seen.date, false, new(l.c.failure(ctx, &seen, err))
	}
	return page, seen.date, false, nil
}

// found is a message, nil where Svix does not know it, and the time by Svix's clock.
type found struct {
	message *models.MessageOut
	now     time.Time
}

func (l look) get(ctx context.Context, id string) (found, *Result) {
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	message, err := l.c.api.Message.Get(watched, l.merchantID, id, &sdk.MessageGetOptions{WithContent: new(false)})
	switch {
	case err != nil && seen.status == http.StatusNotFound && saysNotFound(err):
		return found{now: seen.date}, nil
	case err != nil:
		return found{}, new(l.c.failure(ctx, &seen, err))
	case !names(message, id):
		return found{}, new(retryable(delivery.CauseSvixAnswer, "the answer names another message"))
	}
	return found{message: message, now: seen.date}, nil
}
