package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/crashtest"
)

// oldPayments are as many as the first demonstrations of this kind made.
const oldPayments = 100

func runCrashTest(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("crash-test")
	options, err := runFlags(fs)
	if err != nil {
		return err
	}
	o := crashtest.Options{Token: os.Getenv("API_TOKEN")}
	fault := fs.String("fault", "kill:webhook-worker", "what to break, as `kind:component`: "+strings.Join(crashtest.Names(), ", "))
	faults := fs.String("faults", "", "`random` for a sequence of kills, freezes and deploys, drawn by the seed, for as long as --duration")
	fs.DurationVar(&o.Duration, "duration", time.Minute, "how long random faults go on")
	fs.Uint64Var(&o.Seed, "seed", 0, "`number` that draws the random faults (default: a random one, printed)")
	fs.IntVar(&o.Payments, "payments", 1000, "`number` of payments; more where the fault lasts longer than they take")
	fs.Float64Var(&o.Rate, "rate", 100, "payments per `second`")
	fs.IntVar(&o.Merchants, "merchants", 10, "`number` of merchants with an endpoint each")
	fs.Float64Var(&o.Refunds, "refunds", 0.1, "`share` of the payments that are refunded: a second event each")
	fs.BoolVar(&o.Ordered, "ordered", false, "endpoints that want each payment's events in order, and payments with up to seven changes of status:\n"+
		"exits 1 also when a version is accepted before an earlier one. Of --payments there are 200, and of --rate 10, where nobody says")
	fs.DurationVar(&o.Freeze, "freeze", 20*time.Second, "how long a freeze lasts")
	fs.DurationVar(&o.Hold, "hold", 2*time.Minute, "how long the long transaction is held open")
	fs.BoolVar(&o.HangOne, "hang-one", false, "the first merchant never answers while there is load")
	old := fs.Bool("old", false, "show instead what the architecture before loses, which keeps webhooks in memory: 100 payments, one kill")
	again := fs.Bool("check-again", false, "break nothing, and compare once more what the run with this --seed left in the database and at the merchants")
	matrix := fs.String("matrix", "", "`file` to write a report to, as Markdown, of every fault one after the other; takes about half an hour")
	plot := fs.String("plot", "", "`file` to write commits, deliveries and the fault to, as an SVG")
	asJSON := fs.Bool("json", false, "print the result as one JSON object on the last line")
	if _, err := parse(fs, args, 0, "crash-test [flags]",
		"Breaks the stack under load and proves what came of it, by comparing ids and contents: what the API acknowledged, what\n"+
			"PostgreSQL committed, what the merchants received. Brings the stack up where it is not; it stays up, with an impatient\n"+
			"reconciler until the next up. Exits 1 when an event was lost, invented, changed, left unaccounted, or sent twice more\n"+
			"than 250 ms after its 2xx."); err != nil {
		return err
	}
	switch {
	case *faults == "random":
		o.Random = true
	case *faults != "":
		return wrongUsage("--faults is random, not %q", *faults)
	}
	if o.Ordered { // each payment is five events, and each event of it a step of its own
		if !isSet(fs, "payments") {
			o.Payments = 200
		}
		if !isSet(fs, "rate") {
			o.Rate = 10
		}
	}
	if o.Fault, err = crashtest.ParseFault(*fault); err != nil {
		return wrongUsage("%s", err)
	}
	if err := o.Validate(); err != nil {
		return wrongUsage("%s", err)
	}
	if o.Seed == 0 {
		o.Seed = uint64(rand.Uint32()) //nolint:gosec // it names a run, and guards nothing
	}
	o.Progress = func(line string) { fmt.Fprintln(stderr, line) }
	fmt.Fprintf(stderr, "seed %d\n", o.Seed)
	report := func(result crashtest.Result) error {
		out := stdout
		if *asJSON {
			out = stderr
		}
		result.Print(out)
		if *plot != "" {
			if err := writePlot(*plot, result.Plot); err != nil {
				return err
			}
			fmt.Fprintf(out, "plot: %s\n", *plot)
		}
		if *asJSON {
			return printJSON(stdout, result)
		}
		return nil
	}
	if *old {
		complete, err := options.Complete()
		if err != nil {
			return wrongUsage("%s", err)
		}
		result, err := crashtest.RunOld(ctx, crashtest.OldOptions{
			BinDir: complete.BinDir, PortOffset: complete.PortOffset, Payments: oldPayments, Rate: o.Rate, Seed: o.Seed, Progress: o.Progress,
		})
		if err != nil {
			return err
		}
		return report(result) // that it loses is what it is for
	}
	if o.Stack, err = keepKafka(ctx, *options); err != nil {
		return err
	}
	if *again {
		result, err := crashtest.CheckAgain(ctx, o.Stack, o.Token, o.Seed)
		if err != nil {
			return err
		}
		return errors.Join(report(result), result.Err())
	}
	if *matrix != "" {
		return runMatrix(ctx, o, *matrix)
	}
	result, err := crashtest.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := report(result); err != nil {
		return err
	}
	return result.Err()
}

func writePlot(name string, plot func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return errors.Join(plot(file), file.Close())
}

// runMatrix writes the report anew after each fault, so that an interrupted one shows what there was.
func runMatrix(ctx context.Context, o crashtest.Options, name string) error {
	var writing error
	m, err := crashtest.RunMatrix(ctx, o, func(m crashtest.Matrix, left int) {
		row := m.Rows[len(m.Rows)-1]
		o.Progress(fmt.Sprintf("=== %s: %s; %d to go", row.Flags, row.Verdict(), left))
		file, err := os.Create(name)
		if err == nil {
			err = errors.Join(m.Write(file), file.Close())
		}
		writing = err
	})
	if err := errors.Join(err, writing); err != nil {
		return err
	}
	return m.Err()
}
