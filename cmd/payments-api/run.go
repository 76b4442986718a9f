package main

import (
	"context"
	"log/slog"

	"github.com/hookline/hookline/internal/paymentsapi"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/restate"
)

const (
	name = "payments-api"
	// callbackConnections to Restate stay open between callbacks, which come one by one.
	callbackConnections = 16
)

func run(ctx context.Context, cfg config, log *slog.Logger) error {
	pool, err := postgres.NewPool(ctx, cfg.DatabaseURL, postgres.Options{
		ApplicationName: name, MaxConns: cfg.DBPoolSize, ConnectTimeout: cfg.DBConnectTimeout,
	})
	if err != nil {
		return err
	}
	defer pool.Close() // after the server: its open requests still need it

	store := postgres.NewPaymentStore(pool)
	registry := metrics.NewRegistry(name)
	callbacks := restate.NewClient(cfg.IngressURL, callbackConnections)
	defer callbacks.Close()
	api := paymentsapi.New(paymentsapi.Options{
		Store: store, Forwarder: callbacks, Providers: cfg.CallbackSecrets, Log: log, Registry: registry, Timeout: cfg.DBTimeout,
		MerchantRate: cfg.MerchantRate,
	})

	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.Config, Log: log, Registry: registry, Routes: api.Routes, OpenRoutes: api.CallbackRoutes,
		Ready: func(ctx context.Context) error { return store.Ready(ctx, cfg.RequireSlot) },
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
