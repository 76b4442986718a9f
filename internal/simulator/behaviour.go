package simulator

import (
	"cmp"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/fault"
)

const (
	// maxDelay bounds a behaviour's delay: beyond it, hang is meant.
	maxDelay  = 5 * time.Minute
	maxAnswer = 1 << 10 // bytes
	// maxCounted is how many webhooks FailFirst remembers. With UUIDs for ids that is some 20 MB.
	maxCounted = 100_000
)

// Behaviour is how the merchant treats well-signed webhooks. The zero value accepts them at once. One of Status, Hang and
// Drop, which exclude one another, combines with Delay, and with one of FailEvery and FailFirst.
type Behaviour struct {
	// Merchant is whom the behaviour is for: the last part of /webhooks/{merchant}, or where the path has none the
	// merchant_id of the payment. Empty is everyone who has no behaviour of their own.
	Merchant string `json:"merchant,omitempty"`
	// Status is answered instead of 200. A 2xx still accepts.
	Status int `json:"status,omitempty"`
	// DelayMS is waited before anything else, in milliseconds. A webhook whose sender gives up meanwhile has failed.
	DelayMS int `json:"delay_ms,omitempty"`
	// Hang never answers: the request stays open until the sender or the simulator ends it.
	Hang bool `json:"hang,omitempty"`
	// Drop closes the connection without an answer.
	Drop bool `json:"drop,omitempty"`
	// FailEvery n fails every n-th webhook only, by Status, Hang or Drop, or with a 503 where none of them is set.
	FailEvery int `json:"fail_every,omitempty"`
	// FailFirst n fails the first n attempts of each webhook since the behaviour was set, in the same ways, and none after
	// them. What counts as one webhook is a webhook-id at one merchant; of more than 100,000 the oldest is forgotten, and
	// starts anew.
	FailFirst int `json:"fail_first,omitempty"`
	// RetryAfter is the header Retry-After of a failing status: seconds, or an HTTP date.
	RetryAfter string `json:"retry_after,omitempty"`
	// Answer is the body that goes with the status, at most 1 KiB. Without one a failure is a problem document, and
	// what is accepted has no body.
	Answer string `json:"answer,omitempty"`
	// ContentType is the media type of Answer; text/plain in UTF-8 where it is empty.
	ContentType string `json:"content_type,omitempty"`
}

func (b Behaviour) normal() bool { return b == Behaviour{Merchant: b.Merchant} }

func (b Behaviour) validate() error {
	wrong := map[string]string{}
	ways := 0
	for _, set := range []bool{b.Status != 0, b.Hang, b.Drop} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		wrong["status"] = "exclusive with hang and drop, as these are with each other"
	}
	if b.Status != 0 && (b.Status < 200 || b.Status > 599) {
		wrong["status"] = "want 200 to 599, not " + strconv.Itoa(b.Status)
	}
	if b.DelayMS < 0 || time.Duration(b.DelayMS)*time.Millisecond > maxDelay {
		wrong["delay_ms"] = "want 0 to " + strconv.FormatInt(maxDelay.Milliseconds(), 10)
	}
	if b.FailEvery < 0 {
		wrong["fail_every"] = "want a positive number"
	}
	switch {
	case b.FailFirst < 0:
		wrong["fail_first"] = "want a positive number"
	case b.FailFirst > 0 && b.FailEvery > 0:
		wrong["fail_first"] = "exclusive with fail_every"
	}
	b.validateAnswer(wrong)
	return fault.InvalidFields(wrong)
}

func (b Behaviour) validateAnswer(wrong map[string]string) {
	silent := b.Hang || b.Drop
	if b.RetryAfter != "" {
		fails := !accepts(b.Status)
		if b.Status == 0 {
			fails = b.FailEvery > 0 || b.FailFirst > 0
		}
		switch {
		case silent || !fails:
			wrong["retry_after"] = "goes with a status that fails"
		case !isRetryAfter(b.RetryAfter):
			wrong["retry_after"] = "want seconds or an HTTP date"
		}
	}
	switch {
	case b.Answer == "":
	case len(b.Answer) > maxAnswer:
		wrong["answer"] = "want at most " + strconv.Itoa(maxAnswer) + " bytes"
	case silent:
		wrong["answer"] = "exclusive with hang and drop"
	case b.Status == http.StatusNoContent || b.Status == http.StatusNotModified:
		wrong["answer"] = "a " + strconv.Itoa(b.Status) + " has no body"
	}
	if b.ContentType != "" {
		if kind, _, err := mime.ParseMediaType(b.ContentType); err != nil || !strings.Contains(kind, "/") {
			wrong["content_type"] = "want a media type"
		} else if b.Answer == "" {
			wrong["content_type"] = "goes with an answer"
		}
	}
}

// isRetryAfter says whether text is what RFC 9110 allows in Retry-After.
func isRetryAfter(text string) bool {
	if _, err := strconv.ParseUint(text, 10, 31); err == nil {
		return true
	}
	_, err := http.ParseTime(text)
	return err == nil
}

func accepts(status int) bool { return status >= 200 && status <= 299 }

// verdict is what a behaviour makes of one webhook.
type verdict struct {
	delay               time.Duration
	hang, drop          bool
	status              int
	retryAfter          string
	answer, contentType string
}

func (v verdict) fails() bool { return v.hang || v.drop || !accepts(v.status) }

// behaviours holds one behaviour for each merchant that has one. It is safe for concurrent use.
type behaviours struct {
	mu       sync.Mutex
	of       map[string]*rule
	sets     int // of behaviours, ever
	attempts attempts
}

// rule is a behaviour that was set.
type rule struct {
	Behaviour
	number int // no other rule ever has it
	seen   int // webhooks, for FailEvery
}

func newBehaviours() *behaviours {
	return &behaviours{of: map[string]*rule{}, attempts: newAttempts(maxCounted)}
}

// set replaces the behaviour of next.Merchant; a normal one removes it.
func (b *behaviours) set(next Behaviour) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if next.normal() {
		delete(b.of, next.Merchant)
		return
	}
	b.sets++
	b.of[next.Merchant] = &rule{Behaviour: next, number: b.sets}
}

func (b *behaviours) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.of)
	b.attempts = newAttempts(maxCounted)
}

// list returns what is set, by merchant.
func (b *behaviours) list() []Behaviour {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Behaviour, 0, len(b.of))
	for _, each := range b.of {
		all = append(all, each.Behaviour)
	}
	slices.SortFunc(all, func(x, y Behaviour) int { return cmp.Compare(x.Merchant, y.Merchant) })
	return all
}

// judge decides about the merchant's next webhook, which has the id.
func (b *behaviours) judge(merchant, id string) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := b.of[merchant]
	if set == nil {
		set = b.of[""]
	}
	v := verdict{status: http.StatusOK}
	if set == nil {
		return v
	}
	v.delay = time.Duration(set.DelayMS) * time.Millisecond
	switch {
	case set.FailEvery > 0:
		set.seen++
		if set.seen%set.FailEvery != 0 {
			return v
		}
		v.status = http.StatusServiceUnavailable
	case set.FailFirst > 0:
		if b.attempts.count(attempted{set.number, merchant, id}) > set.FailFirst {
			return v
		}
		v.status = http.StatusServiceUnavailable
	}
	if set.Status != 0 {
		v.status = set.Status
	}
	v.hang, v.drop = set.Hang, set.Drop
	v.retryAfter, v.answer, v.contentType = set.RetryAfter, set.Answer, cmp.Or(set.ContentType, "text/plain; charset=utf-8")
	return v
}

// attempts counts the attempts of webhooks. It remembers so many webhooks, and forgets the oldest for a new one.
type attempts struct {
	most   int // webhooks
	of     map[attempted]int
	known  []attempted // of's keys: a ring by age once there are most of them
	oldest int
}

// attempted is a webhook under a rule.
type attempted struct {
	rule         int
	merchant, id string
}

func newAttempts(most int) attempts {
	return attempts{most: most, of: map[attempted]int{}}
}

// count returns which attempt of the webhook this one is, from 1.
func (a *attempts) count(webhook attempted) int {
	if a.of[webhook] == 0 {
		if len(a.known) < a.most {
			a.known = append(a.known, webhook)
		} else {
			delete(a.of, a.known[a.oldest])
			a.known[a.oldest] = webhook
			a.oldest = (a.oldest + 1) % a.most
		}
	}
	a.of[webhook]++
	return a.of[webhook]
}
