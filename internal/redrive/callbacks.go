package redrive

import (
	"context"
	"slices"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
)

// callbackDriver has a callback decided about again, and returns what became of it: nothing yet where payments-api is away.
// A fault.Conflict says that it is as dead as it was.
type callbackDriver interface {
	RedriveCallback(ctx context.Context, record int64) (callback.Outcome, error)
}

func isCallback(record delivery.Buried) bool {
	return slices.Contains(delivery.CallbackReasons(), record.Reason)
}

// callback has the present code, and the payment as it is now, decide about the callback. It is verified no more: that was
// done before it came into the ledger, and the secret of then may be gone.
func (r *Redriver) callback(ctx context.Context, record delivery.Buried) (string, error) {
	outcome, err := r.driver.RedriveCallback(ctx, record.ID)
	switch {
	case err != nil:
		return "", err
	case outcome == "":
		return "payments-api is away: the callback is decided about when it is back", nil
	default:
		return "the callback was decided about: " + string(outcome), nil
	}
}
