package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/svix"
)

func TestTheSvixServerTakesItsTokenAndNoOther(t *testing.T) { //nolint:paralleltest // the environment is everybody's
	t.Setenv(stack.EnvSvixToken, "")
	require.Equal(t, exitUsage, hookline(t, "svix").code)
	t.Setenv(stack.EnvSvixToken, "testsk_ours")
	t.Setenv(stack.EnvSvixNews, "hunter2")
	got := hookline(t, "svix", "--operational", "http://127.0.0.1:1/")
	require.Equal(t, exitUsage, got.code)
	require.NotContains(t, got.stderr, "hunter2")
	t.Setenv(stack.EnvSvixNews, "")
	require.Equal(t, exitUsage, hookline(t, "svix", "--listen", "0.0.0.0:0").code, "it is for this machine")

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		var out bytes.Buffer
		ended <- run(ctx, []string{"svix", "--listen", address}, &out, io.Discard)
	}()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	require.Eventually(t, func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/healthz", nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
		}
		return err == nil && response.StatusCode == http.StatusOK
	}, 20*time.Second, 10*time.Millisecond)
	for token, want := range map[string]fault.Class{"testsk_ours": 0, "testsk_others": fault.Unavailable} {
		client, err := svix.New(svix.Options{Token: token, BaseURL: "http://" + address})
		require.NoError(t, err)
		err = client.Check(t.Context())
		client.Close()
		if want == 0 {
			require.NoError(t, err)
		} else {
			require.Equal(t, want, fault.ClassOf(err))
		}
	}
	cancel()
	require.Equal(t, exitOK, <-ended)
}
