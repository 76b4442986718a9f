// Package logging makes the one logger of a process.
package logging

import (
	"io"
	"log/slog"
)

// New returns a logger that writes JSON lines to w, each with the service's name.
func New(w io.Writer, level slog.Level, service string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})).With(slog.String("service", service))
}

// Error is the attribute under which every log line carries its error.
func Error(err error) slog.Attr { return slog.String("error", err.Error()) }
