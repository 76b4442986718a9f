// Package restatetest gives tests a real Restate server: one per test binary, started at the first call.
// It is downloaded from npm into the cache directory (HOOKLINE_CACHE) where it is missing.
package restatetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/restateserver"
	"github.com/hookline/hookline/internal/stack/tools"
)

var (
	once    sync.Once
	shared  restateserver.Server
	stop    = func() {}
	errOnce error
)

// Start returns the addresses of the test binary's server. It is shared: a test names its services, or
// their deployments, so that others do not meet them. Call Stop from TestMain to remove its data; without
// it the server dies with the test binary all the same.
func Start(t testing.TB) (ingressURL, adminURL string) {
	t.Helper()
	once.Do(func() { errOnce = start() })
	require.NoError(t, errOnce, "starting Restate for the tests")
	return shared.IngressURL(), shared.AdminURL()
}

// Stop ends the server, where one was started.
func Stop() { stop() }

func start() error {
	ctx := context.Background() // the server outlives the test that came first
	cache, err := tools.DefaultCache()
	if err != nil {
		return err
	}
	binary, err := cache.Restate(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hookline-restatetest-")
	if err != nil {
		return fmt.Errorf("making Restate's directory: %w", err)
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	shared = restateserver.Server{
		Binary: binary, DataDir: filepath.Join(dir, "data"), TempDir: dir,
		IngressPort: ports[0], AdminPort: ports[1], FabricPort: ports[2],
		Settings: map[string]string{"RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC": "true"},
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return fmt.Errorf("making Restate's log: %w", err)
	}
	defer log.Close()
	cmd := shared.Command(ctx)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	exited, err := startOnOwnThread(cmd)
	if err != nil {
		return fmt.Errorf("starting %s: %w", binary, err)
	}
	stop = func() {
		cmd.Process.Kill()
		<-exited
		os.RemoveAll(dir)
	}
	if err := ready(ctx, exited); err != nil {
		text, _ := os.ReadFile(log.Name())
		stop()
		return fmt.Errorf("%w: %s", err, tail(text))
	}
	return nil
}

func ready(ctx context.Context, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := shared.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return errors.New("Restate ended while starting")
		case <-ctx.Done():
			return fmt.Errorf("Restate did not become ready: %w", err)
		case <-tick.C:
		}
	}
}

// freePorts holds each port open until it has the next, so that they differ.
func freePorts(n int) ([]int, error) {
	if n == 0 {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("finding a free port: %s is no TCP address", l.Addr())
	}
	rest, err := freePorts(n - 1)
	return append(rest, addr.Port), err
}

// startOnOwnThread starts cmd on an operating system thread that lives as long as cmd does: the signal of
// Pdeathsig comes when the thread that forked ends, and Go ends idle threads.
func startOnOwnThread(cmd *exec.Cmd) (<-chan error, error) {
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
			close(exited)
		}
	}()
	return exited, <-started
}

func tail(text []byte) []byte {
	const limit = 2000
	if len(text) > limit {
		return text[len(text)-limit:]
	}
	return text
}
