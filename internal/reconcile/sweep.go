package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/svix"
)

// svixStatus tells what has become of what was handed over to Svix.
type svixStatus interface {
	Status(ctx context.Context, merchantID string, message svix.Message) (svix.Fate, svix.Result, bool)
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
	// Between two looks at a delivery passes half of its age, within these.
	soonestLook = 5 * time.Second
	latestLook  = 5 * time.Minute
)

// AskSvix has Run sweep over what is handed over, and ask s about it. Without it those deliveries stay as they are. Call it
// before Run.
func (r *Reconciler) AskSvix(s svixStatus) { r.svix = s }

// sweep asks Svix what has become of what it has, until ctx ends. It has a pace of its own: a merchant's answer is to be seen
// within seconds.
func (r *Reconciler) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		pause, err := r.sweepOnce(ctx)
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
func (r *Reconciler) sweepOnce(ctx context.Context) (time.Duration, error) {
	due, err := r.ledger.HandedOver(ctx, sweepAtOnce)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	verdicts, pause := r.askAll(ctx, due)
	if len(verdicts) == 0 {
		return pause, nil
	}
	lost, err := r.ledger.SettleHandedOver(ctx, verdicts)
	if err != nil || len(lost) == 0 {
		return pause, err
	}
	r.log.LogAttrs(ctx, slog.LevelError, "Svix lost deliveries: they are handed over again", slog.Int("deliveries", len(lost)))
	r.metrics.redriven.WithLabelValues("svix_lost").Add(float64(len(lost)))
	return pause, r.sendAttempts(ctx, lost)
}

// askAll asks about the deliveries, and returns what it found out. What Svix tells nothing about stays as it is.
func (r *Reconciler) askAll(ctx context.Context, due []delivery.HandedOverDelivery) ([]delivery.SvixVerdict, time.Duration) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu       sync.Mutex
		verdicts []delivery.SvixVerdict
		failures int
		pause    time.Duration
		asking   sync.WaitGroup
		slots    = make(chan struct{}, sweepAside)
	)
	note := func(of delivery.HandedOverDelivery, fate svix.Fate, failed svix.Result, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if !ok && ctx.Err() != nil {
			return
		}
		if ok {
			failures = 0
			r.metrics.svixLooks.WithLabelValues(string(verdict(of, fate).Cause)).Inc()
			verdicts = append(verdicts, verdict(of, fate))
			return
		}
		r.metrics.svixLooks.WithLabelValues(string(failed.Cause)).Inc()
		failures++
		switch {
		case failed.Class == svix.Unauthorized:
			pause = mendingPause
			stop()
		case failures >= sweepPatience:
			pause = sweepPause
			stop()
		default: // one that Svix fails for must not be in the way of the others
			verdicts = append(verdicts, delivery.SvixVerdict{Of: of, State: delivery.HandedOver, LookIn: nextLook(of.Age)})
		}
	}
	for _, each := range due {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		asking.Go(func() {
			defer func() { <-slots }()
			fate, failed, ok := r.svix.Status(ctx, each.MerchantID, svix.Message{EventID: each.EventID, Generation: each.Generation, EventType: each.EventType})
			note(each, fate, failed, ok)
		})
	}
	asking.Wait()
	return verdicts, pause
}

// verdict says what a fate means for the delivery.
func verdict(of delivery.HandedOverDelivery, fate svix.Fate) delivery.SvixVerdict {
	out := delivery.SvixVerdict{Of: of}
	switch fate {
	case svix.Delivered:
		out.State, out.Cause = delivery.Succeeded, delivery.CauseOK
	case svix.Unwanted:
		out.State, out.Cause = delivery.Succeeded, delivery.CauseSvixUnwanted
	case svix.Exhausted:
		out.State, out.Cause = delivery.Dead, delivery.CauseSvixExhausted
	case svix.Lost:
		out.State, out.Cause = delivery.Retrying, delivery.CauseSvixLost
	case svix.Failing:
		out.State, out.Cause, out.LookIn = delivery.HandedOver, delivery.CauseSvixFailing, nextLook(of.Age)
	case svix.Unanswered:
		out.State, out.Cause, out.LookIn = delivery.HandedOver, delivery.CauseSvixAccepted, nextLook(of.Age)
	}
	return out
}

func nextLook(age time.Duration) time.Duration { return min(max(age/2, soonestLook), latestLook) }
