// Package circuit judges endpoints by how their latest requests ended. It knows neither the ledger, which keeps the circuits,
// nor the requests: whoever asks tells it both.
package circuit

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// Window is how far back requests count. It is longer than most time-outs: the failures of a server that hangs come
	// in together, one time-out after they began.
	Window = 30 * time.Second
	// buckets divide the window; what counts is up to one of them more than it.
	buckets = 6
	// Samples is how many requests of a window it takes to judge an endpoint, as in Netflix's Hystrix. Fewer would spare
	// an endpoint that its retry schedule spares already.
	Samples = 20
	// samplesAgain is how many it takes when the circuit has opened since the endpoint was well.
	samplesAgain = 3
	// LongestWait bounds the wait for a probe.
	LongestWait = 5 * time.Minute
)

// Sample is how a request ended.
type Sample struct {
	// Since is when the circuit changed last before the request began, by the ledger: it names a time in the endpoint's
	// life, and requests of an earlier one say nothing about this.
	Since time.Time
	// Opens is how often the circuit has opened since the endpoint was well.
	Opens int
	OK    bool
}

// Verdict says what a sample, together with those before, means for the endpoint's circuit.
type Verdict int

// The verdicts.
const (
	Unchanged Verdict = iota
	Open              // it is to open
	Well              // the endpoint is well: how often the circuit opened is to be forgotten
)

// Watch judges the endpoints of one process. It is safe for concurrent use, and remembers only those with a request in the
// last window or two.
type Watch struct {
	openAt float64

	mu    sync.Mutex
	byID  map[uuid.UUID]*window
	swept time.Time
}

type window struct {
	since  time.Time
	ruled  bool // the verdict is in the ledger: the rest of this time in the endpoint's life is of no interest
	row    int  // failures since the last success
	counts [buckets]bucket
}

type bucket struct {
	number     int64 // since the Unix epoch
	ok, failed int
}

// NewWatch makes a Watch that opens circuits where the share openAt of a window's requests failed, or more, or Samples of them
// in a row; 0 opens none.
func NewWatch(openAt float64) *Watch {
	return &Watch{openAt: openAt, byID: map[uuid.UUID]*window{}}
}

// Observe takes a sample at the time now. A verdict is repeated with each further sample until Ruled.
func (w *Watch) Observe(endpoint uuid.UUID, s Sample, now time.Time) Verdict {
	if w.openAt <= 0 {
		return Unchanged
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweep(now)
	win := w.window(endpoint, s.Since)
	if win == nil {
		return Unchanged
	}
	number := numberOf(now)
	b := &win.counts[number%buckets]
	if b.number != number {
		*b = bucket{number: number}
	}
	if s.OK {
		b.ok++
		win.row = 0
	} else {
		b.failed++
		win.row++
	}
	if win.ruled {
		return Unchanged
	}
	ok, failed := win.count(number)
	few := Samples
	if s.Opens > 0 {
		few = samplesAgain
	}
	switch {
	case !s.OK && w.isBad(few, ok, failed, win.row):
		return Open
	case s.OK && !w.mostFail(ok, failed) && s.Opens > 0 && now.Sub(s.Since) >= Window:
		return Well
	}
	return Unchanged
}

// Stalled says what it means that so many requests, of the time in the endpoint's life that since names, are open for far longer
// than usual, and that nothing was answered since they began: as much as if they had failed. The verdict is repeated until
// Ruled.
func (w *Watch) Stalled(endpoint uuid.UUID, since time.Time, requests int, now time.Time) Verdict {
	if w.openAt <= 0 || requests == 0 {
		return Unchanged
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	win := w.window(endpoint, since)
	if win == nil || win.ruled {
		return Unchanged
	}
	ok, failed := win.count(numberOf(now))
	if w.isBad(Samples, ok, failed+requests, win.row+requests) { // an endpoint that is coming back may be slow at first
		return Open
	}
	return Unchanged
}

// window returns what is known of the time in the endpoint's life that since names, and nil where that is over.
func (w *Watch) window(endpoint uuid.UUID, since time.Time) *window {
	win := w.byID[endpoint]
	switch {
	case win == nil || since.After(win.since):
		win = &window{since: since}
		w.byID[endpoint] = win
	case since.Before(win.since):
		return nil
	}
	return win
}

// isBad reports whether the endpoint fails: by its share of requests, where there are no fewer than few, or by how many failed
// in a row, where it was well until now and the share would say so for half a window.
func (w *Watch) isBad(few, ok, failed, row int) bool {
	return ok+failed >= few && w.mostFail(ok, failed) || min(row, failed) >= Samples
}

func (w *Watch) mostFail(ok, failed int) bool { return float64(failed) >= w.openAt*float64(ok+failed) }

// Ruled ends the verdicts about an endpoint until its circuit changes: what was to be done about the one is done.
func (w *Watch) Ruled(endpoint uuid.UUID, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if win := w.byID[endpoint]; win != nil && win.since.Equal(since) {
		win.ruled = true
	}
}

// Endpoints is how many are remembered.
func (w *Watch) Endpoints() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.byID)
}

// sweep forgets, once a window, who had no request in the last one.
func (w *Watch) sweep(now time.Time) {
	if now.Sub(w.swept) < Window {
		return
	}
	w.swept = now
	for id, win := range w.byID {
		if ok, failed := win.count(numberOf(now)); ok+failed == 0 {
			delete(w.byID, id)
		}
	}
}

func (win *window) count(newest int64) (ok, failed int) { //nolint:nonamedreturns // tells the two apart
	for _, b := range win.counts {
		if b.number > newest-buckets {
			ok, failed = ok+b.ok, failed+b.failed
		}
	}
	return ok, failed
}

func numberOf(now time.Time) int64 { return now.UnixNano() / int64(Window/buckets) }

// Wait is how long an endpoint is spared when its circuit opens, having opened that often since the endpoint was well: first,
// then a quarter more each time, up to LongestWait. So the end of an outage is noticed within about a quarter of its length;
// with doubled waits it could be as long again.
func Wait(first time.Duration, opens int) time.Duration {
	wait := first
	for range opens {
		if wait >= LongestWait {
			break
		}
		wait += wait / 4
	}
	return min(wait, LongestWait)
}
