package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/platform/logging"
)

// Rebalance is told when partitions leave this member of the group. Revoked may take its time to finish what is
// in flight: its marks are committed when it returns. After Lost marks are void. Neither runs beside Poll.
type Rebalance interface {
	Revoked(ctx context.Context, partitions []event.Partition)
	Lost(ctx context.Context, partitions []event.Partition)
}

// Consumer is a member of a consumer group whose offsets are committed only as far as they are marked. Poll and
// Close belong to one goroutine; Mark is safe for concurrent use.
type Consumer struct {
	client *kgo.Client
	log    *slog.Logger
	cut    context.CancelFunc // ends the commits of revoked partitions
}

// commitPatience bounds a commit while the group waits for it: with what Revoked may take it stays below the
// rebalance's own time-out, after which the group would go on without this member.
const commitPatience = 5 * time.Second

// NewConsumer joins the group for the topic. A group without a commit begins at the topic's start: what was written
// before the first worker came is not skipped. It lives until Close: of ctx it takes the values, and not the end.
func NewConsumer(ctx context.Context, cfg Config, group string, rebalance Rebalance, log *slog.Logger, hooks ...kgo.Hook) (*Consumer, error) {
	commits, cut := context.WithCancel(context.WithoutCancel(ctx))
	c := &Consumer{log: log, cut: cut}
	opts := append(cfg.Options(),
		kgo.ConsumeTopics(cfg.Topic),
		kgo.ConsumerGroup(group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(time.Second),
		kgo.RebalanceTimeout(15*time.Second),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(time.Second),
		kgo.BlockRebalanceOnPoll(),
		// Records are pointers of a few hundred bytes: a small fetch is many of them.
		kgo.FetchMaxBytes(4<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.WithHooks(hooks...),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, revoked map[string][]int32) {
			rebalance.Revoked(ctx, partitions(revoked))
			ctx, cancel := context.WithTimeout(commits, commitPatience)
			defer cancel()
			if err := client.CommitMarkedOffsets(ctx); err != nil {
				log.LogAttrs(ctx, slog.LevelWarn, "offsets of revoked partitions are not committed: their records come again", logging.Error(err))
			}
		}),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, lost map[string][]int32) {
			rebalance.Lost(ctx, partitions(lost))
		}),
	)
	client, err := kgo.NewClient(opts...)
	if err != nil {
		cut()
		return nil, fmt.Errorf("making a Kafka consumer: %w", err)
	}
	c.client = client
	return c, nil
}

// Poll waits for records and gives at most limit of them to take, while no partition can be revoked. It returns when
// take has returned, or ctx has ended.
func (c *Consumer) Poll(ctx context.Context, limit int, take func([]event.Record)) {
	fetches := c.client.PollRecords(ctx, limit)
	defer c.client.AllowRebalance()
	fetches.EachError(func(topic string, partition int32, err error) {
		if ctx.Err() == nil {
			// The client goes on by itself; "unable to join group session" is what a lost broker looks like.
			c.log.LogAttrs(ctx, slog.LevelWarn, "fetching from Kafka", slog.String("topic", topic), slog.Int("partition", int(partition)), logging.Error(err))
		}
	})
	var records []event.Record
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		for _, r := range p.Records {
			records = append(records, event.Record{
				Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, LeaderEpoch: r.LeaderEpoch,
				HighWatermark: p.HighWatermark, Key: r.Key, Value: r.Value,
			})
		}
	})
	if len(records) > 0 {
		take(records)
	}
}

// Mark says that everything of the record's partition up to and with the record is done.
func (c *Consumer) Mark(record event.Record) {
	c.client.MarkCommitRecords(&kgo.Record{
		Topic: record.Topic, Partition: record.Partition, Offset: record.Offset, LeaderEpoch: record.LeaderEpoch,
	})
}

// Joined returns nil while the consumer is a member of its group. A worker that was killed keeps its partitions until
// its session ends, and its successor waits for that.
func (c *Consumer) Joined() error {
	if _, generation := c.client.GroupMetadata(); generation < 0 {
		return errors.New("not a member of the consumer group yet")
	}
	return nil
}

// Close commits what is marked and leaves the group, within ctx; nothing is marked any more. A group that cannot be
// told notices by itself that the member is gone.
func (c *Consumer) Close(ctx context.Context) error {
	defer c.cut()
	stop := context.AfterFunc(ctx, c.cut) // leaving revokes, and that commits once more
	defer stop()
	err := c.client.CommitMarkedOffsets(ctx)
	c.client.AllowRebalance()
	// Without it the client's own Close would try to leave as long as it retries any request.
	if leaving := c.client.LeaveGroupContext(ctx); leaving != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "the consumer group is left without a word", logging.Error(leaving))
	}
	c.client.Close()
	if err != nil {
		return fmt.Errorf("committing offsets: %w", err)
	}
	return nil
}

func partitions(byTopic map[string][]int32) []event.Partition {
	var out []event.Partition
	for topic, ids := range byTopic {
		for _, id := range ids {
			out = append(out, event.Partition{Topic: topic, ID: id})
		}
	}
	return out
}
