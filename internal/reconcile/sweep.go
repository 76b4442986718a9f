package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/svix"
)

// svixStatus tells what has become of what was handed over to Svix.
type svixStatus interface {
	Status(ctx context.Context, merchantID string, message svix.Message) (svix.Standing, svix.Result, bool)
	// Check is an svix.ErrRefused where Svix takes nothing from this deployment.
	Check(ctx context.Context) error
}

// Bounds of the sweep, which asks Svix what has become of what it has.
const (
	// A round begins every sweepEvery at most, and looks at sweepAtOnce deliveries at most, sweepAside of them at a time: what
	// is due beyond that waits for the next one.
	sweepEvery  = time.Second
	sweepAtOnce = 500
	sweepAside  = 16
	// A round ends after so many failures without an answer in between, and the next one waits: Svix is away.
	sweepPatience = 8
	sweepPause    = 10 * time.Second
	// mendingPause is the wait after Svix has refused the token.
	mendingPause = 30 * time.Second
	// Between two looks at a delivery passes half of the time that Svix has had it, within these; or the time until Svix makes
	// its next attempt, and an answer's.
	soonestLook = 5 * time.Second
	latestLook  = 5 * time.Minute
	rarestLook  = time.Hour
	answerTime  = 5 * time.Second
	// writeAtOnce is how many verdicts are written down together, while others are asked about.
	writeAtOnce = 64
	// longestHeld is how long Svix may have a delivery without saying what became of it. Its own schedule is above a day.
	longestHeld = 7 * 24 * time.Hour
	// ripening is how old a sign must be that Svix's queue moves until it counts against a message that shows no attempt: within
	// it ends what was taken from the queue before, also what a worker of Svix's dropped.
	ripening = 5 * time.Minute
)

// signs are what the sweep of one leader knows of Svix's queue. Of a message that shows no attempt they tell whether the queue
// lost it, or stands still with all that is in it.
type signs struct {
	// newest is when the newest delivery was planned that shows an attempt: Svix took it later, or then.
	newest time.Time
	// held is what newest was at heldAt, and ripe is at least a ripening old.
	held, ripe time.Time
	heldAt     time.Time
}

func (s *signs) see(of delivery.HandedOverDelivery) {
	if of.PlannedAt.After(s.newest) {
		s.newest = of.PlannedAt
	}
}

func (s *signs) age(now time.Time) {
	if now.Sub(s.heldAt) >= ripening {
		s.ripe, s.held, s.heldAt = s.held, s.newest, now
	}
}

// overtook reports whether the queue has gone on to what was put there after the delivery.
func (s *signs) overtook(of delivery.HandedOverDelivery) bool { return s.ripe.After(of.HeldAt) }

// AskSvix has Run sweep over what is handed over, and ask s about it. Without it those deliveries stay as they are. Call it
// before Run.
func (r *Reconciler) AskSvix(s svixStatus) { r.svix = s }

// sweep asks Svix what has become of what it has, until ctx ends. It has a pace of its own: a merchant's answer is to be seen
// within seconds.
func (r *Reconciler) sweep(ctx context.Context) {
	var seen signs
	for ctx.Err() == nil {
		began := time.Now()
		seen.age(began)
		pause, err := r.sweepOnce(ctx, &seen)
		if err != nil && ctx.Err() == nil {
			r.metrics.failures.WithLabelValues("svix").Inc()
			r.log.LogAttrs(ctx, slog.LevelWarn, "a look of the reconciler failed", slog.String("part", "svix"), logging.Error(err))
		}
		select {
		case <-time.After(max(pause, sweepEvery-time.Since(began))):
		case <-ctx.Done():
		}
	}
}

// sweepOnce is a round. It returns how long to leave Svix alone.
func (r *Reconciler) sweepOnce(ctx context.Context, seen *signs) (time.Duration, error) {
	due, err := r.ledger.HandedOver(ctx, sweepAtOnce)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	round := &round{r: r, seen: seen, looks: make(chan look, sweepAside)}
	asking, stop := context.WithCancel(svix.Remember(ctx))
	defer stop()
	round.stop = stop
	go round.ask(asking, due)
	return round.settle(ctx)
}

// round is one of the sweep: one goroutine settles what the others were told.
type round struct {
	r     *Reconciler
	seen  *signs
	stop  context.CancelFunc // of asking
	looks chan look          // closed when nobody asks any more

	failures int // since the last answer
	lost     int
	pause    time.Duration
}

// look is what Svix said about a delivery.
type look struct {
	of       delivery.HandedOverDelivery
	standing svix.Standing
	failed   svix.Result
	ok       bool
	// refused says that Svix refuses not only this.
	refused bool
}

// ask asks about the deliveries, several at a time.
func (o *round) ask(ctx context.Context, due []delivery.HandedOverDelivery) {
	defer close(o.looks)
	// One merchant's or one message's refusal must not stop the others: only Svix's word about all of them does.
	refused := sync.OnceValue(func() bool { return errors.Is(o.r.svix.Check(ctx), svix.ErrRefused) })
	var asking sync.WaitGroup
	defer asking.Wait()
	slots := make(chan struct{}, sweepAside)
	for _, each := range due {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		asking.Go(func() {
			defer func() { <-slots }()
			l := look{of: each}
			l.standing, l.failed, l.ok = o.r.svix.Status(ctx, each.MerchantID, svix.Message{EventID: each.EventID, Generation: each.Generation, EventType: each.EventType})
			l.refused = !l.ok && l.failed.Class == svix.Unauthorized && refused()
			if l.ok || ctx.Err() == nil {
				o.looks <- l
			}
		})
	}
}

// settle writes down what the looks say, until there are none to come. When the ledger fails it goes on without writing: what
// is not written down is looked at again.
func (o *round) settle(ctx context.Context) (time.Duration, error) {
	var (
		verdicts []delivery.SvixVerdict
		failed   error
	)
	write := func() {
		if failed == nil && len(verdicts) > 0 {
			if failed = o.write(ctx, verdicts); failed != nil {
				o.stop()
			}
		}
		verdicts = nil
	}
	for l := range o.looks {
		if v, known := o.verdict(l); known {
			verdicts = append(verdicts, v)
		}
		if len(verdicts) >= writeAtOnce {
			write()
		}
	}
	write()
	return o.pause, failed
}

func (o *round) write(ctx context.Context, verdicts []delivery.SvixVerdict) error {
	lost, err := o.r.ledger.SettleHandedOver(ctx, verdicts)
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		if v.Cause != "" {
			o.r.metrics.svixLooks.WithLabelValues(string(v.Cause)).Inc()
		}
	}
	if len(lost) == 0 {
		return nil
	}
	o.r.log.LogAttrs(ctx, slog.LevelError, "Svix lost deliveries: they are handed over again", slog.Int("deliveries", len(lost)))
	o.r.metrics.redriven.WithLabelValues("svix_lost").Add(float64(len(lost)))
	return o.r.sendAttempts(ctx, lost)
}

// verdict says what a look means for its delivery. What Svix tells nothing about stays as it is.
func (o *round) verdict(l look) (delivery.SvixVerdict, bool) {
	if l.ok {
		o.failures = 0
		v := verdict(l, o.seen)
		if v.State == delivery.Retrying {
			if o.lost >= max(1, o.r.cfg.Rate) {
				return v, false // in the next round
			}
			o.lost++
		}
		return v, true
	}
	o.r.metrics.svixLooks.WithLabelValues(string(l.failed.Cause)).Inc()
	o.failures++
	switch {
	case l.refused:
		o.pause = mendingPause
		o.stop()
	case o.failures >= sweepPatience:
		o.pause = max(o.pause, sweepPause)
		o.stop()
	default: // one that Svix fails for must not be in the way of the others
		return delivery.SvixVerdict{Of: l.of, State: delivery.HandedOver, LookIn: nextLook(l.of.Held)}, true
	}
	return delivery.SvixVerdict{}, false
}

// verdict says what a standing means for its delivery.
func verdict(l look, seen *signs) delivery.SvixVerdict {
	out := delivery.SvixVerdict{Of: l.of, State: delivery.HandedOver, LookIn: nextLook(l.of.Held)}
	switch l.standing.Fate {
	case svix.Delivered:
		seen.see(l.of)
		out.State, out.Cause = delivery.Succeeded, delivery.CauseOK
	case svix.Exhausted:
		seen.see(l.of)
		out.State, out.Cause = delivery.Dead, delivery.CauseSvixExhausted
	case svix.Unwanted:
		out.State, out.Cause = delivery.Succeeded, delivery.CauseSvixUnwanted
	case svix.NoEndpoint:
		out.State, out.Cause = delivery.Dead, delivery.CauseSvixNoEndpoint
	case svix.Lost:
		out.State, out.Cause = delivery.Retrying, delivery.CauseSvixLost
	case svix.Failing:
		seen.see(l.of)
		out.Cause = delivery.CauseSvixFailing
		if l.standing.Next > 0 {
			out.LookIn = min(max(l.standing.Next+answerTime, soonestLook), rarestLook)
		}
	case svix.Silent:
		out.Cause = delivery.CauseSvixAccepted
		if seen.overtook(l.of) {
			out.State, out.Cause = delivery.Retrying, delivery.CauseSvixLost
		}
	case svix.Unanswered:
		out.Cause = delivery.CauseSvixAccepted
	}
	if out.State == delivery.HandedOver && l.of.Held > longestHeld {
		out.State, out.Cause = delivery.Dead, delivery.CauseSvixSilent
	}
	if out.State != delivery.HandedOver {
		out.LookIn = 0
	}
	return out
}

// nextLook is the time until the next look at what Svix has had for so long.
func nextLook(held time.Duration) time.Duration { return min(max(held/2, soonestLook), latestLook) }
