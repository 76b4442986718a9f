package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/hookline/hookline/internal/stack/balance"
)

// balancer stands in front of the embedded stack's workers where there are several: hidden, as it is no use to anybody
// but up. In Kubernetes a Service does this.
func balancer(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("balance")
	listen := fs.String("listen", "127.0.0.1:9080", "`host:port` to listen at")
	status := fs.String("status", "127.0.0.1:9085", "`host:port` of its own /healthz and /readyz")
	to := fs.String("to", "", "`host:port,host:port` to spread connections over")
	if _, err := parse(fs, args, 0, "balance --to HOST:PORT,HOST:PORT [--listen HOST:PORT] [--status HOST:PORT]",
		"Spreads connections over the backends that are healthy, in the foreground."); err != nil {
		return err
	}
	if *to == "" {
		return wrongUsage("--to is missing")
	}
	b, err := balance.Listen(ctx, balance.Options{
		Listen: *listen, Status: *status, Backends: strings.Split(*to, ","), Log: slog.New(slog.NewJSONHandler(stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "listening at", b.Addr())
	return b.Run(ctx)
}
