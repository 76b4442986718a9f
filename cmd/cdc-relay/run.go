package main

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/relay"
)

func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	return serve(ctx, cfg, log, func(string) {})
}

// serve runs the service and tells started where it listens.
func serve(ctx context.Context, cfg Config, log *slog.Logger, started func(addr string)) error {
	registry := metrics.NewRegistry("cdc-relay")
	counts := relay.NewMetrics(registry)

	producer, err := kafka.NewProducer(cfg.Kafka, kafka.ProducerOptions{
		Linger: cfg.Linger, Compression: cfg.Compression, MaxBatchBytes: cfg.MaxRecordBytes,
		ConnectFailed: counts.KafkaConnectFailed, Log: log,
	})
	if err != nil {
		return err
	}
	defer producer.Close()
	source := replication.New(cfg.Replication, log, counts.GapDeclared)
	defer source.Close(context.WithoutCancel(ctx))

	events := relay.New(source, producer, relay.Options{
		Log: log, Metrics: counts,
		MaxRecordBytes:     int(cfg.MaxRecordBytes) - recordOverhead,
		MaxInFlightRecords: cfg.MaxInFlightRecords,
		MaxInFlightBytes:   cfg.MaxInFlightBytes,
		Heartbeat:          cfg.Heartbeat,
		MaxLagBytes:        cfg.MaxLagBytes,
		DrainTimeout:       cfg.ShutdownTimeout / 2, // the other half is for the good-byes
	})
	server, err := httpserver.Listen(ctx, httpserver.Options{Config: cfg.Config, Log: log, Registry: registry, Ready: events.Ready})
	if err != nil {
		return err
	}
	started(server.Addr())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return events.Run(ctx) })
	return group.Wait()
}
