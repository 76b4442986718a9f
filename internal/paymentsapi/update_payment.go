package paymentsapi

import (
	"math"
	"net/http"

	"github.com/hookline/hookline/internal/payment"
)

// updatePayment is PATCH /payments/{id}: a change of status, with if_version only of the payment at that version. It needs no
// idempotency key, as a repeated one finds the payment where it wants it.
func (s *Server) updatePayment(w http.ResponseWriter, r *http.Request) error {
	id, err := paymentID(r)
	if err != nil {
		return err
	}
	fields, err := readObject(w, r)
	if err != nil {
		return err
	}
	next, version, err := readChange(fields)
	if err != nil {
		return err
	}
	ctx, cancel := s.databaseContext(r)
	defer cancel()
	document, err := s.store.ChangeStatus(ctx, id, version, next, traceparent(r))
	if err != nil {
		return err
	}
	writeDocument(w, http.StatusOK, document)
	return nil
}

// readChange returns version 0 where none is given.
func readChange(fields *object) (next payment.Status, version int64, err error) {
	var given bool
	for name, value := range fields.all {
		switch name {
		case "status":
			given = true
			next = fields.status(name, value)
		case "if_version":
			version = fields.integer(name, value, 1, math.MaxInt64, "the version that the payment has to have")
		default:
			fields.refuseUnknown(name)
		}
	}
	if !given {
		fields.refuse("status", "is missing")
	}
	return next, version, fields.problems()
}
