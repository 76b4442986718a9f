package simulator

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/fault"
)

// maxDelay bounds a behaviour's delay: beyond it, hang is meant.
const maxDelay = 5 * time.Minute

// Behaviour is how the merchant treats well-signed webhooks. The zero value accepts them at once. Delay and FailEvery
// combine with each other and with one of Status, Hang and Drop, which exclude one another.
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
	return fault.InvalidFields(wrong)
}

// verdict is what a behaviour makes of one webhook.
type verdict struct {
	delay      time.Duration
	hang, drop bool
	status     int
}

func (v verdict) fails() bool { return v.hang || v.drop || v.status < 200 || v.status > 299 }

// behaviours holds one behaviour for each merchant that has one. It is safe for concurrent use.
type behaviours struct {
	mu   sync.Mutex
	of   map[string]Behaviour
	seen map[string]int // webhooks since the behaviour was set, for FailEvery
}

func newBehaviours() *behaviours {
	return &behaviours{of: map[string]Behaviour{}, seen: map[string]int{}}
}

// set replaces the behaviour of b.Merchant; a normal one removes it.
func (b *behaviours) set(next Behaviour) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.seen, next.Merchant)
	if next.normal() {
		delete(b.of, next.Merchant)
		return
	}
	b.of[next.Merchant] = next
}

func (b *behaviours) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.of)
	clear(b.seen)
}

// list returns what is set, by merchant.
func (b *behaviours) list() []Behaviour {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Behaviour, 0, len(b.of))
	for _, each := range b.of {
		all = append(all, each)
	}
	slices.SortFunc(all, func(x, y Behaviour) int { return cmp.Compare(x.Merchant, y.Merchant) })
	return all
}

// judge decides about the merchant's next webhook.
func (b *behaviours) judge(merchant string) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := merchant
	set, ok := b.of[key]
	if !ok {
		key = ""
		set, ok = b.of[key]
	}
	v := verdict{status: http.StatusOK}
	if !ok {
		return v
	}
	v.delay = time.Duration(set.DelayMS) * time.Millisecond
	if set.FailEvery > 0 {
		b.seen[key]++
		if b.seen[key]%set.FailEvery != 0 {
			return v
		}
		v.status = http.StatusServiceUnavailable
	}
	if set.Status != 0 {
		v.status = set.Status
	}
	v.hang, v.drop = set.Hang, set.Drop
	return v
}
