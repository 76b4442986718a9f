package main

import (
	"context"
	"fmt"
	"io"

	"github.com/hookline/hookline/internal/stack"
)

// bringUp starts what does not run, as up does, for the verbs that need the whole stack. A Kafka that runs is kept
// unless another one is asked for, and so are the number of workers and a Svix server: what there is was decided by whoever brought the stack
// up.
func bringUp(ctx context.Context, options stack.Options, stderr io.Writer) (stack.Status, error) {
	complete, err := keepKafka(ctx, options)
	if err != nil {
		return stack.Status{}, err
	}
	return stack.Up(ctx, complete, func(line string) { fmt.Fprintln(stderr, line) })
}

// keepKafka completes the options with the Kafka that runs, and as many workers, where nothing else is asked for.
func keepKafka(ctx context.Context, options stack.Options) (stack.Options, error) {
	complete, err := options.Complete()
	if err != nil {
		return complete, wrongUsage("%s", err)
	}
	current, err := stack.ReadStatus(ctx, complete.Dir)
	if err != nil {
		return complete, err
	}
	if options.Kafka == "" && current.State(stack.Kafka) != stack.StateStopped {
		complete.Kafka = current.Kafka
	}
	if options.Workers == 0 && current.State(stack.WebhookWorker) != stack.StateStopped {
		complete.Workers = current.Workers
	}
	if state := current.State(stack.Svix); state == stack.StateReady || state == stack.StateStarting {
		complete.Svix = true
	}
	return complete, nil
}
