package main

import (
	"context"
	"log/slog"

	"github.com/hookline/hookline/internal/dataservice"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/postgres"
)

func run(ctx context.Context, cfg config, log *slog.Logger) error {
	pool, err := postgres.NewPool(ctx, cfg.DatabaseURL, postgres.Options{ApplicationName: name, MaxConns: cfg.DBPoolSize})
	if err != nil {
		return err
	}
	defer pool.Close()

	registry, store := metrics.NewRegistry(name), postgres.NewEventStore(pool)
	data := dataservice.New(ctx, dataservice.Options{
		Store: store, Log: log, Registry: registry, WaitForVisible: cfg.WaitForVisible,
	})
	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.Config, Log: log, Registry: registry, Ready: store.Ping, Routes: data.Routes,
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
