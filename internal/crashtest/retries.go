package crashtest

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// WaitingRetries is what became of retries that waited, all of them, when the workers were killed.
type WaitingRetries struct {
	Waiting int `json:"waiting"` // at the kill, with nothing in flight
	Once    int `json:"once"`    // of them: answered 2xx exactly once after it
	Twice   int `json:"twice"`   // more than once
	Never   int `json:"never"`
	// ByTimer is how many came by the very timer that waited; the reconciler made up for the others.
	ByTimer int `json:"by_timer"`
	// FirstS and LastS are from the kill to the first and the last of them.
	FirstS float64 `json:"first_s"`
	LastS  float64 `json:"last_s"`

	epochs map[uuid.UUID]int64 // of the deliveries, by event, at the kill
	killed time.Time
}

// waitWithRetries lets the quiet merchant refuse hundreds of webhooks, so that their retries wait for some time, and heals
// it. It returns the merchant.
func (r *run) waitWithRetries(ctx context.Context, wait time.Duration) (string, error) {
	merchant := r.merchants[len(r.merchants)-1]
	if err := r.behave(ctx, merchant, `"status":503`); err != nil {
		return "", err
	}
	_, err := r.records.pool.Exec(ctx, `update delivery.endpoints set retry_delays_ms = array_prepend($2::bigint, array_fill(1000::bigint, array[49]))
		where merchant_id = $1`, merchant, wait.Milliseconds())
	if err != nil {
		return "", fmt.Errorf("setting the retries apart: %w", err)
	}
	var posts errgroup.Group
	posts.SetLimit(maxConnections)
	for i := range waitingRetries {
		posts.Go(func() error { return r.clients.pay(ctx, 10_000_000+i, merchant, false) })
	}
	if err := posts.Wait(); err != nil {
		return "", err
	}
	err = await(ctx, "the retries wait", wait, func(ctx context.Context) (bool, error) {
		waiting, err := r.records.waiting(ctx, merchant)
		return len(waiting) >= waitingRetries, err
	})
	if err != nil {
		return "", err
	}
	return merchant, r.behave(ctx, merchant, "")
}

// killWaiting kills every worker while hundreds of retries wait and nothing is in flight.
func (r *run) killWaiting(ctx context.Context, f Fault) error {
	merchant, err := r.waitWithRetries(ctx, killRetryAfter)
	if err != nil {
		return err
	}
	r.gate.Lock()
	defer r.gate.Unlock()
	err = await(ctx, "nothing is in flight", killRetryAfter/2, func(ctx context.Context) (bool, error) {
		p, err := r.records.progress(ctx, r.merchants)
		return p.Planned == p.Committed && p.Open == waitingRetries && p.Retrying == waitingRetries, err
	})
	if err != nil {
		return err
	}
	before, err := r.records.waiting(ctx, merchant)
	if err != nil {
		return err
	}
	var overs []func()
	killed := time.Now()
	r.mu.Lock()
	workers := r.status.WorkerNames()
	r.mu.Unlock()
	for _, name := range workers {
		over, err := r.strike(ctx, name, f.String())
		if err != nil {
			return err
		}
		overs = append(overs, over)
	}
	after, err := r.records.waiting(ctx, merchant)
	if err != nil {
		return err
	}
	if len(before) != waitingRetries || !maps.Equal(before, after) {
		return fmt.Errorf("of %d retries that waited before the kill %d are as they were after it: one was in flight", len(before), len(after))
	}
	r.say("    %d retries wait, nothing is in flight, and every worker is dead", len(after))
	r.mu.Lock()
	r.waiting = &WaitingRetries{Waiting: len(after), epochs: after, killed: killed}
	r.mu.Unlock()
	if err := r.up(ctx); err != nil {
		return err
	}
	for _, over := range overs {
		over()
	}
	return nil
}

// waiting returns the epochs of the merchant's deliveries that only a timer holds, by event.
func (r *records) waiting(ctx context.Context, merchant string) (map[uuid.UUID]int64, error) {
	rows, err := r.pool.Query(ctx, `select event_id, epoch from delivery.deliveries
		where merchant_id = $1 and state = 'retrying' and owner is null and next_attempt_at > clock_timestamp()`, merchant)
	if err != nil {
		return nil, fmt.Errorf("reading the retries that wait: %w", err)
	}
	epochs := map[uuid.UUID]int64{}
	var id uuid.UUID
	var epoch int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &epoch}, func() error { epochs[id] = epoch; return nil }); err != nil {
		return nil, fmt.Errorf("reading the retries that wait: %w", err)
	}
	return epochs, nil
}

// account counts what was received after the kill, and what the ledger says that it came by.
func (w *WaitingRetries) account(received []Receipt, ledger []Attempt) {
	times := map[string]int{}
	for _, receipt := range received {
		id, err := uuid.Parse(receipt.ID)
		if _, ours := w.epochs[id]; err != nil || !ours || receipt.At.Before(w.killed) {
			continue
		}
		since := seconds(receipt.At.Sub(w.killed))
		if len(times) == 0 || since < w.FirstS {
			w.FirstS = since
		}
		w.LastS = max(w.LastS, since)
		times[receipt.ID]++
	}
	w.Once, w.Twice, w.Never, w.ByTimer = 0, 0, 0, 0
	for id := range w.epochs {
		switch times[id.String()] {
		case 0:
			w.Never++
		case 1:
			w.Once++
		default:
			w.Twice++
		}
	}
	for _, attempt := range ledger {
		// A timer's claim raises the epoch once. A takeover raises it before its own claim does.
		if epoch, ours := w.epochs[attempt.EventID]; ours && attempt.Epoch == epoch+1 {
			w.ByTimer++
		}
	}
}
