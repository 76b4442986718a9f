package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/demo"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/svix"
)

func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("demo")
	options, err := runFlags(fs)
	if err != nil {
		return err
	}
	name := fs.String("scenario", "", "show something in particular, by `name`: "+demo.ScenarioNames())
	count := fs.Int("payments", 0, "`number` of payments to create, with a scenario for each merchant (default 20, or the scenario's own)")
	refunds := fs.Int("refunds", -1, "`number` of them to refund: a second event each (default a tenth; none with --json; not with a scenario)")
	drawing := fs.String("plot", "", "`file` for a scenario's plot, an SVG, where it has one (default SCENARIO.svg in the state directory)")
	deliverer := fs.String("deliverer", delivery.RouteInhouse, "who delivers the webhooks: inhouse or svix, a Svix server of the stack's own (svix not with a scenario)")
	asJSON := fs.Bool("json", false, "print the result as one JSON object on the last line, and the rest to stderr")
	if _, err := parse(fs, args, 0, "demo [flags]",
		"Brings the stack up where it is not, creates payments, and shows their webhooks arrive. The stack stays up.\n"+
			"Exits 1 when a webhook did not arrive or was not signed well, or came otherwise than the scenario has it."); err != nil {
		return err
	}
	out := stdout
	if *asJSON {
		out = stderr
	}
	o := demo.Options{Payments: *count, MerchantID: stack.DemoMerchant, Token: os.Getenv("API_TOKEN"), Out: out}
	switch {
	case *deliverer != delivery.RouteInhouse && *deliverer != delivery.RouteSvix:
		return wrongUsage("--deliverer is inhouse or svix, not %q", clean(*deliverer, 100))
	case *deliverer == delivery.RouteSvix && *name != "":
		return wrongUsage("--deliverer svix does not go with --scenario")
	case *deliverer == delivery.RouteSvix:
		options.Svix = true
	}
	if *name != "" {
		scenario, err := demo.FindScenario(*name)
		if err != nil {
			return wrongUsage("%s", err)
		}
		if *refunds >= 0 {
			return wrongUsage("--refunds does not go with --scenario")
		}
		if !isSet(fs, "payments") {
			o.Payments = scenario.Payments
		}
		if err := o.Validate(); err != nil {
			return wrongUsage("%s", err)
		}
		return runScenario(ctx, *options, o, scenario, *name, *drawing, *asJSON, stdout, stderr)
	}
	if *drawing != "" {
		return wrongUsage("--plot goes with --scenario")
	}
	if !isSet(fs, "payments") {
		o.Payments = 20
	}
	switch {
	case *refunds >= 0:
		o.Refunds = *refunds
	case !*asJSON:
		o.Refunds = o.Payments / 10
	}
	if err := o.Validate(); err != nil {
		return wrongUsage("%s", err)
	}
	status, err := bringUp(ctx, *options, stderr)
	if err != nil {
		return err
	}
	onStack(&o, status)
	pool, err := postgres.NewPool(ctx, status.DSN, postgres.Options{ApplicationName: "hookline demo"})
	if err != nil {
		return err
	}
	defer pool.Close()
	o.Routes = postgres.NewRouteStore(pool)
	if *deliverer == delivery.RouteSvix {
		client, err := svix.New(svix.Options{Token: status.SvixToken, BaseURL: "http://" + status.Address(stack.Svix)})
		if err != nil {
			return err
		}
		defer client.Close()
		o.Svix = &demo.Svix{Client: client, Secret: status.WebhookSecret}
	}

	fmt.Fprintf(out, "\nCreating %d payments of %s at http://%s/payments, refunding %d of them:\n\n", o.Payments, o.MerchantID, o.API, o.Refunds)
	result, err := demo.Run(ctx, o)
	if err != nil {
		return err
	}
	result.Print(out)
	result.Addresses = showAddresses(out, status)
	if *asJSON {
		if err := printJSON(stdout, result); err != nil {
			return err
		}
	}
	return result.Err()
}

// onStack says where everything of the demo is.
func onStack(o *demo.Options, status stack.Status) {
	o.API, o.Worker, o.Merchant = status.Address(stack.PaymentsAPI), status.Address(stack.WebhookWorker), status.Address(stack.MerchantSimulator)
	o.DSN, o.Kafka = status.DSN, status.Kafka
	o.Topic = kafka.Config{Brokers: []string{status.Address(stack.Kafka)}, Topic: stack.Topic}
}

// isSet reports whether the user gave the flag.
func isSet(fs *flag.FlagSet, name string) bool {
	set := false
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

func runScenario(ctx context.Context, options stack.Options, o demo.Options, scenario demo.Scenario, name, drawing string, asJSON bool, stdout, stderr io.Writer) error {
	complete, err := options.Complete()
	if err != nil {
		return wrongUsage("%s", err)
	}
	status, err := bringUp(ctx, options, stderr)
	if err != nil {
		return err
	}
	onStack(&o, status)
	pool, err := postgres.NewPool(ctx, status.DSN, postgres.Options{ApplicationName: "hookline demo"})
	if err != nil {
		return err
	}
	defer pool.Close()
	guard, err := stack.EmbeddedGuard()
	if err != nil {
		return err
	}
	o.Endpoints = stack.Endpoints(pool, status.Keys, guard)
	o.CallbackSecret, o.RestateAdmin = status.CallbackSecret, status.RestateAdmin()
	if o.Kill, err = killingWorkers(status); err != nil {
		return err
	}
	options.Kafka, options.Workers = status.Kafka, status.Workers // what runs is to stay as it is
	o.Up = func(ctx context.Context) error {
		_, err := stack.Up(ctx, options, func(line string) { fmt.Fprintln(stderr, line) })
		return err
	}
	fmt.Fprintf(o.Out, "\n%s:\n", scenario.About)
	outcome, err := scenario.Run(ctx, o)
	if err != nil {
		return err
	}
	outcome.Print(o.Out)
	if plotter, ok := outcome.(demo.Plotter); ok {
		if drawing == "" {
			drawing = filepath.Join(complete.Dir, name+".svg")
		}
		if err := writePlot(drawing, plotter.Plot); err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "\nThe plot is in %s\n", drawing)
	}
	if asJSON {
		if err := printJSON(stdout, outcome); err != nil {
			return err
		}
	}
	return outcome.Err()
}

// killingWorkers returns a function that kills the webhook-workers that run now, and returns when they are gone.
func killingWorkers(status stack.Status) (func(context.Context) error, error) {
	var workers []process.Identity
	for _, c := range status.Components {
		if slices.Contains(status.WorkerNames(), c.Name) {
			identity, err := process.Of(c.PID)
			if err != nil {
				return nil, fmt.Errorf("finding %s: %w", c.Name, err)
			}
			workers = append(workers, identity)
		}
	}
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, worker := range workers {
			group.Go(func() error {
				_, err := worker.Stop(ctx, syscall.SIGKILL, 10*time.Second)
				return err
			})
		}
		return group.Wait()
	}, nil
}

// showAddresses prints what there is to open, and returns it by name.
func showAddresses(w io.Writer, status stack.Status) map[string]string {
	merchant := "http://" + status.Address(stack.MerchantSimulator)
	api := "http://" + status.Address(stack.PaymentsAPI) + "/payments"
	var ui string
	for _, c := range status.Components {
		if c.Name == stack.Restate {
			ui = "http://" + c.Admin + "/ui/"
		}
	}
	fmt.Fprintf(w, `
The stack goes on running (stop it with: bin/hookline down). Look around:

  Restate UI       %s  every batch of webhooks, step by step
  merchant         %s/stats  what it has received
  payments API     %s  create one yourself:
    curl -X POST %s -H 'content-type: application/json' -d '{"amount": 1000, "currency": "USD"}'
  Let the merchant fail for a while, and watch the retries:
    curl -X PUT %s/behaviour -H 'content-type: application/json' -d '{"status": 503}'
    curl -X PUT %s/behaviour -H 'content-type: application/json' -d '{}'
`, ui, merchant, api, api, merchant, merchant)
	return map[string]string{"restate_ui": ui, "merchant": merchant + "/stats", "payments_api": api}
}
