// Package service is the frame of every long-running process: flags, settings, logger, signals, deadline.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/platform/metrics"
)

// Common are the settings that every service has. Embed it in the service's own.
type Common struct {
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"INFO" unit:"DEBUG, INFO, WARN or ERROR" desc:"the least level that is logged"`
	// ShutdownTimeout is above the longest request that a service lets finish.
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"20s" desc:"how long a stop may take after SIGTERM before what is open is cut"`
}

func (c Common) common() Common { return c }

// Service describes one process. Config embeds Common.
type Service[Config interface{ common() Common }] struct {
	Name     string
	Purpose  string // one line, for --help
	Defaults Config // what the environment does not say
	// Run does the job until ctx is cancelled, then stops in order and returns. It gets as long as
	// ShutdownTimeout for that.
	Run func(ctx context.Context, cfg Config, log *slog.Logger) error
}

// Exit codes of every service.
const (
	ExitOK     = 0
	ExitFailed = 1 // it ran, and failed
	ExitConfig = 2 // it refused to start: a flag or a setting is wrong
)

// Main runs the service with the process's arguments and environment, and exits.
func (s Service[Config]) Main() {
	os.Exit(s.run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func (s Service[Config]) run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 1 {
		fmt.Fprintf(stderr, "%s: takes one flag at most; see --help\n", s.Name)
		return ExitConfig
	}
	flag := ""
	if len(args) == 1 {
		flag = args[0]
	}
	switch flag {
	case "-h", "-help", "--help":
		config.Usage(stdout, s.Name, s.Purpose, s.Defaults)
		return ExitOK
	case "-version", "--version":
		fmt.Fprintln(stdout, s.Name, metrics.Version())
		return ExitOK
	case "", "-check", "--check", "-healthcheck", "--healthcheck":
	default:
		fmt.Fprintf(stderr, "%s: unknown argument %q; see --help\n", s.Name, flag)
		return ExitConfig
	}

	cfg, err := config.Load(s.Defaults, environ)
	if err != nil {
		fmt.Fprintf(stderr, "%s: bad settings: %s\n", s.Name, err)
		return ExitConfig
	}
	switch flag {
	case "-check", "--check":
		fmt.Fprintf(stdout, "%s: settings are valid\n", s.Name)
		return ExitOK
	case "-healthcheck", "--healthcheck":
		if err := checkHealth(ctx, config.Attrs(cfg)[listenAddr]); err != nil {
			fmt.Fprintf(stderr, "%s: %s\n", s.Name, err)
			return ExitFailed
		}
		fmt.Fprintf(stdout, "%s: ready\n", s.Name)
		return ExitOK
	}

	common := cfg.common()
	log := logging.New(stderr, common.LogLevel, s.Name)
	// What libraries write to the standard logger goes nowhere: net/http quotes there what comes unasked over an idle
	// connection, which can be anything that a merchant's server has seen.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	log.LogAttrs(ctx, slog.LevelInfo, "starting", slog.String("version", metrics.Version()), slog.Any("settings", config.Attrs(cfg)))

	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, cfg, log) }()

	select {
	case err = <-done:
	case <-ctx.Done():
		stop() // a second signal ends the process at once
		log.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopping", slog.Duration("deadline", common.ShutdownTimeout))
		select {
		case err = <-done:
		case <-time.After(common.ShutdownTimeout + time.Second): // the parts have their own deadline; this one is for a part that hangs
			err = errors.New("stopping took longer than SHUTDOWN_TIMEOUT")
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.LogAttrs(context.WithoutCancel(ctx), slog.LevelError, "failed", logging.Error(err))
		return ExitFailed
	}
	log.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopped")
	return ExitOK
}
