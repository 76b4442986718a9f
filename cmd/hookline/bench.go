package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hookline/hookline/internal/bench"
	"github.com/hookline/hookline/internal/kafka"
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
	fs.IntVar(&o.Merchants, "merchants", 10, "`number` of merchants with an endpoint each")
	fs.IntVar(&o.BodyBytes, "body-bytes", 1024, "about how many `bytes` a webhook has; the least is 730")
	asJSON := fs.Bool("json", false, "print the report as one JSON object on the last line")
	if _, err := parse(fs, args, 0, "bench (--burst N | --rate R --duration D) [flags]",
		"Measures the stack: webhooks delivered per second, the time from commit to 2xx, what every process spends.\nBrings the stack up where it is not. The merchants are this process's own. Exits 1 when an event was lost."); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return wrongUsage("%s", err)
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
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		if err := printJSON(stdout, report); err != nil {
			return err
		}
	} else {
		report.Print(stdout)
	}
	return report.Err()
}
