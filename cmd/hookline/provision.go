package main

import (
	"context"
	"fmt"
	"io"

	"github.com/hookline/hookline/internal/stack"
)

// provision is for the Makefile: it downloads what up and the tests need, and prints the directory of a
// PostgreSQL that it had to download, for HOOKLINE_POSTGRES_BIN.
func provision(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("provision")
	if _, err := parse(fs, args, 0, "provision", "Downloads what the stack and the tests need and the machine lacks."); err != nil {
		return err
	}
	dir, err := stack.Provision(ctx, func(line string) { fmt.Fprintln(stderr, line) })
	if err != nil {
		return err
	}
	if dir != "" {
		fmt.Fprintln(stdout, dir)
	}
	return nil
}
