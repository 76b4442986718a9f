package dispatch

import (
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

const (
	// watchFrom is how many requests to an endpoint have to be open that have outlived their steps for a further one's watchdog to
	// be sent with others. Those before it are in the journals of their steps.
	watchFrom = 3
	// watchShare is the part of its delay by which a watchdog that goes with others may be later, and that it waits for them.
	watchShare = 4
)

// watches gathers the watchdogs of requests to endpoints that hang. There each delivery would make one, and each an
// invocation when it is due, and another for the next attempt; gathered they are one list, and stay one.
//
// Until a list is at Restate its deliveries have no timer but the one in the ledger: should the process die, they are
// overdue when their watchdog would have come, and the reconciler's. One that is told to end tries once to send what it
// has. It is safe for concurrent use.
type watches struct {
	mu   sync.Mutex
	open map[watchKey]*watch
}

type watchKey struct {
	endpoint uuid.UUID
	number   int
}

type watch struct {
	list delivery.AttemptList
	due  time.Time // when the first of them is; the others would have been by then, had each gone by itself
	full chan struct{}
}

func newWatches() *watches { return &watches{open: map[watchKey]*watch{}} }

// goesTogether reports whether the watchdog of one more request to the endpoint goes with others.
func (d *Dispatcher) goesTogether(endpoint uuid.UUID) bool {
	return d.cfg.WatchFunc != nil && d.exchanges.overdueAt(endpoint) > watchFrom
}

// watch takes the watchdogs over that follow from the lines and go with others, and marks the lines.
func (d *Dispatcher) watch(lines []Line, together map[delivery.Key]bool) {
	for i := range lines {
		line := &lines[i]
		// One that the ledger did not take may have no timer there: its watchdog is in the journal.
		if line.Cause == delivery.CauseOpen && !line.Unrecorded && together[line.key()] {
			d.watchLine(*line)
			line.Watched = true
		}
	}
}

func (d *Dispatcher) watchLine(line Line) {
	ticket := delivery.Ticket{EventID: line.EventID, Generation: line.Generation, Epoch: line.Epoch}
	key := watchKey{line.EndpointID, line.Next}
	d.watches.mu.Lock()
	defer d.watches.mu.Unlock()
	w, found := d.watches.open[key]
	if !found {
		in := time.Duration(line.RetryInMS) * time.Millisecond
		w = &watch{
			list: delivery.AttemptList{EndpointID: line.EndpointID, Number: line.Next}, due: time.Now().Add(in), full: make(chan struct{}),
		}
		d.watches.open[key] = w
		d.running.Go(func() { d.sendWatch(key, w, in/(watchShare+1)) })
	}
	w.list.Tickets = append(w.list.Tickets, ticket)
	if len(w.list.Tickets) == delivery.MaxTickets {
		delete(d.watches.open, key)
		close(w.full)
	}
}

// sendWatch sends the list when it is full, or others have been waited for.
func (d *Dispatcher) sendWatch(key watchKey, w *watch, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.full:
	case <-d.closing.Done():
	}
	d.watches.mu.Lock()
	if d.watches.open[key] == w {
		delete(d.watches.open, key)
	}
	d.watches.mu.Unlock()
	d.insist(func() bool {
		err := d.cfg.WatchFunc(d.lifetime, w.list, max(0, time.Until(w.due)))
		if err == nil || d.closing.Err() != nil { // the ledger knows when they are due, and the reconciler drives what is overdue
			return true
		}
		d.log.LogAttrs(d.lifetime, slog.LevelWarn, "watchdogs wait for Restate", slog.String("endpoint_id", key.endpoint.String()),
			slog.Int("deliveries", len(w.list.Tickets)), logging.Error(err))
		return false
	})
}
