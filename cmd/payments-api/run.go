package main

import (
	"context"
	"log/slog"

	"github.com/hookline/hookline/internal/paymentsapi"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/postgres"
)

const name = "payments-api"

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
	api := paymentsapi.New(paymentsapi.Options{Store: store, Log: log, Registry: registry, Timeout: cfg.DBTimeout})

	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.Config, Log: log, Registry: registry, Routes: api.Routes,
		Ready: func(ctx context.Context) error { return store.Ready(ctx, cfg.RequireSlot) },
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
