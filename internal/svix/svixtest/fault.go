package svixtest

import (
	"context"
	"net/http"
	"time"
)

// Moment is where in the making of a message a fault strikes.
type Moment int

// The moments, in their order.
const (
	BeforeCommit  Moment = iota + 1 // nothing is stored
	AfterCommit                     // stored, and never queued: an orphan
	AfterQueueing                   // queued, and its answer not kept
	AfterCaching                    // done, and its answer kept, but not sent
)

// Fault strikes one request that creates a message.
type Fault struct {
	At Moment
	// Status answers the request with this status, and an empty object, as the server does with what went wrong inside.
	// 0 is a crash: the connection is cut.
	Status int
	// RetryAfter is the header of that answer.
	RetryAfter string
	// Delay passes before, and shorter with the request's end. With it alone, and no Moment, a request is only slow.
	Delay time.Duration
}

type faultKey struct{}

// Inject has the next messages that are created meet with faults, one each. A request that is answered from the
// idempotency cache creates none.
func (s *Server) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// Heal drops the faults that have not struck.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// nextFault takes the fault of a request that creates a message.
func (s *Server) nextFault(r *http.Request) {
	s.mu.Lock()
	var fault Fault
	if len(s.faults) > 0 {
		fault, s.faults = s.faults[0], s.faults[1:]
	}
	s.mu.Unlock()
	if slot, ok := r.Context().Value(faultKey{}).(*Fault); ok {
		*slot = fault
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		case <-s.lifetime.Done():
		}
	}
}

// withFault gives the request a place for its fault, as the layer around the API has one of the moments.
func withFault(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), faultKey{}, new(Fault)))
}

// strike answers the request, or cuts its connection, where its fault is due; it reports whether it did.
func (s *Server) strike(r *http.Request, at Moment, w http.ResponseWriter) bool {
	fault, ok := r.Context().Value(faultKey{}).(*Fault)
	if !ok || fault.At != at {
		return false
	}
	if fault.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	if fault.RetryAfter != "" {
		w.Header().Set("Retry-After", fault.RetryAfter)
	}
	if fault.Status == http.StatusTooManyRequests {
		writeJSON(w, fault.Status, map[string]any{"code": "rate_limit", "detail": "Too many requests"})
	} else {
		writeJSON(w, fault.Status, struct{}{})
	}
	return true
}

// Intercept has every request answered by answer where that returns true; nil ends it. A handler may hang, or break HTTP.
func (s *Server) Intercept(answer func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = answer
}

// SetTokens replaces the tokens that are taken.
func (s *Server) SetTokens(tokens ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = tokens
}

// Advance puts the server's clock forward: messages grow older, and kept answers end. Retries and signatures go by the
// real clock.
func (s *Server) Advance(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += by
}

// LoseCache forgets all idempotency keys, as a server does that restarts with its cache in memory.
func (s *Server) LoseCache() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.answers)
}

// RaceApplication has the next get-or-create of an application that is not there lose against another one: between the look
// and the insert somebody else creates it.
func (s *Server) RaceApplication() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.race++
}

// Hold keeps what is queued from being delivered, as a stalled worker does, until Release.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// Release ends Hold.
func (s *Server) Release() {
	s.mu.Lock()
	s.held = false
	backlog := s.backlog
	s.backlog = nil
	s.mu.Unlock()
	for _, task := range backlog {
		s.start(task)
	}
}

// LoseQueue drops what Hold kept back, as a queue does that loses its store.
func (s *Server) LoseQueue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending -= len(s.backlog)
	s.backlog = nil
}

// Requests returns how many requests reached each operation, such as "POST /api/v1/app/{app_id}/msg". Those that were
// refused their token or answered from the idempotency cache did not.
func (s *Server) Requests(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[operation]
}
