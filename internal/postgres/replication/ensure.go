package replication

import (
	"context"
	"log/slog"
)

// EnsureSlot makes the slot where it is missing or can never be read again, and returns: what commits from then on is in
// its stream, whoever reads it. One that is there is left as it is.
func EnsureSlot(ctx context.Context, cfg Config, log *slog.Logger) error {
	_, _, err := (&slot{cfg: cfg, log: log}).ensure(ctx)
	return err
}
