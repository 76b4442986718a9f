package main

import (
	"context"
	"fmt"
	"io"

	"github.com/hookline/hookline/internal/stack"
)

// bringUp starts what does not run, as up does, for the verbs that need the whole stack. A Kafka that runs is kept
// unless another one is asked for: which broker there is was decided by whoever brought the stack up.
func bringUp(ctx context.Context, options stack.Options, stderr io.Writer) (stack.Status, error) {
	complete, err := keepKafka(ctx, options)
	if err != nil {
		return stack.Status{}, err
	}
	return stack.Up(ctx, complete, func(line string) { fmt.Fprintln(stderr, line) })
}

// keepKafka completes the options with the Kafka that runs, where no other is asked for.
func keepKafka(ctx context.Context, options stack.Options) (stack.Options, error) {
	complete, err := options.Complete()
	if err != nil {
		return complete, wrongUsage("%s", err)
	}
	if options.Kafka != "" {
		return complete, nil
	}
	current, err := stack.ReadStatus(ctx, complete.Dir)
	if err != nil {
		return complete, err
	}
	if current.State(stack.Kafka) != stack.StateStopped {
		complete.Kafka = current.Kafka
	}
	return complete, nil
}
