package kafka_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
)

func TestEnsureTopicCreatesWhatIsMissingAndLeavesWhatExists(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kafka.Config{Brokers: cluster.ListenAddrs()}.Options()...)
	require.NoError(t, err)
	t.Cleanup(client.Close)

	require.NoError(t, kafka.EnsureTopic(t.Context(), client, "events", 6, 1, 48*time.Hour))
	require.NoError(t, kafka.EnsureTopic(t.Context(), client, "events", 12, 1, time.Hour), "the second call finds it there")
	require.NoError(t, kafka.EnsureTopic(t.Context(), client, "plain", 1, 1, 0))

	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(t.Context(), "events", "plain")
	require.NoError(t, err)
	require.Len(t, topics["events"].Partitions, 6)
	require.Len(t, topics["plain"].Partitions, 1)

	settings, err := admin.DescribeTopicConfigs(t.Context(), "events")
	require.NoError(t, err)
	resource, err := settings.On("events", nil)
	require.NoError(t, err)
	for _, setting := range resource.Configs {
		if setting.Key == "retention.ms" {
			require.Equal(t, "172800000", *setting.Value)
		}
	}

	require.ErrorContains(t, kafka.EnsureTopic(t.Context(), client, "none", 0, 1, 0), "creating the topic none")
}
