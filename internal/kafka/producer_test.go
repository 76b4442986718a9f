package kafka_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/kafka"
)

func newProducer(t *testing.T, cfg kafka.Config, opts kafka.ProducerOptions) *kafka.Producer {
	t.Helper()
	opts.Log = slog.New(slog.DiscardHandler)
	if opts.Compression == "" {
		opts.Compression = "none"
	}
	if opts.MaxBatchBytes == 0 {
		opts.MaxBatchBytes = 1_000_000
	}
	p, err := kafka.NewProducer(cfg, opts)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// produce waits for the outcome.
func produce(t *testing.T, p *kafka.Producer, value []byte) error {
	t.Helper()
	done := make(chan error, 1)
	p.Produce([]byte("key"), value, func(err error) { done <- err })
	return <-done
}

func TestProducerWaitsForAllReplicasAndRetriesWhatCanBeRetried(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "events"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	var acks atomic.Int32
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: 3, When: func(r kmsg.Request) bool {
		acks.Store(int32(r.(*kmsg.ProduceRequest).Acks))
		return true
	}})
	for _, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		p := newProducer(t, kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "events"}, kafka.ProducerOptions{Compression: compression})
		require.NoError(t, produce(t, p, []byte("value")), compression)
		require.NoError(t, p.Flush(t.Context()))
	}
	require.EqualValues(t, -1, acks.Load())

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), "events")
	require.NoError(t, err)
	var full int
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			require.EqualValues(t, 5, o.Offset, "every record once, and one key in one partition")
			full++
		}
	})
	require.Equal(t, 1, full)
}

func TestProducerTellsWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "events"), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "50000"}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	p := newProducer(t, kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "events"}, kafka.ProducerOptions{MaxBatchBytes: 100_000})
	noise := func(n int) []byte {
		out := make([]byte, n)
		for i := range out {
			out[i] = byte(rand.Uint32())
		}
		return out
	}
	for _, size := range []int{60_000, 200_000} { // the broker finds the one, the client the other
		require.Equal(t, fault.TooLarge, fault.ClassOf(produce(t, p, noise(size))))
	}
	require.NoError(t, produce(t, p, noise(40_000)))
}

func TestProducerIsReadyWhenItsTopicIs(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	require.NoError(t, newProducer(t, kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "events"}, kafka.ProducerOptions{}).Ready(t.Context()))
	require.ErrorIs(t, newProducer(t, kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "none"}, kafka.ProducerOptions{}).Ready(t.Context()), kerr.UnknownTopicOrPartition)

	var failures atomic.Int32
	nowhere := newProducer(t, kafka.Config{Brokers: []string{"127.0.0.1:1"}, Topic: "events"}, kafka.ProducerOptions{ConnectFailed: func() { failures.Add(1) }})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorContains(t, nowhere.Ready(ctx), "asking for the topic events")
	require.Positive(t, failures.Load())
}

func TestParseCompressionRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	_, err := kafka.ParseCompression("brotli")
	require.ErrorContains(t, err, "brotli")
}
