// Package child runs a server that a test binary needs, as a process that does not outlive it.
package child

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// patience bounds how long a server may take to become ready, on a machine that compiles and tests beside it.
const patience = time.Minute

// Start starts cmd, which gets the signal when the test binary ends in any way. The channel tells how it exited.
func Start(cmd *exec.Cmd, whenOrphaned syscall.Signal) (<-chan error, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = whenOrphaned
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// The signal comes when the thread that forked ends, and Go ends idle threads: this one stays.
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

// Await asks until ready says nil, and gives up when the process has exited or a minute is over.
func Await(ctx context.Context, exited <-chan error, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return errors.New("it ended while starting")
		case <-ctx.Done():
			return fmt.Errorf("it did not become ready: %w", err)
		case <-tick.C:
		}
	}
}

// FreePorts returns n different ports of 127.0.0.1 that nobody listens on now.
func FreePorts(n int) ([]int, error) {
	if n == 0 {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close() // held until the others are found, so that they differ
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("finding a free port: %s is no TCP address", l.Addr())
	}
	rest, err := FreePorts(n - 1)
	return append(rest, addr.Port), err
}
