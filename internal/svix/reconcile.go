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
	// endpointsPage is the most that Svix lists at once.
	endpointsPage = 250
	// clockSlack is how far the clocks of Svix's servers may be apart where the age of a message and an endpoint is
	// compared.
	clockSlack = time.Minute
)

// reconcile finds out what a 409 means, by which Svix says that there is a message of that id. Svix commits a message
// before it queues it, and never looks for those that a crash left in between, so:
//
//   - attempted, whatever came of it: it was queued, and is accepted;
//   - not attempted, and younger than the grace: the queue may still hold it, so nothing is known yet;
//   - older, and no endpoint would have got it: Svix queues nothing then, so it is accepted;
//   - older otherwise: it is lost, and a message of another id has to stand in for it. Svix could be told to send this one
//     again, under its own svix-id, but makes a single attempt then, and drops the retries of the message should it have
//     been queued after all.
//
// All requests here only read.
func (c *Client) reconcile(ctx context.Context, merchantID, id, eventType string) (result Result, lost bool) { //nolint:nonamedreturns // says what the bool is
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	message, err := c.api.Message.Get(watched, merchantID, id, &sdk.MessageGetOptions{WithContent: new(false)})
	switch {
	case err != nil && seen.status == http.StatusNotFound && saysNotFound(err):
		// Not visible yet in a replica, or taken elsewhere: Svix Cloud counts an eventId across applications. Unlike an
		// unconfirmed message this one may never show itself, so the attempt counts.
		missing := c.unconfirmed(c.grace, "Svix says that there is such a message, and does not find it")
		missing.Cause = delivery.CauseSvixAnswer
		return missing, false
	case err != nil:
		return c.failure(ctx, &seen, err), false
	case !names(message, id):
		return retryable(delivery.CauseSvixAnswer, "the answer names another message"), false
	case message.EventType != eventType:
		return Result{Class: Terminal, Cause: delivery.CauseSvixConflict, StatusCode: http.StatusConflict, Detail: "another event has this id at Svix"}, false
	}
	accepted := Result{Class: Accepted, Cause: delivery.CauseSvixAccepted, StatusCode: http.StatusConflict, MessageID: message.Id}
	attempted, failed := c.attempted(ctx, merchantID, id)
	switch {
	case failed != nil:
		return *failed, false
	case attempted:
		accepted.Detail = "it was there, and attempted"
		return accepted, false
	}
	// Both times are Svix's: our clock has no say.
	if left := c.grace - seen.date.Sub(message.Timestamp); left > 0 {
		return c.unconfirmed(left, "Svix has the message, and has not attempted it yet"), false
	}
	wanted, failed := c.wanted(ctx, merchantID, message)
	switch {
	case failed != nil:
		return *failed, false
	case !wanted:
		accepted.Detail = "it was there, and has nobody to go to"
		return accepted, false
	}
	// What HandOver returns only when there are no more replacements to be had.
	return retryable(delivery.CauseSvixServerError, "Svix stored the message and its replacements, and queued none"), true
}

func (c *Client) unconfirmed(wait time.Duration, detail string) Result {
	return Result{
		Class: Retryable, Cause: delivery.CauseSvixUnconfirmed, StatusCode: http.StatusConflict, Detail: detail,
		// Not longer where Svix's clock went back. A second more, as Svix tells the time in whole ones.
		RetryIn: min(wait, c.grace).Truncate(time.Second) + 2*time.Second,
	}
}

// attempted reports whether Svix has tried to deliver the message to any endpoint. All endpoints of a message are one task
// of its queue.
func (c *Client) attempted(ctx context.Context, merchantID, id string) (bool, *Result) {
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	list, err := c.api.MessageAttempt.ListAttemptedDestinations(watched, merchantID, id,
		&sdk.MessageAttemptListAttemptedDestinationsOptions{Limit: new(uint64(1))})
	if err == nil && (list == nil || list.Data == nil) {
		err = errNotOurs
	}
	if err != nil {
		return false, new(c.vanished(ctx, &seen, err))
	}
	return len(list.Data) > 0, nil
}

// wanted reports whether an endpoint would have got the message when it was created.
func (c *Client) wanted(ctx context.Context, merchantID string, message *models.MessageOut) (bool, *Result) {
	all, failed := c.allEndpoints(ctx, merchantID)
	return slices.ContainsFunc(all, func(e models.EndpointOut) bool { return takes(e, message) }), failed
}

// allEndpoints returns those of the merchant.
func (c *Client) allEndpoints(ctx context.Context, merchantID string) ([]models.EndpointOut, *Result) {
	known := knownOf(ctx)
	if all, found := known.get(merchantID); found {
		return all, nil
	}
	var all []models.EndpointOut
	for cursor := (*string)(nil); ; {
		page, failed := c.endpoints(ctx, merchantID, cursor)
		if failed != nil {
			return nil, failed
		}
		all = append(all, page.Data...)
		if page.Done || page.Iterator == nil || len(page.Data) == 0 {
			known.put(merchantID, all)
			return all, nil
		}
		cursor = page.Iterator
	}
}

func (c *Client) endpoints(ctx context.Context, merchantID string, cursor *string) (*models.ListResponseEndpointOut, *Result) {
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	page, err := c.api.Endpoint.List(watched, merchantID, &sdk.EndpointListOptions{Limit: new(uint64(endpointsPage)), Iterator: cursor})
	if err == nil && (page == nil || page.Data == nil) { // no list is not an empty one, by which the message would end
		err = errNotOurs
	}
	if err != nil {
		return nil, new(c.vanished(ctx, &seen, err))
	}
	return page, nil
}

// vanished is failure for what was there a moment ago: a 404 of Svix's says nothing about its address then.
func (c *Client) vanished(ctx context.Context, seen *call, err error) Result {
	result := c.failure(ctx, seen, err)
	if seen.status == http.StatusNotFound && saysNotFound(err) {
		result.Class, result.Cause, result.RetryIn = Retryable, delivery.CauseSvixAnswer, 0
	}
	return result
}

// takes is Svix's own rule for a message without channels. An endpoint that came later would not have got the message; one
// that was changed later is taken to have been as it is.
func takes(endpoint models.EndpointOut, message *models.MessageOut) bool {
	return subscribed(endpoint, message.EventType) && !laterThan(endpoint, message)
}

// laterThan reports whether the endpoint was not there yet when the message was created.
func laterThan(endpoint models.EndpointOut, message *models.MessageOut) bool {
	return endpoint.CreatedAt.After(message.Timestamp.Add(clockSlack))
}

// subscribed is that rule without the times.
func subscribed(endpoint models.EndpointOut, eventType string) bool {
	return (endpoint.Disabled == nil || !*endpoint.Disabled) && filtered(endpoint, eventType)
}

// filtered is that rule of an endpoint that may be disabled.
func filtered(endpoint models.EndpointOut, eventType string) bool {
	return (len(endpoint.FilterTypes) == 0 || slices.Contains(endpoint.FilterTypes, eventType)) &&
		len(endpoint.Channels) == 0
}
