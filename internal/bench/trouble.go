package bench

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
)

// kind is how an endpoint of the load treats its webhooks.
type kind int

const (
	healthy kind = iota
	hanging      // takes the request, and never answers
	failing      // answers 500
)

func (k kind) String() string { return [...]string{"healthy", "hanging", "failing"}[k] }

// ParseShare reads a share that a user gives: 20%, or 0.2.
func ParseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share >= 0 && share < 1) {
		return 0, fmt.Errorf("a share is less than all, as 20%% or 0.2, not %q", text)
	}
	return share, nil
}

// kinds says how each of n endpoints is. Those of a kind lie evenly among the others, and there is one at least where the
// share is not 0.
func kinds(n int, hangingShare, failingShare float64) []kind {
	all := make([]kind, n)
	spread := func(k kind, share float64, among []int) (rest []int) {
		count := int(math.Round(share * float64(n)))
		if share > 0 {
			count = max(1, count)
		}
		for i, at := range among {
			if count*(i+1)/len(among) > count*i/len(among) {
				all[at] = k
			} else {
				rest = append(rest, at)
			}
		}
		return rest
	}
	among := make([]int, n)
	for i := range among {
		among[i] = i
	}
	spread(failing, failingShare, spread(hanging, hangingShare, among))
	return all
}

// Troubled is what came of the endpoints of one kind that do not take their webhooks. Nothing of theirs is delivered:
// everything has to be in the ledger.
type Troubled struct {
	Kind      string `json:"kind"` // hanging or failing
	Endpoints int    `json:"endpoints"`
	Created   int    `json:"created"` // events that were committed for them
	// States counts those events' deliveries at the end of the run, as the ledger has them.
	States      map[delivery.State]int `json:"states"`
	Unaccounted int                    `json:"unaccounted"` // of the created: not in the ledger
	// Attempts are the requests that came, to all of them; the rest is of the one that got the most.
	Attempts          int `json:"attempts"`
	MostOfOne         int `json:"attempts_most_of_one"`
	MostOfOnePerS     int `json:"attempts_most_of_one_per_s"`
	MostOpenAtOnce    int `json:"open_at_once_most_of_one"`
	MostOfOneLatePerM int `json:"attempts_most_of_one_in_last_60_s"`
	// Circuits counts the endpoints by the state of their circuit at the end of the run.
	Circuits map[delivery.Circuit]int `json:"circuits"`
	// OpenedAfterS is when the last of them had its circuit opened first, in seconds; null where one's never did.
	OpenedAfterS *float64 `json:"circuits_opened_after_s"`
	// AttemptsOpen are the requests that came since then, from 1 s after each circuit's opening: a request begins up to 1 s
	// after it was decided. Probes is how many the circuits allowed: one for each time that one opened again, or is half open.
	AttemptsOpen int `json:"attempts_since_opened"`
	Probes       int `json:"probes"`
}

// startsWithin is how long after it was decided a request may begin.
const startsWithin = time.Second

// circuitInterval is how often circuits are looked at.
const circuitInterval = 500 * time.Millisecond

// circuitWatch notes when circuits open first.
type circuitWatch struct {
	stop   func()
	opened map[uuid.UUID]time.Time
	err    error
}

// watchCircuits looks until the watch is stopped, on a connection of its own. What it has seen is to be read after that; to
// stop it again does nothing.
func watchCircuits(ctx context.Context, dsn string, endpoints []uuid.UUID) (*circuitWatch, error) {
	w := &circuitWatch{stop: func() {}, opened: map[uuid.UUID]time.Time{}}
	if len(endpoints) == 0 {
		return w, nil
	}
	db, err := load.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	looking, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		defer func() { _ = db.Close(context.WithoutCancel(ctx)) }() // it only reads
		tick := time.NewTicker(circuitInterval)
		defer tick.Stop()
		for {
			circuits, err := db.Circuits(looking, endpoints)
			if err != nil {
				if looking.Err() == nil {
					w.err = err
				}
				return
			}
			w.note(circuits)
			select {
			case <-looking.Done():
				return
			case <-tick.C:
			}
		}
	})
	w.stop = func() { cancel(); ended.Wait() }
	return w, nil
}

func (w *circuitWatch) note(circuits []load.Backlog) {
	for _, each := range circuits {
		if _, known := w.opened[each.EndpointID]; !known && each.Circuit != delivery.CircuitClosed {
			w.opened[each.EndpointID] = each.ChangedAt
		}
	}
}

// tally counts the requests at one endpoint. It is safe for concurrent use.
type tally struct {
	mu             sync.Mutex
	came           []time.Time
	open, mostOpen int
}

func (t *tally) begin(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came = append(t.came, now)
	t.open++
	t.mostOpen = max(t.mostOpen, t.open)
}

func (t *tally) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// now is how many are open.
func (t *tally) now() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open
}

// add puts one endpoint's count into that of its kind. until is when the run ended.
func (r *Troubled) add(t *tally, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	late, first := 0, 0
	for i, at := range t.came {
		if until.Sub(at) <= time.Minute {
			late++
		}
		for at.Sub(t.came[first]) >= time.Second {
			first++
		}
		r.MostOfOnePerS = max(r.MostOfOnePerS, i-first+1)
	}
	r.Attempts += len(t.came)
	r.MostOfOne = max(r.MostOfOne, len(t.came))
	r.MostOpenAtOnce = max(r.MostOpenAtOnce, t.mostOpen)
	r.MostOfOneLatePerM = max(r.MostOfOneLatePerM, late)
}

// since counts the requests that came after a time.
func (t *tally) since(from time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, at := range t.came {
		if at.After(from) {
			n++
		}
	}
	return n
}

// spare adds what the circuits had to do with it; circuits are as they were before the requests were counted, and tallies
// those of the same endpoints.
func (r *Troubled) spare(began time.Time, opened map[uuid.UUID]time.Time, circuits []load.Backlog, tallies []*tally) {
	last := began
	for i, each := range circuits {
		at, did := opened[each.EndpointID]
		if !did {
			last = time.Time{}
			continue
		}
		if !last.IsZero() && at.After(last) {
			last = at
		}
		r.AttemptsOpen += tallies[i].since(at.Add(startsWithin))
		r.Probes += max(0, each.Opens-1)
		if each.Circuit == delivery.CircuitHalfOpen {
			r.Probes++
		}
	}
	if !last.IsZero() && len(circuits) > 0 {
		after := load.Round(last.Sub(began).Seconds(), 1)
		r.OpenedAfterS = &after
	}
}

// account adds what the ledger says of so many events.
func (r *Troubled) account(created int, states map[delivery.State]int, backlogs []load.Backlog) {
	r.Created, r.States, r.Circuits = created, states, map[delivery.Circuit]int{}
	for _, each := range backlogs {
		r.Circuits[each.Circuit]++
	}
	r.Unaccounted = created
	for _, n := range states {
		r.Unaccounted -= n
	}
}
