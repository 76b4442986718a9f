package paymentsapi

import (
	"net/http"

	"github.com/hookline/hookline/internal/payment"
)

// updatePayment is PATCH /payments/{id}: a change of status. It needs no idempotency key, as a repeated one
// finds the payment where it wants it.
func (s *Server) updatePayment(w http.ResponseWriter, r *http.Request) error {
	id, err := paymentID(r)
	if err != nil {
		return err
	}
	fields, err := readObject(w, r)
	if err != nil {
		return err
	}
	next, err := readStatus(fields)
	if err != nil {
		return err
	}
	ctx, cancel := s.databaseContext(r)
	defer cancel()
	document, err := s.store.ChangeStatus(ctx, id, next, traceparent(r))
	if err != nil {
		return err
	}
	writeDocument(w, http.StatusOK, document)
	return nil
}

func readStatus(fields *object) (payment.Status, error) {
	var status payment.Status
	var given bool
	for name, value := range fields.all {
		if name != "status" {
			fields.refuseUnknown(name)
			continue
		}
		given = true
		status = fields.status(name, value)
	}
	if !given {
		fields.refuse("status", "is missing")
	}
	return status, fields.problems()
}
