package load_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/load"
)

func TestConsumersAreWaitedFor(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "events"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	cfg := kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "events"}

	err = load.AwaitConsumers(t.Context(), cfg, "group", 200*time.Millisecond)
	require.ErrorContains(t, err, "waiting until group group consumes topic events")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	found := make(chan error, 1)
	go func() { found <- load.AwaitConsumers(t.Context(), cfg, "group", time.Minute) }()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("events"), kgo.ConsumerGroup("group"))
	require.NoError(t, err)
	t.Cleanup(consumer.CloseAllowingRebalance)
	require.NoError(t, <-found)
}
