package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
)

// ProducerOptions are the settings of a producer.
type ProducerOptions struct {
	// Linger is how long a record waits for others to share its batch. 0 sends at once; under load records
	// share a batch anyway, while the one before is on its way.
	Linger time.Duration
	// Compression is none, gzip, snappy, lz4 or zstd.
	Compression string
	// MaxBatchBytes is the topic's max.message.bytes: Kafka measures batches by it.
	MaxBatchBytes int32
	// ConnectFailed, where set, is called at every failure to connect to a broker.
	ConnectFailed func()
	Log           *slog.Logger
}

// Producer writes to the topic with acks=all, idempotently, and retries for ever what can be retried: while
// Kafka is down, records wait. Who bounds how many must be the caller. It is safe for concurrent use.
type Producer struct {
	client *kgo.Client
	topic  string
}

// ParseCompression returns the codec of that name.
func ParseCompression(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("want none, gzip, snappy, lz4 or zstd, not %q", name)
}

// NewProducer makes a producer. It does not wait for the brokers, nor for the topic to exist.
func NewProducer(cfg Config, opts ProducerOptions) (*Producer, error) {
	codec, err := ParseCompression(opts.Compression)
	if err != nil {
		return nil, fmt.Errorf("choosing the compression: %w", err)
	}
	client, err := kgo.NewClient(append(cfg.Options(),
		kgo.DefaultProduceTopic(cfg.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// By the hash of the key, as Kafka's own clients do; records without one stay together in a batch.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(opts.MaxBatchBytes),
		kgo.ProducerLinger(opts.Linger),
		kgo.ProduceRequestTimeout(5*time.Second),
		// The default gives a record up when its topic is unknown four times. It may be made late, or be
		// unknown to a broker that has just started.
		kgo.UnknownTopicRetries(-1),
		kgo.MaxBufferedRecords(math.MaxInt32), // Produce must never block: the caller bounds
		kgo.WithHooks(connectHook{failed: opts.ConnectFailed, log: opts.Log}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making the Kafka client: %w", err)
	}
	return &Producer{client: client, topic: cfg.Topic}, nil
}

// Produce sends a record and calls done when every in-sync replica has it. It does not block, and done must
// not either. An error is one that no retry mends; it is of class fault.TooLarge where the record, or the
// batch that it was in, is larger than the topic takes.
func (p *Producer) Produce(key, value []byte, done func(error)) {
	ctx := context.Background() //nolint:forbidigo // a record outlives what read it: only its acknowledgement ends it
	p.client.Produce(ctx, &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
		if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) {
			err = fault.Wrap(err, fault.TooLarge, "the record is larger than the topic takes")
		}
		done(err)
	})
}

// Flush waits until every record is done, or ctx is.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.client.Flush(ctx); err != nil {
		return fmt.Errorf("flushing to the topic %s: %w", p.topic, err)
	}
	return nil
}

// Ready returns nil when a broker answers and every partition of the topic has a leader.
func (p *Producer) Ready(ctx context.Context) error {
	request := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &p.topic
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(ctx, p.client)
	if err != nil {
		return fmt.Errorf("asking for the topic %s: %w", p.topic, err)
	}
	for _, topic := range response.Topics {
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil {
			return fmt.Errorf("asking for the topic %s: %w", p.topic, err)
		}
		for _, partition := range topic.Partitions {
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil && partition.Leader < 0 {
				return fmt.Errorf("asking for the topic %s: partition %d: %w", p.topic, partition.Partition, err)
			}
		}
	}
	return nil
}

// Close ends the connections. What is not acknowledged is done with an error.
func (p *Producer) Close() { p.client.Close() }

// connectHook tells about failures to connect, which the client itself only retries.
type connectHook struct {
	failed func()
	log    *slog.Logger
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h connectHook) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	if h.failed != nil {
		h.failed()
	}
	ctx := context.Background() //nolint:forbidigo // the client's own connection: no caller's
	h.log.LogAttrs(ctx, slog.LevelWarn, "connecting to Kafka",
		slog.String("host", broker.Host), slog.Int("port", int(broker.Port)), logging.Error(err))
}
