package paymentsapi

import (
	"encoding/json"
	"net/http"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

// history is the answer to GET /payments/{id}/history.
type history struct {
	Payment   json.RawMessage  `json:"payment"` // as it is now
	Callbacks []callback.Entry `json:"callbacks"`
}

// getHistory is GET /payments/{id}/history: the payment, and what its provider said about it, in the order in which it came.
func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) error {
	id, err := paymentID(r)
	if err != nil {
		return err
	}
	// The callbacks first, so that the payment is not older than what they did to it.
	entries, err := s.forwarder.PaymentHistory(r.Context(), id)
	if err != nil {
		return err
	}
	ctx, cancel := s.databaseContext(r)
	defer cancel()
	document, err := s.store.Get(ctx, id)
	if err != nil {
		return err
	}
	if entries == nil {
		entries = []callback.Entry{}
	}
	httpserver.WriteJSON(w, http.StatusOK, history{Payment: document, Callbacks: entries})
	return nil
}
