// Package dataservice is the only door to the business tables for reading: what an attempt sends for each
// event, a payment as of now, and the feed of every event for whoever has to find what is missing.
package dataservice

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/wal"
)

// store is the business database, for reading.
type store interface {
	Payloads(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error)
	Payment(ctx context.Context, id uuid.UUID) (json.RawMessage, error)
	Feed(ctx context.Context, after string, limit int, visible bool) (event.FeedPage, error)
	FeedStart(ctx context.Context, since time.Time) (string, error)
	Slots(ctx context.Context) ([]wal.Slot, error)
}

// Options say what a service reads from and how long it is patient.
type Options struct {
	Store    store
	Log      *slog.Logger
	Registry prometheus.Registerer
	// WaitForVisible bounds how long a request for payloads waits for rows that their records outran; 0
	// means not at all.
	WaitForVisible time.Duration
}

// Service answers the HTTP requests. It is safe for concurrent use.
type Service struct {
	store          store
	log            *slog.Logger
	metrics        metrics
	waitForVisible time.Duration
}

// New makes a service and registers its metrics.
func New(ctx context.Context, opts Options) *Service {
	opts.Registry.MustRegister(slotCollector{context.WithoutCancel(ctx), opts.Store, opts.Log})
	return &Service{
		store: opts.Store, log: opts.Log, metrics: newMetrics(opts.Registry), waitForVisible: opts.WaitForVisible,
	}
}

// Routes adds the service's routes.
func (s *Service) Routes(r chi.Router) {
	r.Use(s.metrics.measure)
	r.Post("/payloads", s.payloads)
	r.Get("/payload/{payment_id}", s.payment)
	r.Get("/events", s.events)
}
