package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
)

// AwaitConsumers waits until every partition of the topic has a member of the group that consumes it. A stack is ready
// a little before: what is written meanwhile waits in Kafka, safely, but would be measured as slow.
func AwaitConsumers(ctx context.Context, cfg kafka.Config, group string, patience time.Duration) error {
	client, err := kgo.NewClient(cfg.Options()...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		consumed, err := consumed(ctx, admin, cfg.Topic, group)
		if consumed {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until group %s consumes topic %s: %w", group, cfg.Topic, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func consumed(ctx context.Context, admin *kadm.Client, topic, group string) (bool, error) {
	topics, err := admin.ListTopics(ctx, topic)
	if err != nil {
		return false, err
	}
	if err := topics.Error(); err != nil {
		return false, err
	}
	groups, err := admin.DescribeGroups(ctx, group)
	if err != nil {
		return false, err
	}
	described := groups[group]
	if described.Err != nil {
		return false, described.Err
	}
	return described.State == "Stable" && len(described.AssignedPartitions()[topic]) == len(topics[topic].Partitions), nil
}
