package dataservice

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

func (s *Service) payment(w http.ResponseWriter, r *http.Request) {
	id, err := uuid.Parse(chi.URLParam(r, "payment_id"))
	if err != nil {
		httpserver.WriteError(w, r, s.log, fault.InvalidFields(map[string]string{"payment_id": "is not a UUID"}))
		return
	}
	document, err := s.store.Payment(r.Context(), id)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(document, '\n'))
}
