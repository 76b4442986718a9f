package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hookline/hookline/internal/bench"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/stack"
)

func runBench(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("bench")
	options, err := runFlags(fs)
	if err != nil {
		return err
	}
	o := bench.Options{
		Token: os.Getenv("API_TOKEN"), Database: stack.Postgres,
		Progress: func(line string) { fmt.Fprintln(stderr, line) },
	}
	fs.IntVar(&o.Burst, "burst", 0, "`number` of payments, as fast as the publishers can")
	fs.IntVar(&o.Publishers, "publishers", 32, "`number` of publishers of a burst, each with one request open at a time")
	fs.Float64Var(&o.Rate, "rate", 0, "payments per second, in an open loop")
	fs.DurationVar(&o.Duration, "duration", 30*time.Second, "how long a rate lasts")
	fs.IntVar(&o.Merchants, "merchants", 10, "`number` of merchants with an endpoint each; 40 with --hanging or --failing")
	fs.IntVar(&o.BodyBytes, "body-bytes", 1024, "about how many `bytes` a webhook has; the least is 730")
	fs.Func("hanging", "`share` of the merchants whose endpoints take a webhook and never answer, as 20%", share(&o.Hanging))
	fs.Func("failing", "`share` of the merchants whose endpoints answer 500, as 10%", share(&o.Failing))
	alternate := fs.Int("alternate", 0, "`times` to run with those endpoints and without, in turn; compares the medians, and exits 1\nwhere the others' p99 moved by 10 % and 3 ms")
	asJSON := fs.Bool("json", false, "print the report as one JSON object on the last line")
	if _, err := parse(fs, args, 0, "bench (--burst N | --rate R --duration D) [flags]",
		"Measures the stack: webhooks delivered per second, the time from commit to 2xx, what every process spends.\nBrings the stack up where it is not. The merchants are this process's own. Exits 1 when an event was lost."); err != nil {
		return err
	}
	if (isSet(fs, "hanging") || isSet(fs, "failing")) && !isSet(fs, "merchants") {
		o.Merchants = sharedMerchants // also for a share of 0, which is to be compared with others
	}
	if err := o.Validate(); err != nil {
		return wrongUsage("%s", err)
	}
	if isSet(fs, "alternate") {
		if err := o.CheckAlternations(*alternate); err != nil {
			return wrongUsage("%s", err)
		}
	}
	status, err := bringUp(ctx, *options, stderr)
	if err != nil {
		return err
	}
	o.API, o.Worker = status.Address(stack.PaymentsAPI), status.Address(stack.WebhookWorker)
	o.DSN, o.Keys, o.Kafka = status.DSN, status.Keys, status.Kafka
	o.Topic = kafka.Config{Brokers: []string{status.Address(stack.Kafka)}, Topic: stack.Topic}
	for _, c := range status.Components {
		o.Components = append(o.Components, bench.Component{Name: c.Name, PID: c.PID})
	}
	pool, err := postgres.NewPool(ctx, status.DSN, postgres.Options{ApplicationName: "hookline bench"})
	if err != nil {
		return err
	}
	defer pool.Close()
	o.Endpoints = postgres.NewEndpointStore(pool)
	if *alternate > 0 {
		comparison, err := bench.Compare(ctx, o, *alternate)
		if err != nil {
			return err
		}
		return showMeasured(comparison, *asJSON, stdout)
	}
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	return showMeasured(report, *asJSON, stdout)
}

// sharedMerchants are enough for a share of a twentieth to be two of them.
const sharedMerchants = 40

// share reads a flag that is a share.
func share(into *float64) func(string) error {
	return func(text string) error {
		var err error
		*into, err = bench.ParseShare(text)
		return err
	}
}

// measured is what came of a bench.
type measured interface {
	Print(w io.Writer)
	Err() error
}

func showMeasured(m measured, asJSON bool, stdout io.Writer) error {
	if !asJSON {
		m.Print(stdout)
		return m.Err()
	}
	return errors.Join(printJSON(stdout, m), m.Err())
}
