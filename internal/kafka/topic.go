package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// EnsureTopic makes the topic where it does not exist, with that many partitions, copies of each, and
// retention; a retention of 0 leaves it to the broker's default. A topic that exists is left as it is: it is
// its operator's, and more partitions would move the keys. It is safe to call from several processes at once.
func EnsureTopic(ctx context.Context, client *kgo.Client, topic string, partitions int32, replication int16, retention time.Duration) error {
	settings := map[string]*string{}
	if retention != 0 {
		ms := strconv.FormatInt(retention.Milliseconds(), 10)
		settings["retention.ms"] = &ms
	}
	_, err := kadm.NewClient(client).CreateTopic(ctx, partitions, replication, settings, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("creating the topic %s: %w", topic, err)
	}
	return nil
}
