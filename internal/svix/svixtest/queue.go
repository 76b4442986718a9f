package svixtest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/signing"
)

// Statuses of an attempt. A failed one with a next attempt is not the last.
const (
	succeeded = 0
	failed    = 2
)

// maxAnswerKept is how much of an endpoint's answer is kept.
const maxAnswerKept = 20_000

type attempt struct {
	ID          string     `json:"id"`
	MessageID   string     `json:"msgId"`
	EndpointID  string     `json:"endpointId"`
	URL         string     `json:"url"`
	Response    string     `json:"response"`
	StatusCode  int        `json:"responseStatusCode"`
	DurationMS  int64      `json:"responseDurationMs"`
	Status      int        `json:"status"`
	StatusText  string     `json:"statusText"`
	TriggerType int        `json:"triggerType"`
	Timestamp   time.Time  `json:"timestamp"`
	next        *time.Time // nil where there is none
}

// enqueue queues the message for the endpoints that want it now; there is no task where none does.
func (s *Server) enqueue(app *application, m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var targets []*endpoint
	for _, each := range app.endpoints {
		if each.wants(m.eventType) {
			targets = append(targets, each)
		}
	}
	if len(targets) == 0 {
		return
	}
	task := func() {
		var all sync.WaitGroup
		for _, each := range targets {
			all.Go(func() { s.deliver(app, m, each) })
		}
		all.Wait()
		s.mu.Lock()
		s.pending--
		s.mu.Unlock()
	}
	s.pending++
	if s.held {
		s.backlog = append(s.backlog, task)
		return
	}
	s.start(task)
}

// start runs a task of the queue, unless the server has ended.
func (s *Server) start(task func()) {
	if s.lifetime.Err() == nil {
		s.running.Go(task)
	}
}

// Pending returns how many messages are queued, or have deliveries that are under way or to be tried again.
func (s *Server) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
}

// deliver makes attempts until one succeeds or the schedule is used up. app is nil for what the server tells of itself.
func (s *Server) deliver(app *application, m *message, to *endpoint) {
	for try := 0; ; try++ {
		var delay time.Duration
		more := try < len(s.opts.Retries)
		if more {
			delay = s.opts.Retries[try]
		}
		if s.try(app, m, to, more, delay) || !more {
			return
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-s.lifetime.Done():
			timer.Stop()
			return
		}
	}
}

// try makes one attempt and writes it down when it has ended; it reports whether it was the last.
func (s *Server) try(app *application, m *message, to *endpoint, more bool, delay time.Duration) bool {
	s.mu.Lock()
	url, secret, gone := to.URL, to.secret, to.Disabled || to.deleted
	s.mu.Unlock()
	if gone {
		return true
	}
	start := time.Now()
	code, answer := s.post(s.lifetime, url, secret, m)
	if s.lifetime.Err() != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &attempt{
		ID: newID("atmpt_"), MessageID: m.id, EndpointID: to.ID, URL: url, Response: answer, StatusCode: code,
		DurationMS: time.Since(start).Milliseconds(), Status: failed, StatusText: "fail", Timestamp: s.clock().UTC(),
	}
	if code >= 200 && code <= 299 {
		a.Status, a.StatusText = succeeded, "success"
		to.failingSince = nil
	} else if more {
		next := s.clock().Add(delay).UTC()
		a.next = &next
	}
	m.attempts = append(m.attempts, a)
	if a.Status == failed && !more && app != nil {
		s.exhausted(app, m, to, a)
	}
	return a.Status == succeeded
}

// post sends the message, signed with the time of the attempt.
func (s *Server) post(ctx context.Context, url string, secret signing.Secret, m *message) (int, string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(m.body))
	if err != nil {
		return 0, err.Error()
	}
	now := time.Now()
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Svix-Webhooks/1.100.0 (svixtest)")
	request.Header.Set("Svix-Id", m.id)
	request.Header.Set("Svix-Timestamp", strconv.FormatInt(now.Unix(), 10))
	request.Header.Set("Svix-Signature", signing.Header([]signing.Secret{secret}, m.id, now, m.body))
	response, err := s.merchant.Do(request) //nolint:gosec // likewise
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswerKept)) // the status is what counts
	return response.StatusCode, string(answer)
}

// destinationOut is an endpoint that the message was tried at, with how the last attempt stands.
type destinationOut struct {
	endpointOut
	Status      int        `json:"status"`
	StatusText  string     `json:"statusText"`
	NextAttempt *time.Time `json:"nextAttempt"`
}

func (s *Server) listDestinations(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, m, err := s.foundMessage(r)
	if err != nil {
		return err
	}
	var out []destinationOut
	for _, each := range app.endpoints { // deleted ones, too
		for _, a := range slices.Backward(m.attempts) {
			if a.EndpointID == each.ID {
				out = append(out, destinationOut{each.endpointOut, a.Status, a.StatusText, a.next})
				break
			}
		}
	}
	// Svix reads no more than the limit here, and takes each page for the last one.
	return listAs(w, r, out, func(d destinationOut) string { return d.ID }, true)
}

// listAttempts lists those of the message, or of the endpoint, that the path names; the newest first.
func (s *Server) listAttempts(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*attempt
	if r.PathValue("msg_id") != "" {
		_, m, err := s.foundMessage(r)
		if err != nil {
			return err
		}
		out = slices.Clone(m.attempts)
	} else {
		e, err := s.foundEndpoint(r)
		if err != nil {
			return err
		}
		app := s.application(r.PathValue("app_id"))
		for _, m := range app.messages {
			for _, a := range m.attempts {
				if a.EndpointID == e.ID {
					out = append(out, a)
				}
			}
		}
	}
	if text := r.URL.Query().Get("status"); text != "" {
		out = slices.DeleteFunc(out, func(a *attempt) bool { return strconv.Itoa(a.Status) != text })
	}
	slices.SortStableFunc(out, func(a, b *attempt) int { return b.Timestamp.Compare(a.Timestamp) })
	return list(w, r, out, func(a *attempt) string { return a.ID })
}

func (s *Server) getAttempt(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, m, err := s.foundMessage(r)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(m.attempts, func(a *attempt) bool { return a.ID == r.PathValue("attempt_id") })
	if i < 0 {
		return errNotFound
	}
	writeJSON(w, http.StatusOK, m.attempts[i])
	return nil
}
