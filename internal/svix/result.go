package svix

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	sdk "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/delivery"
)

// Class says what becomes of a hand-over.
type Class int

// The classes.
const (
	Retryable    Class = iota // a later attempt can bring it to an end; whether this one left anything at Svix is open
	Accepted                  // Svix has it
	Terminal                  // Svix never takes this message
	Unauthorized              // Svix takes nothing from this deployment until somebody mends token, permissions or address
	NotStarted                // the guard kept it back
)

// String is the class in a word.
func (c Class) String() string {
	switch c {
	case Accepted:
		return "accepted"
	case Terminal:
		return "terminal"
	case Unauthorized:
		return "unauthorized"
	case NotStarted:
		return "not_started"
	default:
		return "retryable"
	}
}

// Bounds of what an answer may say.
const (
	// maxRetryAfter bounds what Svix may ask for with Retry-After: it is asked of everybody's webhooks at once.
	maxRetryAfter = time.Hour
	maxDetail     = 256
)

// Result says how a hand-over ended.
type Result struct {
	Class Class
	Cause delivery.Cause
	// StatusCode is of the last answer, whichever request it was to; 0 without one.
	StatusCode int
	// Latency is of the whole hand-over.
	Latency time.Duration
	// RetryIn is the least time to wait before the next attempt; 0 leaves it to the schedule.
	RetryIn time.Duration
	// MessageID is Svix's, which the merchant sees as svix-id; of an accepted message only.
	MessageID string
	// Replacement is 0 for the event's own message. Above, the message stands in for one that Svix seemed to have lost:
	// had it not, the merchant gets the event twice.
	Replacement int
	// Sent is false when the hand-over surely created nothing: no request that does left, or Svix had no application for it.
	Sent bool
	// Detail says more for a person. It may quote Svix, and holds neither the token nor a URL.
	Detail string
}

// Counts reports whether the attempt is one of those that the schedule allows. Waiting does not count: for somebody to mend
// the token, for a message to show that it is queued, for a claim.
func (r Result) Counts() bool {
	return r.Class != Unauthorized && r.Class != NotStarted && r.Cause != delivery.CauseSvixUnconfirmed
}

func retryable(cause delivery.Cause, detail string) Result {
	return Result{Class: Retryable, Cause: cause, Detail: detail}
}

// failure says what an error of the SDK means, or of the transport. ctx is the hand-over's.
func (c *Client) failure(ctx context.Context, seen *call, err error) Result {
	result := c.classify(ctx, seen, err)
	result.StatusCode = seen.status
	return result
}

func (c *Client) classify(ctx context.Context, seen *call, err error) Result {
	switch {
	case seen.denied:
		return Result{Class: NotStarted, Cause: delivery.CauseNotStarted, Detail: "the guard kept the request back"}
	case seen.status >= 200 && seen.status <= 299:
		return retryable(delivery.CauseSvixAnswer, "the answer cannot be read")
	case seen.status != 0: // it counts, whether the rest could be read or not
		var body []byte
		if answer, ok := errors.AsType[*sdk.Error](err); ok {
			body = answer.Body()
		}
		return c.refusal(seen, body)
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return retryable(delivery.CauseInternal, "this process ends")
	case ctx.Err() != nil, isNet && timeout.Timeout():
		return retryable(delivery.CauseSvixTimeout, seen.reached())
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text quotes the URL
		err = wrapped.Err
	}
	return retryable(delivery.CauseSvixUnreachable, cut(err.Error()))
}

// refusal says what an answer other than 2xx means. Only Svix's own word about the message ends it.
func (c *Client) refusal(seen *call, body []byte) Result {
	code, detail, isSvix := readProblem(body)
	result := Result{Class: Retryable, Cause: delivery.CauseSvixAnswer, Detail: detail}
	switch status := seen.status; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusBadRequest && code == "bad token":
		result.Class, result.Cause, result.RetryIn = Unauthorized, delivery.CauseSvixUnauthorized, c.mending
	case status >= 300 && status <= 399, status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		// Asked were paths that are always there.
		result.Class, result.Cause, result.RetryIn = Unauthorized, delivery.CauseSvixAddress, c.mending
	case status == http.StatusRequestEntityTooLarge: // of Svix, or of a proxy before it
		result.Class, result.Cause = Terminal, delivery.CauseSvixTooLarge
	case isSvix && (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity):
		result.Class, result.Cause = Terminal, delivery.CauseSvixRefused
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		result.Cause, result.RetryIn = delivery.CauseSvixBusy, seen.retryAfter
	case status >= 500:
		result.Cause, result.RetryIn = delivery.CauseSvixServerError, seen.retryAfter
	}
	return result
}

// readProblem reads the body of a refusal in either of Svix's forms. isSvix is false for any other.
func readProblem(body []byte) (code, detail string, isSvix bool) { //nolint:nonamedreturns // two of them are strings
	var standard struct {
		Code   string          `json:"code"`
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(body, &standard) != nil {
		return "", "", false
	}
	if standard.Code != "" {
		var text string
		_ = json.Unmarshal(standard.Detail, &text) // without a text there is none to show
		return standard.Code, cut(text), true
	}
	var items []struct {
		Where   []string `json:"loc"`
		Message string   `json:"msg"`
	}
	if json.Unmarshal(standard.Detail, &items) != nil || len(items) == 0 {
		return "", "", false
	}
	parts := make([]string, len(items))
	for i, each := range items {
		parts[i] = strings.Join(each.Where, ".") + ": " + each.Message
	}
	return "", cut(strings.Join(parts, "; ")), true
}

func cut(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxDetail)], "")
}

// readRetryAfter reads Retry-After, a number of seconds or a date by the server's own clock.
func readRetryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
