package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

// svixServer is the embedded stack's Svix server: hidden, as it is no use to anybody but up. What it has is gone when it
// ends: applications, endpoints, and messages that were queued.
func svixServer(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("svix")
	listen := fs.String("listen", "127.0.0.1:8071", "`host:port` to listen at")
	operational := fs.String("operational", "", "`URL` that operational webhooks go to, signed with "+stack.EnvSvixNews)
	if _, err := parse(fs, args, 0, "svix [--listen HOST:PORT] [--operational URL]",
		"Runs a small Svix server in the foreground. It takes the token in "+stack.EnvSvixToken+", and keeps everything in memory."); err != nil {
		return err
	}
	token := os.Getenv(stack.EnvSvixToken)
	if token == "" {
		return wrongUsage("%s is not set", stack.EnvSvixToken)
	}
	o := svixtest.Options{
		Tokens:  []string{token},
		Retries: []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}, // nobody watches a day
	}
	if *operational != "" {
		secret, err := signing.ParseSecret(os.Getenv(stack.EnvSvixNews))
		if err != nil {
			return wrongUsage("%s: %s", stack.EnvSvixNews, err)
		}
		o.Operational = svixtest.Operational{URL: *operational, Secret: secret}
	}
	at := httpserver.Config{ListenAddr: *listen}
	if err := at.Validate(); err != nil {
		return wrongUsage("--listen: it is for this machine, and listens at a loopback address only")
	}
	server := svixtest.New(ctx, o)
	defer server.Close()
	front, err := httpserver.Listen(ctx, httpserver.Options{
		Config:   at,
		Log:      logging.New(stderr, slog.LevelInfo, "svix"),
		Registry: metrics.NewRegistry("svix"),
		Routes:   func(r chi.Router) { r.Handle("/api/*", server) },
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "listening at", front.Addr())
	return front.Run(ctx)
}
