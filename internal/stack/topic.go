package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
)

// TopicShape is how a topic is made.
type TopicShape struct {
	Partitions int32
	Copies     int16         // of each partition
	Retention  time.Duration // 0 leaves it to the broker
}

// MakeTopic makes the topic of cfg where it is missing, on a broker that runs by itself or as part of the embedded
// stack. A broker may answer a ping before it can do that: it is tried until patience has passed.
func MakeTopic(ctx context.Context, cfg kafka.Config, shape TopicShape, patience time.Duration) error {
	client, err := kgo.NewClient(cfg.Options()...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer client.Close()
	return poll(ctx, patience, func(ctx context.Context) error {
		return kafka.EnsureTopic(ctx, client, cfg.Topic, shape.Partitions, shape.Copies, shape.Retention)
	})
}
