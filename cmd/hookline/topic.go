package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/stack"
)

// topicPatience is for a broker that listens and is not the controller's yet.
const topicPatience = time.Minute

// topic makes the topic on a broker outside the embedded stack. Run again, it changes nothing.
func topic(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("topic")
	brokers := fs.String("brokers", "", "`host:port`s to bootstrap from, with commas between them")
	name := fs.String("name", stack.Topic, "`name` of the topic")
	partitions := fs.Int("partitions", 12, "`number` of partitions: as many as there may ever be workers")
	copies := fs.Int("copies", 1, "`number` of copies of each: 3 on a cluster")
	retention := fs.Duration("retention", 7*24*time.Hour, "how long records are kept: the workers' TOPIC_RETENTION")
	if _, err := parse(fs, args, 0, "topic --brokers HOST:PORT,... [flags]",
		"Makes the topic of the events where it is missing. One that exists is left as it is: more partitions would move the keys."); err != nil {
		return err
	}
	switch {
	case *brokers == "":
		return wrongUsage("--brokers is missing")
	case *name == "":
		return wrongUsage("--name is empty")
	case *partitions < 1 || *partitions > 1000:
		return wrongUsage("a topic has 1 to 1,000 partitions, not %d", *partitions)
	case *copies < 1 || *copies > 10:
		return wrongUsage("a partition has 1 to 10 copies, not %d", *copies)
	case *retention < time.Minute:
		return wrongUsage("records are kept for a minute at least, not %s", *retention)
	}
	cfg := kafka.Config{Brokers: strings.Split(*brokers, ","), Topic: *name}
	shape := stack.TopicShape{Partitions: int32(*partitions), Copies: int16(*copies), Retention: *retention}
	if err := stack.MakeTopic(ctx, cfg, shape, topicPatience); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "the topic %s is there\n", *name)
	return nil
}
