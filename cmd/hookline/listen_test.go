package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMistakesAboutListeningAreOneLine(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--forward-to: want an http or https URL": {"listen", "--forward-to", "localhost:8000"},
		"must not hold a fragment":                {"listen", "--forward-to", "http://localhost:8000/#a"},
		"--address: want host:port":               {"listen", "--address", "example.com"},
		"unexpected argument":                     {"listen", "http://localhost:8000"},
	} {
		got := hookline(t, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Empty(t, got.stdout)
	}
	got := hookline(t, "listen", "--dir", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "hookline up starts it")
}

func TestListeningAtALedgerElsewhereNeedsTheGuardsLeave(t *testing.T) {
	t.Setenv(envDatabaseURL, pgtest.New(t).DSN())
	t.Setenv("ENCRYPTION_KEYS", endpointtest.KeyText)

	got := hookline(t, "listen")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "loopback address")
	require.Contains(t, got.stderr, "set ENDPOINT_ALLOW=127.0.0.1 for the webhook-workers and for this command")
	require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)

	t.Setenv("ENDPOINT_ALLOW", "127.0.0.1")
	got = hookline(t, "listen", "--events", "payment.sucseeded", "--merchant", "")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, `--events: unknown event type "payment.sucseeded": did you mean "payment.succeeded"?; --merchant: want 1 to 64 characters`)

	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := &printedLines{each: func(string) { interrupt() }}
	require.Equal(t, exitOK, run(ctx, []string{"listen", "--json", "--events", "payment.*, invoice.sent", "--forward-to", "http://localhost:8000/hook"}, out, os.Stderr))
	require.Len(t, out.lines, 2)
	var started struct {
		Kind, Secret string
		MerchantID   string   `json:"merchant_id"`
		EventTypes   []string `json:"event_types"`
		ForwardTo    string   `json:"forward_to"`
	}
	require.NoError(t, json.Unmarshal([]byte(out.lines[0]), &started))
	require.Equal(t, "joes-tshirt-shop", started.MerchantID)
	require.Equal(t, []string{"payment.*", "invoice.sent"}, started.EventTypes)
	require.Equal(t, "http://localhost:8000/hook", started.ForwardTo)
	require.True(t, strings.HasPrefix(started.Secret, "whsec_"))
	require.JSONEq(t, `{"kind":"ended","open":0}`, out.lines[1])
}

func TestAListenerIsAddedWhileNobodyReplacesTheStacksKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	release, err := stack.Hold(t.Context(), dir)
	require.NoError(t, err)
	endpoints := heldWhileAdding{dir: dir}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, _, err = endpoints.Add(ctx, endpoint.Spec{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	release()
	_, _, err = endpoints.Add(t.Context(), endpoint.Spec{})
	require.ErrorContains(t, err, "the stack does not run")
	release, err = stack.Hold(t.Context(), dir)
	require.NoError(t, err, "it lets go")
	release()
}

// printedLines keeps what is printed, and calls each with it.
type printedLines struct {
	lines []string
	each  func(line string)
}

func (p *printedLines) Write(b []byte) (int, error) {
	p.lines = append(p.lines, string(b))
	p.each(string(b))
	return len(b), nil
}
