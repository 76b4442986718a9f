package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/hookline/hookline/internal/stack"
)

func status(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("status")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line, with a DSN that may read everything")
	if _, err := parse(fs, args, 0, "status [flags]", "Says what of the stack runs."); err != nil {
		return err
	}
	current, err := stack.ReadStatus(ctx, *dir)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, current)
	}
	printStatus(stdout, current)
	return nil
}

func printStatus(w io.Writer, s stack.Status) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, c := range s.Components {
		pid := "-"
		if c.PID != 0 {
			pid = fmt.Sprint(c.PID)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\tpid %s\n", c.Name, c.State, c.Address, pid)
	}
	tw.Flush()
	fmt.Fprintf(w, "intake %s, kafka %s\n", s.Intake, s.Kafka)
}
