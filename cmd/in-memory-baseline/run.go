package main

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/baseline"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
)

func run(ctx context.Context, cfg settings, log *slog.Logger) error {
	before, err := baseline.New(baseline.Options{MerchantURL: cfg.MerchantURL, Secret: cfg.WebhookSecret, Log: log})
	if err != nil {
		return err
	}
	server, err := httpserver.Listen(ctx, httpserver.Options{
		Config: cfg.Config, Log: log, Registry: metrics.NewRegistry(name), Routes: before.Routes,
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return before.Run(ctx) })
	return group.Wait()
}
