// Package endpoint manages merchants' endpoints: what one may be, its secrets, and what becomes of its deliveries when it
// is disabled, enabled or removed. The worker, which delivers, reads them; it writes nothing here but that one is disabled.
package endpoint

//go:generate go test -run ^TestTheDocsExplainEveryCause$ . -update

import (
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
)

// Ordering is what an endpoint is promised about the order of its webhooks.
type Ordering string

// The orderings.
const (
	Parallel  Ordering = "parallel" // none
	PerObject Ordering = "object"   // of one object's events
)

// Why an endpoint is disabled.
const (
	DisabledByOperator = "operator"
	DisabledGone       = "gone"    // it answered 410
	DisabledFailing    = "failing" // for days, without a success in between
)

// Spec is an endpoint as somebody wants it.
type Spec struct {
	MerchantID  string
	URL         string
	Description string
	// EventTypes are exact types, or prefixes such as payment.*; none is every type but the operational ones.
	EventTypes []string
	// UnknownTypes lets EventTypes name types that the catalogue does not have.
	UnknownTypes bool
	Headers      map[string]string
	Schedule     delivery.Schedule // nil is the deployment's
	Ordering     Ordering          // empty is Parallel
	Timeout      time.Duration     // of one attempt; 0 is DefaultTimeout
	RateLimit    int               // webhooks a second; 0 is as many as there are
	Secret       string            // as signing.ParseSecret reads it; empty draws one
	SecretKind   signing.Kind      // of the one that is drawn; empty is HMAC
	// Wrong is what whoever read the request found wrong already, by field: it is named together with the rest.
	Wrong map[string]string
}

// Change is what is to become of an endpoint; nil leaves a part as it is.
type Change struct {
	URL          *string
	Description  *string
	EventTypes   *[]string
	UnknownTypes bool
	Headers      *map[string]string
	Schedule     *delivery.Schedule // of nothing is the deployment's
	Ordering     *Ordering
	Timeout      *time.Duration
	RateLimit    *int
	Wrong        map[string]string // as a Spec's
}

// DefaultTimeout is of one attempt, from the dial to the last byte of the answer that is read.
const DefaultTimeout = 10 * time.Second

// Endpoint is an endpoint as it is shown: nothing of it is secret.
type Endpoint struct {
	ID         uuid.UUID `json:"id"`
	MerchantID string    `json:"merchant_id"`
	// URL has no user info and no query; HasCredentials says that the one which is used has.
	URL            string            `json:"url"`
	HasCredentials bool              `json:"url_has_credentials"`
	Description    string            `json:"description"`
	EventTypes     []string          `json:"event_types"`
	HeaderNames    []string          `json:"header_names"`
	Schedule       delivery.Schedule `json:"retry_schedule,omitempty"` // absent is the deployment's
	Ordering       Ordering          `json:"ordering"`
	TimeoutMS      int64             `json:"timeout_ms"`
	RateLimit      int               `json:"rate_limit,omitempty"` // webhooks a second; absent is as many as there are
	Enabled        bool              `json:"enabled"`
	DisabledAt     *time.Time        `json:"disabled_at,omitempty"`
	DisabledReason string            `json:"disabled_reason,omitempty"`
	// FailingSince is the first failure after the last success.
	FailingSince *time.Time `json:"failing_since,omitempty"`
	Circuit      Circuit    `json:"circuit"`
	// Drain is how what is parked is drained; absent where nothing is.
	Drain     *Drain    `json:"drain,omitempty"`
	Secrets   []Secret  `json:"secrets"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Circuit says whether the endpoint is spared.
type Circuit struct {
	State delivery.Circuit `json:"state"`
	Since time.Time        `json:"since"`
	// Opens is how often it has opened since the endpoint was well.
	Opens int `json:"opens"`
	// ProbeAt is when one delivery finds out how the endpoint is; while one does, when another would.
	ProbeAt *time.Time `json:"probe_at,omitempty"`
}

// Drain is how the deliveries are drained that are parked at an endpoint.
type Drain struct {
	Since     time.Time `json:"since"`
	AtOnce    int       `json:"at_once"`    // how many may be under way
	PerSecond float64   `json:"per_second"` // of those that were taken, lately
}

// Remaining is how long the drain of so many takes as it goes now, and false where that cannot be told: while the circuit is
// open, or before the first of them have ended.
func (d *Drain) Remaining(parked int64) (time.Duration, bool) {
	if d == nil || d.AtOnce == 0 || d.PerSecond <= 0 || parked == 0 {
		return 0, false
	}
	return time.Duration(float64(parked) / d.PerSecond * float64(time.Second)).Round(time.Second), true
}

// Secret is a live signing secret without what makes it one.
type Secret struct {
	ID        uuid.UUID    `json:"id"`
	Kind      signing.Kind `json:"kind,omitempty"` // absent where it cannot be opened here
	KeyID     string       `json:"key_id"`         // of the key that it is sealed with; empty where it is not sealed yet
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt *time.Time   `json:"expires_at,omitempty"` // of one that is being rotated out
}

// Standing is how many deliveries of an endpoint are in a state, by how they came there. Those that succeeded are not
// counted: there is no end to them.
type Standing struct {
	State      delivery.State `json:"state"`
	LastCause  delivery.Cause `json:"last_cause,omitempty"` // absent before the first attempt
	Deliveries int64          `json:"deliveries"`
	// AtLeast says that there may be more: counting stops at a bound.
	AtLeast bool `json:"at_least,omitempty"`
}

// Row is an endpoint as it is stored.
type Row struct {
	Endpoint
	URLSealed     *string // the whole URL, where it holds more than the one that is shown
	HeadersSealed *string
	Revision      int64
	Sealed        []SealedSecret // the live ones, the newest first
}

// keyIDs are those of the keys that something of the row is sealed with. The empty one stands for what is in clear, and
// should not be: rows of before anything was sealed.
func (r Row) keyIDs() map[string]bool {
	out := map[string]bool{}
	for _, each := range r.Sealed {
		out[seal.KeyID(each.Sealed)] = true
	}
	for _, sealed := range []*string{r.URLSealed, r.HeadersSealed} {
		if sealed != nil {
			out[seal.KeyID(*sealed)] = true
		}
	}
	if r.urlInClear() {
		out[""] = true
	}
	return out
}

func (r Row) urlInClear() bool {
	_, hides := withoutCredentials(r.URL)
	return r.URLSealed == nil && hides
}

// SealedSecret is a signing secret as it is stored.
type SealedSecret struct {
	ID     uuid.UUID
	Sealed string
}
