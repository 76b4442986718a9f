package paymentsapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/fault"
)

// getPayment is GET /payments/{id}.
func (s *Server) getPayment(w http.ResponseWriter, r *http.Request) error {
	id, err := paymentID(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.databaseContext(r)
	defer cancel()
	document, err := s.store.Get(ctx, id)
	if err != nil {
		return err
	}
	writeDocument(w, http.StatusOK, document)
	return nil
}

func paymentID(r *http.Request) (uuid.UUID, error) {
	text := chi.URLParam(r, "id")
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(uuid.Nil.String()) { // Parse takes braces and urn: too
		return uuid.Nil, fault.New(fault.Malformed, "the payment's id in the path is not a UUID")
	}
	return id, nil
}
