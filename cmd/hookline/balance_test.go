package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBalanceSaysWhereItListensAndEndsWhenItIsStopped(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	got := hookline(t, "balance", "--listen", taken.Addr().String(), "--to", "127.0.0.1:1")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "address already in use")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"balance", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--to", "127.0.0.1:1"}, &out, io.Discard)
	}()
	cancel()
	select {
	case code := <-ended:
		require.Equal(t, exitOK, code)
	case <-time.After(20 * time.Second):
		require.Fail(t, "it does not end")
	}
	require.Contains(t, out.String(), "listening at 127.0.0.1:")
}
