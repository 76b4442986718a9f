package svix

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/platform/logging"
)

// watchEvery is how often the Watcher asks: so long does it take to notice that the token was mended.
const watchEvery = 5 * time.Second

// Watcher asks again and again whether Svix takes this deployment's token, for whoever is to mend it.
type Watcher struct {
	client  *Client
	log     *slog.Logger
	refused prometheus.Gauge
	away    prometheus.Gauge

	mu     sync.Mutex
	err    error // of the last look
	asked  bool
	passed bool // a look found nothing that somebody has to mend
}

// NewWatcher makes a Watcher, whose metrics are added to the registry; with a nil client it never finds anything wrong.
func NewWatcher(client *Client, log *slog.Logger, registry prometheus.Registerer) *Watcher {
	w := &Watcher{
		client: client, log: log,
		refused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_svix_refused", Help: "1 while Svix refuses this worker's token, or what is at SVIX_URL is not Svix: deliveries of route svix wait.",
		}),
		away: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_svix_away", Help: "1 while Svix does not answer, or fails.",
		}),
	}
	registry.MustRegister(w.refused, w.away)
	return w
}

// Run asks until ctx ends, which is its only error.
func (w *Watcher) Run(ctx context.Context) error {
	if w.client == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := w.Ask(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ask asks once; its only error is ctx's.
func (w *Watcher) Ask(ctx context.Context) error {
	err := w.client.Check(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.note(ctx, err)
	return nil
}

func (w *Watcher) note(ctx context.Context, err error) {
	refused := errors.Is(err, ErrRefused)
	w.mu.Lock()
	before := w.err
	w.err, w.asked, w.passed = err, true, w.passed || !refused
	w.mu.Unlock()
	switch {
	case refused && !errors.Is(before, ErrRefused):
		w.log.LogAttrs(ctx, slog.LevelError, "Svix refuses this worker, and what is to go to it waits", logging.Error(err))
	case err != nil && before == nil:
		w.log.LogAttrs(ctx, slog.LevelWarn, "Svix does not answer", logging.Error(err))
	case err == nil && before != nil:
		w.log.LogAttrs(ctx, slog.LevelInfo, "Svix can be used again")
	}
	w.refused.Set(oneIf(refused))
	w.away.Set(oneIf(err != nil && !refused))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Ready is an error until a first look found that the settings may be right; an ErrRefused where they are wrong. A process that
// was ready stays so, when the token is revoked: what it delivers by itself needs no Svix, and the metric tells. That Svix is away
// is no matter of settings: deliveries are tried again.
func (w *Watcher) Ready() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.client == nil, w.passed:
		return nil
	case !w.asked:
		return errNotAsked
	default:
		return w.err
	}
}

var errNotAsked = errors.New("Svix has not said yet whether it takes the token")
