package paymentsapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/payment"
)

// createPayment is POST /payments.
func (s *Server) createPayment(w http.ResponseWriter, r *http.Request) error {
	return creation[payment.Draft]{
		read: readDraft, hash: hashPayment, status: http.StatusCreated,
		merchant: func(draft payment.Draft) string { return draft.MerchantID },
		store: func(ctx context.Context, draft payment.Draft, origin payment.Origin) (payment.Answer, error) {
			// Ordered in time, so that the primary key's index grows at its end: a random id dirties a page
			// of its own with each payment.
			var err error
			if draft.ID, err = uuid.NewV7(); err != nil {
				return payment.Answer{}, fmt.Errorf("making a payment's id: %w", err)
			}
			return s.store.Create(ctx, draft, origin)
		},
	}.serve(s, w, r)
}

func readDraft(fields *object) (payment.Draft, error) {
	draft := payment.Draft{
		MerchantID: payment.DefaultMerchantID, Status: payment.DefaultStatus, Metadata: json.RawMessage(`{}`),
	}
	var amount, currency bool
	for name, value := range fields.all {
		switch name {
		case "amount":
			amount = true
			draft.Amount = fields.integer(name, value, 1, payment.MaxAmount, "minor units of the currency, such as 1000 for 10.00 USD")
		case "currency":
			currency = true
			draft.Currency = fields.text(name, value)
			if !payment.ValidCurrency(draft.Currency) {
				fields.refuse(name, "want a currency of ISO 4217 in upper case, such as USD")
			}
		case "merchant_id":
			draft.MerchantID = fields.merchantID(name, value)
		case "status":
			draft.Status = fields.status(name, value)
		case "metadata":
			draft.Metadata = fields.document(name, value, payment.MaxMetadataBytes)
		default:
			fields.refuseUnknown(name)
		}
	}
	if !amount {
		fields.refuse("amount", "is missing")
	}
	if !currency {
		fields.refuse("currency", "is missing")
	}
	return draft, fields.problems()
}

// hashPayment is over what was asked for, not over how it was written: a client that repeats a request may
// order its fields in another way, or say a default.
func hashPayment(d payment.Draft) [sha256.Size]byte {
	return hashRequest("POST /payments", d.MerchantID, fmt.Sprint(d.Amount), d.Currency, string(d.Status), canonical(d.Metadata))
}
