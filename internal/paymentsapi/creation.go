package paymentsapi

import (
	"context"
	"crypto/sha256"
	"net/http"

	"github.com/hookline/hookline/internal/payment"
)

// creation is a POST that writes a T, once however often it is sent with one idempotency key.
type creation[T any] struct {
	read   func(*object) (T, error)
	hash   func(T) [sha256.Size]byte // tells one request from another under the same key
	store  func(context.Context, T, payment.Origin) (payment.Answer, error)
	status int // what was written is answered with
	// merchant is whose it is.
	merchant func(T) string
}

func (c creation[T]) serve(s *Server, w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	fields, err := readObject(w, r)
	if err != nil {
		return err
	}
	asked, err := c.read(fields)
	if err != nil {
		return err
	}
	origin := payment.Origin{Traceparent: traceparent(r), IdempotencyKey: key}
	if key != "" {
		origin.RequestHash = c.hash(asked)
	}

	ctx, cancel := s.databaseContext(r)
	defer cancel()
	waited, err := s.turns.wait(ctx, c.merchant(asked))
	if waited {
		s.metrics.waits.Inc()
	}
	if err != nil {
		return err
	}
	answer, err := c.store(ctx, asked, origin)
	if err != nil {
		return err
	}
	if answer.ID != "" {
		w.Header().Set("Location", "/payments/"+answer.ID)
	}
	if answer.Replayed {
		w.Header().Set(headerReplayed, "true")
	}
	writeDocument(w, c.status, answer.Document)
	return nil
}
