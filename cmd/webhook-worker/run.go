package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/plugin/kprom"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/apiclient"
	"github.com/hookline/hookline/internal/dataclient"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/drain"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/intake"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/reconcile"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/svix"
)

const (
	name = "webhook-worker"
	// exchangePatience is how long a stop waits for requests that merchants have not answered: above the
	// default time-out of an endpoint. Their watchdogs take over what is cut.
	exchangePatience = 12 * time.Second
)

// run starts the parts in the order in which an event needs them, and stops them in reverse: first nothing more is
// read, then the batches under way end, then the handlers drain, then the open exchanges are finished.
func run(ctx context.Context, cfg config, log *slog.Logger) error {
	registry := metrics.NewRegistry(name)
	pool, err := postgres.NewPool(ctx, cfg.DatabaseURL, postgres.Options{
		ApplicationName: name, MaxConns: cfg.DBPoolSize, Settings: postgres.WorkerSettings(),
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	ledger := postgres.NewLedger(pool, postgres.LedgerOptions{Keys: cfg.EncryptionKeys, DisableAfter: cfg.DisableAfter})
	data, err := dataclient.New(cfg.DataServiceURL, cfg.DataServiceToken, dataclient.Options{})
	if err != nil {
		return err
	}
	defer data.Close()
	api, err := apiclient.New(cfg.PaymentsAPIURL, cfg.PaymentsAPIToken)
	if err != nil {
		return err
	}
	defer api.Close()
	guard := egress.New(cfg.Egress)
	guard.LogAllowlist(ctx, log)
	client := deliver.NewClient(cfg.IdlePerHost, guard)
	defer client.Close()

	calls := restate.NewClient(cfg.IngressURL, intake.MaxInFlight)
	defer calls.Close()
	plans := dispatch.Config{
		Route: cfg.DefaultRoute, Schedule: cfg.RetrySchedule, Jitter: cfg.RetryJitter,
		WakeFunc: calls.Wake, DrainFunc: calls.WakeDrainer, WatchFunc: calls.SendAttemptIn,
		MaxOpen: cfg.MaxOpen, OpenAt: cfg.CircuitOpenAt, ProbeAfter: cfg.CircuitProbe,
	}
	var handOvers *svix.Client // nil where there are no settings for it
	if cfg.SvixToken != "" {
		if handOvers, err = cfg.svix(); err != nil {
			return err
		}
		defer handOvers.Close()
		plans.Svix = handOvers
	}
	watcher := svix.NewWatcher(handOvers, log, registry)
	dispatcher := dispatch.New(ctx, plans, ledger, data, client, log, registry)
	callbacks := restate.NewCallbacks(cfg.CallbackSecrets, api, dispatcher, ledger, ledger, log, registry)
	handlers, err := restate.Handler(dispatcher, callbacks, drain.New(ledger, log, registry), cfg.HandlerConfig, log)
	if err != nil {
		return err
	}
	var subscription restate.Subscription
	if cfg.Intake == intakeSubscription {
		subscription = restate.Subscription{Brokers: cfg.Kafka.Brokers, Topic: cfg.Kafka.Topic, Group: cfg.KafkaGroup}
	}
	registrar := restate.NewRegistrar(cfg.RegistrarConfig, subscription, cfg.APIToken, log)
	reconciler := reconcile.New(cfg.Reconcile, data, ledger, registrar, calls, api, log, registry)
	if handOvers != nil {
		reconciler.AskSvix(handOvers)
	}

	// A worker that comes without a key in use does not become ready: a deployment stops there. One that works stays so
	// when somebody seals an endpoint with a key of their own: that endpoint's deliveries wait.
	var opened atomic.Bool
	reach := func(ctx context.Context) error {
		if opened.Load() {
			return ledger.Ping(ctx)
		}
		err := ledger.CheckKeys(ctx)
		opened.Store(err == nil)
		return err
	}
	var consumer *kafka.Consumer
	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.Config, Log: log, Registry: registry,
		Ready: func(ctx context.Context) error {
			err := errors.Join(registrar.Ready(), reach(ctx), watcher.Ready())
			if consumer != nil {
				err = errors.Join(err, consumer.Joined())
			}
			return err
		},
		Routes: func(r chi.Router) {
			r.Get("/info", func(w http.ResponseWriter, _ *http.Request) {
				httpserver.WriteJSON(w, http.StatusOK, map[string]string{"intake": cfg.Intake, "group": cfg.KafkaGroup})
			})
			r.Get("/reconciler", func(w http.ResponseWriter, _ *http.Request) {
				httpserver.WriteJSON(w, http.StatusOK, reconciler.Report())
			})
			for _, path := range []string{"/discover", "/health", "/invoke/*"} { // what Restate calls
				r.Handle(path, handlers)
			}
		},
		RequestTimeout: -1, // an invocation's stream is bounded by Restate's own time-outs
	})
	if err != nil {
		return err
	}

	in := intake.New(calls, dispatcher, log, registry)
	if cfg.Intake == intakeBatches {
		consumer, err = kafka.NewConsumer(ctx, cfg.Kafka, cfg.KafkaGroup, in, log,
			kprom.NewMetrics("hookline_kafka", kprom.Registerer(registry), kprom.Gatherer(registry)))
		if err != nil {
			return err
		}
	}

	// The handlers and the registration outlive the intake: its last batches need them.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var group errgroup.Group
	failed := func(err error) error { // one part's failure stops the others
		if err != nil && !errors.Is(err, context.Canceled) {
			stopServing()
			return err
		}
		return nil
	}
	group.Go(func() error { return failed(server.Run(serving)) })
	group.Go(func() error { return failed(registrar.Run(serving)) })
	group.Go(func() error { return failed(watcher.Run(serving)) })

	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	context.AfterFunc(serving, stopReading)
	if cfg.Reconciler {
		group.Go(func() error { return failed(reconciler.Run(reading)) })
	}
	if consumer != nil {
		err = in.Run(reading, consumer)
	} else {
		<-reading.Done()
	}
	stopServing()
	err = errors.Join(err, group.Wait())

	open, cancel := context.WithTimeout(context.WithoutCancel(ctx), exchangePatience)
	defer cancel()
	return errors.Join(err, dispatcher.Close(open))
}
