// Package delivery says what the ledger keeps: who gets an event, what was tried, how it stands.
package delivery

import (
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/event"
)

// State is how a delivery stands. docs/states.md says which step moves which state.
type State string

// The states.
const (
	Pending    State = "pending"     // an attempt is due or under way
	Retrying   State = "retrying"    // a timer holds it
	Waiting    State = "waiting"     // its predecessor is not finished
	Parked     State = "parked"      // the endpoint takes nothing now: no timer
	HandedOver State = "handed_over" // Svix has it; the merchant's answer is not known
	Succeeded  State = "succeeded"   // the endpoint answered 2xx
	Dead       State = "dead"        // out of attempts, or never deliverable; a replay starts a new generation
)

// Unmoved is no state of a delivery: in an Outcome it leaves the state as it is.
const Unmoved State = ""

// Key identifies a delivery.
type Key struct {
	EventID    uuid.UUID
	EndpointID uuid.UUID
	Generation int64 // 0 is live, otherwise the replay's id
}

// The routes of a plan: who delivers the event.
const (
	RouteInhouse = "inhouse" // this deployment, to each of the merchant's endpoints
	RouteSvix    = "svix"    // Svix, which has endpoints of its own
)

// SvixEndpoint stands for Svix where a delivery names its endpoint: an event of that route is one delivery, of any merchant.
// It is a UUIDv8 that spells the name, and no row of the ledger's endpoints has it.
var SvixEndpoint = uuid.UUID{0: 's', 1: 'v', 2: 'i', 3: 'x', 6: 0x80, 8: 0x80}

// Object is what an event is about: its versions are what an endpoint may want in order.
type Object struct {
	MerchantID string
	Type       string
	ID         string
}

// Alone reports whether the object is an event's own: no other event is of it, and nothing waits for that one.
func (o Object) Alone(eventID uuid.UUID) bool { return o.ID == eventID.String() }

// Circuit says whether an endpoint is spared.
type Circuit string

// The states of a circuit.
const (
	CircuitClosed   Circuit = "closed"
	CircuitOpen     Circuit = "open"      // its deliveries are parked
	CircuitHalfOpen Circuit = "half_open" // so they are, and one of them is tried
)

// Claim is a delivery held by one execution: whoever raises the row's epoch afterwards has taken it away.
type Claim struct {
	Key
	Epoch int64
	// Number is the attempt that is due: 1 for the first.
	Number int
	// EndpointRevision is the endpoint's when it was claimed; a cached endpoint of another revision is stale.
	EndpointRevision int64
	Event            event.PayloadRequest
	EventType        string
	Object           Object
	// Age is how long ago the event was planned.
	Age time.Duration
	// NotBefore is how long the row was not due yet when a ticket claimed it: what the failure of a request that had
	// outlived its step wrote down. 0 for one that was due.
	NotBefore time.Duration
}

// Outcome is what an execution writes about a claim that it held. What it does to the row depends on whether
// the claim still holds: see postgres.Ledger.
type Outcome struct {
	Key
	Epoch  int64
	Number int
	// State is Succeeded, Retrying, Parked, HandedOver or Dead; or Unmoved, for the failure of an exchange that outlived its
	// execution: it counts, and leaves the row to the watchdog.
	State State
	Cause Cause
	// Attempted says that a request was made, or may have been: the attempt counts, and is kept.
	Attempted bool
	// StatusCode is 0 without an answer.
	StatusCode int
	Latency    time.Duration
	// Next is the number of the attempt that is due in RetryIn, from the moment the outcome is written; for
	// Retrying only. Of HandedOver, RetryIn is when somebody looks what became of it. It is Number again where no attempt was made, or where it is still open.
	Next       int
	RetryIn    time.Duration
	BodySHA256 []byte
	// Answer is the first bytes of what the endpoint answered.
	Answer []byte
}

// Settled is an outcome that is written already, by an earlier execution of the same invocation or by an exchange that
// outlived its step, and that what follows from may not have been sent.
type Settled struct {
	Key
	Epoch   int64
	Number  int // of the next attempt
	RetryIn time.Duration
	// Sequence is set where no attempt follows, and what may wait for its turn there is to be woken. Without an endpoint it is
	// that of every one.
	Sequence *Sequence
}

// Planned is what a plan did.
type Planned struct {
	Events []uuid.UUID // those that nobody had planned
	// Wake are the sequences in which something waits for its turn since.
	Wake []Sequence
	// Ask are those, without an endpoint, of objects of which something was planned that an endpoint with an order does not
	// get: it may have been the last that others wait for. Whether they do is to be asked after the plan.
	Ask []Sequence
}

// Ticket names a delivery whose attempt is to be made, and the epoch at which it may be claimed. A ticket for
// an epoch that has passed is void.
type Ticket struct {
	EventID    uuid.UUID `json:"event_id"`
	Generation int64     `json:"generation,omitempty"`
	Epoch      int64     `json:"epoch"`
}

// Endpoint is where deliveries go, as an attempt needs it.
type Endpoint struct {
	ID         uuid.UUID
	MerchantID string
	URL        string
	Enabled    bool
	Timeout    time.Duration
	Schedule   Schedule // nil means the deployment's
	Revision   int64
	Ordered    bool // it wants an object's events in order
	RateLimit  int  // webhooks a second; 0 means as many as there are
	Circuit    Circuit
	// CircuitSince is when the circuit changed last, by the ledger: who changes it names the time that it knows of.
	CircuitSince time.Time
	// CircuitOpens counts how often the circuit opened without a success in between.
	CircuitOpens int
	Secrets      []Secret
	// Headers are sent beside ours, by name. Their values may be credentials.
	Headers map[string]string
	// Sealed says that this process lacks a key to open all of it with: nothing is sent then, and nothing is lost.
	Sealed bool
}

// Secret is what an endpoint's webhooks are signed with.
type Secret struct {
	Value string // "whsec_" and base64
	// ExpiresAt is zero for one that is not being rotated out.
	ExpiresAt time.Time
}

// DeadRecord is a record that cannot become a delivery, with all that is needed to look at it.
type DeadRecord struct {
	Topic     string
	Partition int32
	Offset    int64
	EventID   uuid.UUID // Nil where it cannot be told
	Reason    string
	Detail    string
	Key       []byte
	Value     []byte
}

// Reasons of dead records.
const (
	ReasonUndecodable = "undecodable" // the record is no pointer to an event
	ReasonPhantom     = "phantom"     // its transaction ended, or a day passed, without the event's row
	ReasonUnplannable = "unplannable" // the ledger refuses to plan the event
	ReasonOversize    = "oversize"    // the event's webhook is larger than a body may be
)

// Reasons of dead records that are callbacks of a payment provider. Their value is the callback as it came or, of the last
// three, what it says.
const (
	ReasonCallbackUndecodable    = "callback_undecodable"     // it is signed, and is no event
	ReasonCallbackUnknownType    = "callback_unknown_type"    // its type says nothing that we know
	ReasonCallbackUnmatched      = "callback_unmatched"       // it names no payment
	ReasonCallbackUnknownPayment = "callback_unknown_payment" // there is no payment of the name
	ReasonCallbackContradicts    = "callback_contradicts"     // the payment can neither follow it nor has come through it
	ReasonCallbackEarly          = "callback_early"           // what it follows has not come for days
)

// CallbackReasons are the reasons of dead records that are callbacks.
func CallbackReasons() []string {
	return []string{
		ReasonCallbackUndecodable, ReasonCallbackUnknownType, ReasonCallbackUnmatched,
		ReasonCallbackUnknownPayment, ReasonCallbackContradicts, ReasonCallbackEarly,
	}
}

// Buried is a dead record as the ledger keeps it.
type Buried struct {
	DeadRecord
	ID int64
	// Times is how often it was buried: who drives it again compares it, so that a record that came back meanwhile stays open.
	Times int
	At    time.Time
	// RedrivenAt is zero for a record that nobody has driven since it was buried last.
	RedrivenAt time.Time
}

// Fate is what became of an event: how many of its deliveries are in which state. An event that was never planned has none.
type Fate map[State]int

// Watermark is a place in data-service's feed below which every event is planned or explained, and the history that the
// place counts in.
type Watermark struct {
	Cursor   string `json:"cursor"`
	System   string `json:"system"`
	Timeline string `json:"timeline"`
}

// Overdue is a delivery whose attempt should have been made, as the reconciler reads it.
type Overdue struct {
	Key
	Epoch  int64
	Number int    // of the attempt that is due
	Owner  string // empty: a timer should have come
}

// HandedOverDelivery is a delivery that Svix has, as the sweep reads it. Its key names SvixEndpoint.
type HandedOverDelivery struct {
	Key
	Epoch      int64
	MerchantID string
	EventType  string
	Due        time.Time // when the look was due: another value means that somebody has asked for another one
	// PlannedAt is before Svix took it, and HeldAt, when that was written down, after; Held is how long ago that is. All by the
	// ledger's clock.
	PlannedAt, HeldAt time.Time
	Held              time.Duration
}

// SvixVerdict is what a look found about a delivery that Svix has.
type SvixVerdict struct {
	Of HandedOverDelivery
	// State is Succeeded or Dead; Retrying, to be handed over again now; or HandedOver, for another look in LookIn.
	State  State
	Cause  Cause // empty leaves the last one
	LookIn time.Duration
}

// Backlog is an endpoint as its drainer sees it: what is parked there, and whether it may be attempted.
type Backlog struct {
	Gone    bool // the endpoint was removed
	Fit     bool // it is enabled, and the keys open it
	Circuit Circuit
	// RateLimit is the endpoint's, 0 where it has none.
	RateLimit int
	// ProbeIn is when a circuit that is not closed wants a probe; not positive means now.
	ProbeIn time.Duration
	Parked  bool // something is
	// Open is how many deliveries are under way that were parked, up to 2,000.
	Open int
	// Took says that the owner who asks has taken some before, and that nobody attempts them yet.
	Took bool
}

// Drain is how the drain of an endpoint goes.
type Drain struct {
	EndpointID uuid.UUID
	Next       time.Duration // until its next turn; 0 when it has ended
	AtOnce     int           // how many may be under way
	PerSecond  float64       // of those that were taken, lately
}

// MaxTickets bounds an attempt list, as a batch of events is bounded.
const MaxTickets = 64

// AttemptList is what an Attempt makes: deliveries of one endpoint whose same attempt is due at one time.
type AttemptList struct {
	EndpointID uuid.UUID `json:"endpoint_id"`
	Number     int       `json:"attempt"`
	Tickets    []Ticket  `json:"deliveries"`
	// SlotUS is the slot of the first ticket at an endpoint with a rate limit, in Unix time; each further one's is EveryUS
	// later. 0 where there is no limit, or no slot yet.
	SlotUS  int64 `json:"slot_unix_us,omitempty"`
	EveryUS int64 `json:"every_us,omitempty"`
	// LeadMS is how long before its slot a request may be begun: its connection is made meanwhile.
	LeadMS int64 `json:"lead_ms,omitempty"`
	// Backlog says that they were parked: what comes now goes before them.
	Backlog bool `json:"backlog,omitempty"`
	// Probe says that the one delivery finds out how an endpoint is whose circuit is half-open.
	Probe bool `json:"probe,omitempty"`
}

// AttemptLists sorts deliveries that are due now into lists.
func AttemptLists(due []Overdue) []AttemptList {
	type same struct {
		endpoint uuid.UUID
		number   int
	}
	var out []AttemptList
	at := map[same]int{} // index of the list that is being filled
	for _, o := range due {
		key := same{o.EndpointID, o.Number}
		i, found := at[key]
		if !found || len(out[i].Tickets) == MaxTickets {
			i = len(out)
			at[key] = i
			out = append(out, AttemptList{EndpointID: o.EndpointID, Number: o.Number})
		}
		out[i].Tickets = append(out[i].Tickets, Ticket{EventID: o.EventID, Generation: o.Generation, Epoch: o.Epoch})
	}
	return out
}
