package e2e_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack"
)

func TestTheSecondOfTwoWorkersDeliversWhileTheFirstIsFrozenOrDead(t *testing.T) {
	s := start(t)
	alone := s.pids()
	s.up(t, "HOOKLINE_WORKERS=2")
	require.Equal(t, 2, s.status.Workers)
	require.Len(t, s.status.Components, len(alone)+2)
	two := s.pids()
	for _, name := range []string{stack.Postgres, stack.Kafka, stack.PaymentsAPI, stack.CDCRelay} {
		require.Equal(t, alone[name], two[name], "%s is what it was", name)
	}
	s.pay(t)
	s.arrived(t, 1)

	first := two[stack.WebhookWorker]
	require.NoError(t, syscall.Kill(-first, syscall.SIGSTOP))
	s.pay(t)
	s.arrived(t, 2)
	require.NoError(t, syscall.Kill(-first, syscall.SIGCONT))

	require.NoError(t, syscall.Kill(-first, syscall.SIGKILL))
	s.pay(t)
	s.arrived(t, 3)
	s.up(t, "HOOKLINE_WORKERS=2")
	require.NotEqual(t, first, s.pids()[stack.WebhookWorker])
	require.Equal(t, two["webhook-worker-2"], s.pids()["webhook-worker-2"])
	require.Equal(t, two[stack.WorkerProxy], s.pids()[stack.WorkerProxy])

	s.up(t)
	require.Len(t, s.status.Components, len(alone))
	require.Eventually(t, func() bool { // until whoever inherited it has buried it
		return errors.Is(syscall.Kill(two["webhook-worker-2"], 0), syscall.ESRCH)
	}, 20*time.Second, 20*time.Millisecond, "the surplus worker still runs")
	s.pay(t)
	s.arrived(t, 4)
}
