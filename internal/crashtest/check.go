package crashtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

const (
	// flushed is how long before a fault an answer must have come for a second delivery of it to have no excuse: its
	// outcome was to be in the ledger by then.
	flushed = 250 * time.Millisecond
	// waking is how long after a fault what it held back still arrives: requests that lay in a frozen process's
	// socket are answered once it wakes.
	waking = time.Second
)

// Object is one state of one payment: what an event tells of.
type Object struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
}

func (o Object) String() string { return fmt.Sprintf("payment %s version %d", o.ID, o.Version) }

// Event is a committed event.
type Event struct {
	Object

	ID         uuid.UUID
	MerchantID string
	Type       string
	Committed  time.Time
	// Bodies are the SHA-256 sums, in hex, of every body that its webhook may rightly have. Where it is empty, as for
	// a service that keeps no events, bodies are not compared.
	Bodies []string
}

// Receipt is a webhook that a merchant has answered 2xx.
type Receipt struct {
	Object

	ID         string // webhook-id
	MerchantID string // whose endpoint it reached
	Type       string
	BodySHA256 string
	At         time.Time
}

// Attempt is one that the ledger has down as answered 2xx.
type Attempt struct {
	EventID    uuid.UUID
	Generation int64
	BodySHA256 string
	Epoch      int64 // of the claim that it was sent under
}

// Window is the time from a fault until everything runs again.
type Window struct {
	Fault string    `json:"fault"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	// OnTheWire says that others went on with the work: what they had delivered is no excuse for the one that wakes.
	OnTheWire bool `json:"on_the_wire,omitempty"`
}

// Sets are what is compared.
type Sets struct {
	Acknowledged []Object // answered 2xx by the API
	Committed    []Event
	Received     []Receipt
	Ledger       []Attempt
	// Generations is how many generations of deliveries an event has, where it is not one: each replay is one more
	// webhook that is meant.
	Generations map[uuid.UUID]int
	Faults      []Window
}

// Duplicate is a webhook that arrived once more than it was meant to.
type Duplicate struct {
	EventID    uuid.UUID     `json:"event_id"`
	Generation int64         `json:"generation"`
	First      time.Time     `json:"first"`
	Again      time.Time     `json:"again"`
	Fault      string        `json:"fault,omitempty"` // the nearest one that it can come from
	Before     time.Duration `json:"-"`               // from First to that fault; negative where the fault was earlier
	// Late says that no fault excuses it: its first 2xx was there more than 250 ms before one.
	Late bool `json:"late,omitempty"`
}

// MarshalJSON writes Before in milliseconds.
func (d Duplicate) MarshalJSON() ([]byte, error) {
	type plain Duplicate
	return json.Marshal(struct {
		plain
		BeforeMS float64 `json:"before_fault_ms"`
	}{plain(d), float64(d.Before.Microseconds()) / 1000})
}

// Verdict is what the comparison found.
type Verdict struct {
	Acknowledged int // different objects
	Committed    int // different events
	Received     int // different events

	// Lost says of each: acknowledged and never committed, or committed and never received.
	Lost []string
	// Phantoms are webhook-ids that were received and never committed.
	Phantoms []string
	// Mismatches are webhooks that differ from their event, or from what the ledger has down.
	Mismatches []string
	Duplicates []Duplicate
	// Disorder says of each version whose first 2xx came before that of an earlier one: a violation where the endpoint wanted
	// an order.
	Disorder []string
}

// Late counts the duplicates that no fault excuses.
func (v Verdict) Late() int {
	n := 0
	for _, d := range v.Duplicates {
		if d.Late {
			n++
		}
	}
	return n
}

// Check compares the sets: acknowledged ⊆ committed ⊆ received, received ⊆ committed, and the contents of each webhook.
func Check(s Sets) Verdict {
	var v Verdict
	committed := make(map[string]Event, len(s.Committed))
	objects := make(map[Object]bool, len(s.Committed))
	for _, e := range s.Committed {
		committed[e.ID.String()] = e
		objects[e.Object] = true
	}
	v.Committed = len(committed)

	acknowledged := make(map[Object]bool, len(s.Acknowledged))
	for _, o := range s.Acknowledged {
		if acknowledged[o] {
			continue
		}
		acknowledged[o] = true
		if !objects[o] {
			v.Lost = append(v.Lost, o.String()+" was acknowledged and never committed")
		}
	}
	v.Acknowledged = len(acknowledged)

	received := make(map[string][]Receipt, len(s.Received))
	for _, r := range s.Received {
		received[r.ID] = append(received[r.ID], r)
	}
	for _, e := range s.Committed {
		if len(received[e.ID.String()]) == 0 {
			v.Lost = append(v.Lost, fmt.Sprintf("event %s of %s was committed and never received", e.ID, e.Object))
		}
	}
	hashes := map[string]map[string]bool{} // by event, of the bodies received
	for id, receipts := range received {
		event, known := committed[id]
		if !known {
			v.Phantoms = append(v.Phantoms, id)
			continue
		}
		v.Received++
		hashes[id] = map[string]bool{}
		for _, r := range receipts {
			hashes[id][r.BodySHA256] = true
			if differs := compare(event, r); differs != "" {
				v.Mismatches = append(v.Mismatches, fmt.Sprintf("event %s: %s", id, differs))
			}
		}
	}
	v.Mismatches = append(v.Mismatches, s.compareLedger(committed, hashes)...)
	v.Duplicates = s.duplicates(committed, received)
	v.Disorder = s.disorder()
	slices.Sort(v.Lost)
	slices.Sort(v.Phantoms)
	slices.Sort(v.Mismatches)
	return v
}

// disorder compares the first 2xx of each payment's versions. Of two at one moment the one that was written down first was
// first.
func (s Sets) disorder() []string {
	type webhook struct {
		merchant string
		Object
	}
	first := map[webhook]int{} // its place in received
	received := slices.Clone(s.Received)
	slices.SortStableFunc(received, func(a, b Receipt) int { return a.At.Compare(b.At) })
	versions := map[webhook][]int64{} // by the webhook without a version
	for i, r := range received {
		key := webhook{r.MerchantID, r.Object}
		if _, again := first[key]; again {
			continue
		}
		first[key] = i
		key.Version = 0
		versions[key] = append(versions[key], r.Version)
	}
	var found []string
	for key, all := range versions {
		slices.Sort(all)
		latest, of := -1, int64(0) // of the versions before
		for _, version := range all {
			key.Version = version
			place := first[key]
			if place < latest {
				found = append(found, fmt.Sprintf("%s was accepted %s before version %d of it",
					key.Object, received[latest].At.Sub(received[place].At), of))
				continue
			}
			latest, of = place, version
		}
	}
	slices.Sort(found)
	return found
}

// compare says how a webhook differs from its event; empty where it does not.
func compare(e Event, r Receipt) string {
	switch {
	case r.MerchantID != e.MerchantID:
		return fmt.Sprintf("it is %s's and reached %s", e.MerchantID, r.MerchantID)
	case r.Object != e.Object:
		return fmt.Sprintf("it is of %s and told of %s", e.Object, r.Object)
	case e.Type != "" && r.Type != e.Type:
		return fmt.Sprintf("it is a %s and came as a %s", e.Type, r.Type)
	case len(e.Bodies) > 0 && !slices.Contains(e.Bodies, r.BodySHA256):
		return fmt.Sprintf("its body (SHA-256 %s) is none that its snapshot and payment make", r.BodySHA256)
	}
	return ""
}

// compareLedger finds 2xx that the ledger has down and that no merchant gave for that body.
func (s Sets) compareLedger(committed map[string]Event, received map[string]map[string]bool) []string {
	var differs []string
	for _, a := range s.Ledger {
		id := a.EventID.String()
		_, known := committed[id]
		switch {
		case !known:
			differs = append(differs, fmt.Sprintf("event %s: the ledger has a 2xx of it, and it was never committed", id))
		case len(received[id]) > 0 && !received[id][a.BodySHA256]:
			differs = append(differs, fmt.Sprintf("event %s: the ledger has a 2xx for a body (SHA-256 %s) that no merchant got", id, a.BodySHA256))
		}
	}
	return differs
}

func (s Sets) duplicates(committed map[string]Event, received map[string][]Receipt) []Duplicate {
	type delivery struct {
		event      string
		generation int64
	}
	twice := map[delivery]int{}
	again := map[string]int64{} // by event, a generation that the ledger itself has two 2xx of
	for _, a := range s.Ledger {
		key := delivery{a.EventID.String(), a.Generation}
		if twice[key]++; twice[key] > 1 {
			again[key.event] = a.Generation
		}
	}
	var found []Duplicate
	for id, receipts := range received {
		event, known := committed[id]
		if !known {
			continue
		}
		slices.SortStableFunc(receipts, func(a, b Receipt) int { return a.At.Compare(b.At) })
		meant := max(1, s.Generations[event.ID])
		for _, r := range receipts[min(meant, len(receipts)):] {
			d := Duplicate{EventID: event.ID, Generation: again[id], First: receipts[0].At, Again: r.At}
			d.Fault, d.Before, d.Late = s.excuse(d.First, d.Again)
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b Duplicate) int {
		return cmp.Or(a.First.Compare(b.First), slices.Compare(a.EventID[:], b.EventID[:]))
	})
	return found
}

// excuse names the fault that a second delivery comes from, and how long before it the first one was answered. The
// nearest counts. Where none excuses it, it is late.
func (s Sets) excuse(first, again time.Time) (fault string, before time.Duration, late bool) {
	late = true
	nearest := time.Duration(-1)
	for _, w := range s.Faults {
		if again.Before(w.From) {
			continue
		}
		ahead := w.From.Sub(first)
		until := w.To
		if w.OnTheWire {
			until = w.From
		}
		excused := ahead <= flushed && !first.After(until.Add(waking))
		better := excused && late    // the first one that excuses it
		sameKind := excused == !late // as the best so far
		if distance := ahead.Abs(); better || (sameKind && (nearest < 0 || distance < nearest)) {
			fault, before, nearest = w.Fault, ahead, distance
		}
		late = late && !excused
	}
	return fault, before, late
}
