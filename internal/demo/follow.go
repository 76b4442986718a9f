package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/hookline/hookline/internal/load"
)

// look is how far a scenario is: since its beginning, in a line, and whether all of what was created has come to its end.
type look struct {
	seconds float64
	line    string
	settled bool
}

// follow looks again and again until everything has come to its end, or nothing has happened for too long, and tells of what
// changed.
func (o Options) follow(ctx context.Context, created <-chan struct{}, lookFunc func(context.Context) (look, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last string
	var said time.Time
	for moved := time.Now(); ; {
		complete := false // asked before the look, which then sees all there will ever be
		select {
		case <-created:
			complete = true
		default:
		}
		now, err := lookFunc(ctx)
		if err != nil {
			return err
		}
		settled := complete && now.settled
		if now.line != last {
			moved = time.Now()
			if settled || moved.Sub(said) >= telling {
				last, said = now.line, moved
				fmt.Fprintf(o.Out, "  %5.1f s  %s\n", now.seconds, now.line)
			}
		}
		if settled {
			return load.Wait(ctx, trailing)
		}
		if complete && time.Since(moved) >= o.patience {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
