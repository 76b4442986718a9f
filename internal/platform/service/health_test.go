package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type listeningConfig struct {
	Common

	ListenAddr string `env:"LISTEN_ADDR" desc:"where it listens"`
}

func healthcheck(t *testing.T, environ ...string) (code int, stdout, stderr string) { //nolint:nonamedreturns // two of them are easily confused
	t.Helper()
	var out, errs strings.Builder
	s := Service[listeningConfig]{
		Name: "thing", Defaults: listeningConfig{ListenAddr: "127.0.0.1:1"},
		Run: func(context.Context, listeningConfig, *slog.Logger) error { return errors.New("it must not run") },
	}
	code = s.run(t.Context(), []string{"--healthcheck"}, environ, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHealthcheckAsksTheProcessThatListens(t *testing.T) {
	t.Parallel()
	ready := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && ready {
			return
		}
		http.Error(w, "the ledger\ncannot be reached", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	for _, addr := range []string{"127.0.0.1:" + port, "0.0.0.0:" + port, ":" + port, "[::]:" + port} {
		code, stdout, stderr := healthcheck(t, "LISTEN_ADDR="+addr)
		require.Equal(t, ExitOK, code, "%s: %s", addr, stderr)
		require.Equal(t, "thing: ready\n", stdout)
	}
	ready = false
	code, _, stderr := healthcheck(t, "LISTEN_ADDR=127.0.0.1:"+port)
	require.Equal(t, ExitFailed, code)
	require.Equal(t, "thing: not ready: the ledger cannot be reached\n", stderr)
}

func TestHealthcheckOfAProcessThatIsNotThereFails(t *testing.T) {
	t.Parallel()
	code, _, stderr := healthcheck(t)
	require.Equal(t, ExitFailed, code)
	require.Contains(t, stderr, "127.0.0.1:1", "the service's own default is asked")
	code, _, _ = healthcheck(t, "LOG_LEVEL=loud")
	require.Equal(t, ExitConfig, code)
	code, _, stderr = start(t.Context(), nil, []string{"--healthcheck"}, nil)
	require.Equal(t, ExitFailed, code)
	require.Contains(t, stderr, "LISTEN_ADDR")
}
