package main

import (
	"context"
	"log/slog"

	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/simulator"
)

func run(ctx context.Context, cfg settings, log *slog.Logger) (err error) {
	registry := metrics.NewRegistry("merchant-simulator")
	merchant, err := simulator.New(ctx, simulator.Options{
		Secrets: cfg.WebhookSecrets, ReceiptsFile: cfg.ReceiptsFile, Log: log, Registry: registry,
	})
	if err != nil {
		return err
	}
	defer func() {
		if closing := merchant.Close(); err == nil {
			err = closing
		}
	}()
	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.server(), Log: log, Registry: registry, Routes: merchant.Routes,
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, merchant.Release)()
	return server.Run(ctx)
}
