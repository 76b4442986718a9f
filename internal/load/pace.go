package load

import (
	"context"
	"time"
)

// pace calls start n times at a fixed schedule, at perSecond. It is an open loop: a slow start delays nothing but the
// starts that follow it at once, which are then told how late they are, and the schedule is never stretched.
func pace(ctx context.Context, n int, perSecond float64, start func(i int, late time.Duration)) error {
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range n {
		due := begin.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		start(i, time.Since(due))
	}
	return nil
}
