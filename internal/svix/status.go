package svix

import (
	"context"
	"net/http"
	"slices"
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
	// silence is how long a message that Svix took may show no attempt until that is told. Whether its queue lost it or stands
	// still the message does not say.
	silence = time.Hour
)

// Fate is what has become of a message that Svix has.
type Fate int

// The fates.
const (
	Unanswered Fate = iota // no endpoint's answer is known
	Failing                // an endpoint failed, and is to be tried again
	Delivered              // every endpoint that it went to answered 2xx
	Exhausted              // an endpoint failed for the last time, and none is to be tried again
	Unwanted               // there were endpoints, and none wanted it
	NoEndpoint             // the merchant has no endpoint, or those that wanted it are disabled: Svix sends it to nobody
	Silent                 // no attempt shows for an hour, though an endpoint wanted it, and no other message stands in for it
	Lost                   // Svix does not know it: it has to be handed over again
)

// Standing is how a message stands.
type Standing struct {
	Fate Fate
	// Next is how long it is until the next attempt at an endpoint, of a Failing one; not positive where Svix does not tell.
	Next time.Duration
}

// Status asks what has become of the event's message, or of the newest that stands in for it. Its body is not needed. ok is
// false where Svix did not tell; the Result says why, as that of a hand-over does. All requests only read.
func (c *Client) Status(ctx context.Context, merchantID string, message Message) (standing Standing, failed Result, ok bool) { //nolint:nonamedreturns // says what the bool is
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if problem := unfit(merchantID); problem != "" {
		return Standing{}, Result{Class: Terminal, Cause: delivery.CauseSvixRefused, Detail: problem}, false
	}
	look := look{c: c, merchantID: merchantID, eventType: message.EventType}
	standing, refusal := look.at(ctx, message.eventID(0))
	// The event's own message answers nearly always. One that has a stand-in was not attempted when that was made.
	if refusal == nil && standing.Fate != Delivered {
		standing, refusal = look.newest(ctx, message, standing)
	}
	if refusal != nil {
		return Standing{}, *refusal, false
	}
	return standing, Result{}, true
}

// look is a look at a message and those that stand in for it.
type look struct {
	c          *Client
	merchantID string
	eventType  string
}

// newest looks at the newest of the messages that stand in for the event's own, which stands as own does.
func (l look) newest(ctx context.Context, message Message, own Standing) (Standing, *Result) {
	newest := 0
	for newest < maxReplacements {
		found, refusal := l.get(ctx, message.eventID(newest+1))
		if refusal != nil {
			return Standing{}, refusal
		}
		if found.message == nil {
			break
		}
		newest++
	}
	if newest == 0 {
		return own, nil
	}
	standing, refusal := l.at(ctx, message.eventID(newest))
	if standing.Fate == Silent { // another one would fare no better
		standing.Fate = Unanswered
	}
	return standing, refusal
}

// at says how the message of the id stands.
func (l look) at(ctx context.Context, id string) (Standing, *Result) {
	attempted, now, refusal := l.destinations(ctx, id)
	if refusal != nil {
		return Standing{}, refusal
	}
	if attempted == nil {
		return Standing{Fate: Lost}, nil
	}
	var next *time.Time
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
			if at := each.NextAttempt; at != nil && (next == nil || at.Before(*next)) {
				next = at
			}
		}
	}
	switch {
	case pending > 0 && next != nil:
		return Standing{Fate: Failing, Next: next.Sub(now)}, nil
	case pending > 0:
		return Standing{Fate: Failing}, nil
	case exhausted > 0:
		return Standing{Fate: Exhausted}, nil
	}
	fate, refusal := l.untried(ctx, id, tried)
	return Standing{Fate: fate}, refusal
}

// over reports whether the endpoint is not tried any more.
func over(to models.MessageEndpointOut, now time.Time) bool {
	if to.NextAttempt == nil {
		return to.Status != models.MESSAGESTATUS_PENDING && to.Status != models.MESSAGESTATUS_SENDING
	}
	overdue := now.Sub(*to.NextAttempt)
	return overdue > abandonedTry || overdue > overdueTry && to.Disabled != nil && *to.Disabled
}

// untried looks at the endpoints that would have got the message and show no attempt yet: an attempt is there to be read only
// when it has ended. All that are in tried answered 2xx.
func (l look) untried(ctx context.Context, id string, tried map[string]bool) (Fate, *Result) {
	all, refusal := l.c.allEndpoints(ctx, l.merchantID)
	if refusal != nil {
		return 0, refusal
	}
	missing := slices.DeleteFunc(slices.Clone(all), func(e models.EndpointOut) bool { return tried[e.Id] || !subscribed(e, l.eventType) })
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
	wanted := slices.ContainsFunc(missing, func(e models.EndpointOut) bool { return takes(e, found.message) })
	if len(tried) > 0 {
		if !wanted {
			return Delivered, nil // what is missing came later
		}
		return l.afterFirst(ctx, id)
	}
	age := found.now.Sub(found.message.Timestamp) // both times are Svix's: our clock has no say
	switch {
	case age <= l.c.grace:
		return Unanswered, nil
	case !wanted:
		return unwanted(all, found.message), nil
	case age > silence:
		return Silent, nil
	default:
		return Unanswered, nil
	}
}

// afterFirst is for a message that endpoints answered 2xx, and that others that wanted it show no attempt of. A task of the
// queue is all of a message's endpoints, so that those others are about to answer, or were disabled when it was their turn: they
// have the grace from the first attempt on, however long the message was queued before.
func (l look) afterFirst(ctx context.Context, id string) (Fate, *Result) {
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	list, err := l.c.api.MessageAttempt.ListByMsg(watched, l.merchantID, id,
		&sdk.MessageAttemptListByMsgOptions{Limit: new(uint64(endpointsPage)), WithContent: new(false)})
	if err == nil && (list == nil || list.Data == nil) {
		err = errNotOurs
	}
	if err != nil {
		return 0, new(l.c.vanished(ctx, &seen, err))
	}
	// Without one the list is behind. Of more than a page these are the newest, and the wait is longer.
	first := seen.date
	for _, each := range list.Data {
		if each.Timestamp.Before(first) {
			first = each.Timestamp
		}
	}
	if seen.date.Sub(first) <= l.c.grace {
		return Unanswered, nil
	}
	return Delivered, nil
}

// unwanted tells a message that no endpoint subscribed to from one that had nowhere to go, though somebody may want it.
func unwanted(all []models.EndpointOut, message *models.MessageOut) Fate {
	there := slices.DeleteFunc(slices.Clone(all), func(e models.EndpointOut) bool { return laterThan(e, message) })
	if len(there) == 0 || slices.ContainsFunc(there, func(e models.EndpointOut) bool { return filtered(e, message.EventType) }) {
		return NoEndpoint // whoever subscribed is disabled
	}
	return Unwanted
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
		// This list's Done is true of every page: Svix reads no more than the limit.
		if len(page.Data) < endpointsPage || page.Iterator == nil {
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
