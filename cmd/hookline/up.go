package main

import (
	"context"
	"fmt"
	"io"

	"github.com/hookline/hookline/internal/stack"
)

func up(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("up")
	options, err := runFlags(fs)
	if err != nil {
		return err
	}
	asJSON := fs.Bool("json", false, "print the status as JSON on the last line")
	if _, err := parse(fs, args, 0, "up [flags]",
		"Starts the stack in the background and waits until it is ready. What runs already is left alone; what is dead,\nor differs from what is asked for, is started anew."); err != nil {
		return err
	}
	complete, err := options.Complete()
	if err != nil {
		return wrongUsage("%s", err)
	}
	status, err := stack.Up(ctx, complete, func(line string) { fmt.Fprintln(stderr, line) })
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, status)
	}
	printStatus(stdout, status)
	return nil
}
