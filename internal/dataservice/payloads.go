package dataservice

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

// MaxPayloads is how many events one request may ask for.
const MaxPayloads = 256

const (
	maxBody = 64 << 10 // 256 requests take 30 KB
	// firstWait is where the waits for a row start, doubling from there: most rows that were outrun appear
	// within a millisecond or two.
	firstWait = 2 * time.Millisecond
)

func (s *Service) payloads(w http.ResponseWriter, r *http.Request) {
	asked, err := readRequests(w, r)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	answers, err := s.answers(r.Context(), asked)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	for _, each := range answers {
		s.metrics.payloads.WithLabelValues(string(each.Visibility)).Inc()
	}
	w.Header().Set("Content-Type", "application/json")
	writePayloads(w, answers)
}

func readRequests(w http.ResponseWriter, r *http.Request) ([]event.PayloadRequest, error) {
	text, err := httpserver.ReadBody(w, r, maxBody)
	if err != nil {
		return nil, err
	}
	var body struct {
		Events []event.PayloadRequest `json:"events"`
	}
	if err := httpserver.DecodeStrict(bytes.NewReader(text), &body); err != nil {
		return nil, err
	}
	if n := len(body.Events); n == 0 || n > MaxPayloads {
		return nil, fault.InvalidFields(map[string]string{"events": fmt.Sprintf("has %d entries; want 1 to %d", n, MaxPayloads)})
	}
	wrong := map[string]string{}
	for i, each := range body.Events {
		// Without a txid every missing row would pass for a phantom.
		if each.EventID == uuid.Nil {
			wrong[fmt.Sprintf("events[%d].event_id", i)] = "is missing"
		}
		if each.TxID < 1 {
			wrong[fmt.Sprintf("events[%d].txid", i)] = "must be positive"
		}
		if each.MinVersion < 0 {
			wrong[fmt.Sprintf("events[%d].min_version", i)] = "must not be negative"
		}
	}
	return body.Events, fault.InvalidFields(wrong)
}

// answers asks the store, and again for what is not visible yet: the CDC sends a commit once its WAL is
// flushed, which can be before the database shows it to others. What was visible at once is as old as the
// wait when it is sent, which is why the wait is short.
func (s *Service) answers(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	answers, err := s.store.Payloads(ctx, asked)
	if err != nil {
		return nil, err
	}
	left := s.waitForVisible
	for wait := firstWait; left > 0; wait *= 2 {
		var again []event.PayloadRequest
		var places []int
		for i, each := range answers {
			if each.Visibility == event.NotVisible {
				again, places = append(again, asked[i]), append(places, i)
			}
		}
		if len(again) == 0 {
			break
		}
		wait = min(wait, left)
		left -= wait
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("waiting for %d rows to become visible: %w", len(again), ctx.Err())
		case <-timer.C:
		}
		news, err := s.store.Payloads(ctx, again)
		if err != nil {
			return nil, err
		}
		for i, each := range news {
			answers[places[i]] = each
		}
	}
	return answers, nil
}
