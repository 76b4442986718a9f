package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/hookline/hookline/internal/stack"
)

func doctor(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("doctor")
	options, err := runFlags(fs)
	if err != nil {
		return err
	}
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "doctor [flags]", "Says what up needs, what of it is missing, and the command that gets it."); err != nil {
		return err
	}
	complete, err := options.Complete()
	if err != nil {
		return wrongUsage("%s", err)
	}
	checks, err := stack.Doctor(ctx, complete)
	if err != nil {
		return err
	}
	healthy := true
	for _, check := range checks {
		healthy = healthy && (check.OK || !check.Required)
	}
	if *asJSON {
		err = printJSON(stdout, struct {
			OK     bool          `json:"ok"`
			Checks []stack.Check `json:"checks"`
		}{healthy, checks})
	} else {
		err = printChecks(stdout, checks)
	}
	if err == nil && !healthy {
		return errors.New("something that up needs is missing")
	}
	return err
}

func printChecks(w io.Writer, checks []stack.Check) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, check := range checks {
		mark := "ok"
		switch {
		case !check.OK && check.Required:
			mark = "MISSING"
		case !check.OK:
			mark = "optional"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", mark, check.Name, check.Detail)
		if !check.OK && check.Fix != "" {
			fmt.Fprintf(tw, "\t\t  %s\n", check.Fix)
		}
	}
	return tw.Flush()
}
