package load

import (
	"context"
	"time"
)

// Settle waits until count has reached want, or has not moved for as long as patience. It returns whether it reached it.
// It asks every interval.
func Settle(ctx context.Context, count func() int, want int, interval, patience time.Duration) (bool, error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	best, moved := -1, time.Now()
	for {
		now := count()
		if now >= want {
			return true, nil
		}
		if now > best {
			best, moved = now, time.Now()
		} else if time.Since(moved) >= patience {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick.C:
		}
	}
}

// Wait waits for d, unless ctx ends first, which is its only error.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
