package main

import (
	"context"
	"fmt"
	"io"

	"github.com/hookline/hookline/internal/stack"
)

func down(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("down")
	dir := dirFlag(fs)
	purge := fs.Bool("purge", false, "also remove the stack's state: its databases, logs and passwords")
	if _, err := parse(fs, args, 0, "down [flags]", "Stops the stack. Its data stays for the next up."); err != nil {
		return err
	}
	stop := stack.Down
	if *purge {
		stop = stack.Purge
	}
	return stop(ctx, *dir, func(line string) { fmt.Fprintln(stderr, line) })
}
