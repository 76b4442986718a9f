package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/listen"
	"github.com/hookline/hookline/internal/stack"
)

func runListen(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("listen")
	dir := dirFlag(fs)
	forwardTo := fs.String("forward-to", "", "`URL` of your server, such as http://localhost:8000/hook; without it every webhook is answered with 200")
	merchant := fs.String("merchant", stack.DemoMerchant, "`id` of the merchant whose webhooks to get")
	events := fs.String("events", "", "comma-separated event `types`, such as payment.*,invoice.sent; none is all but the operational ones")
	address := fs.String("address", "", "`host:port` by which the workers reach this machine, where they run elsewhere; default a free port of 127.0.0.1")
	asJSON := fs.Bool("json", false, "print one JSON object per line")
	body := fs.Bool("body", false, "print the bodies, too")
	if _, err := parse(fs, args, 0, "listen [--forward-to URL] [flags]",
		"Prints a merchant's webhooks as they come and forwards them to your server, whose answers count: what it refuses is tried\nagain after 1, 5 and 30 s. It adds a temporary endpoint to the running stack, or to the ledger at "+envDatabaseURL+" where that is\nset, prints the secret to verify with, and removes the endpoint when it is interrupted."); err != nil {
		return err
	}
	o := listen.Options{
		MerchantID: *merchant, Address: listen.Loopback(), Printer: listen.NewPrinter(stdout),
		Note: func(line string) { fmt.Fprintln(stderr, line) },
	}
	o.Printer.JSON, o.Printer.Body = *asJSON, *body
	var err error
	if *forwardTo != "" {
		if o.ForwardTo, err = listen.ParseForwardTo(*forwardTo); err != nil {
			return wrongUsage("--forward-to: %s", err)
		}
	}
	if *address != "" {
		if o.Address, err = listen.ParseAddress(*address); err != nil {
			return wrongUsage("--address: %s", err)
		}
	}
	if *events != "" {
		for piece := range strings.SplitSeq(*events, ",") {
			o.EventTypes = append(o.EventTypes, strings.TrimSpace(piece))
		}
	}
	store, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer store.Close()
	err = explainListen(listen.Run(ctx, heldWhileAdding{store.Manager, *dir}, o), os.Getenv(envDatabaseURL) == "")
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, err) // that it was interrupted is not all: the endpoint is still there
	}
	return err
}

// heldWhileAdding keeps the embedded stack's keys what they are while the endpoint is added, and no longer: they may be
// replaced while somebody listens.
type heldWhileAdding struct {
	*endpoint.Manager

	dir string
}

// Add is that of listen's endpoints.
func (h heldWhileAdding) Add(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, string, error) {
	opened, err := openToSeal(ctx, h.dir)
	if err != nil {
		return endpoint.Endpoint{}, "", err
	}
	defer opened.Close()
	return opened.Add(ctx, spec)
}

// explainListen says what to do about what Run refuses.
func explainListen(err error, embedded bool) error {
	if refused, ok := errors.AsType[*listen.Refused](err); ok {
		if embedded {
			return fmt.Errorf("%w; the workers of the stack on this machine reach it by loopback: leave --address out", err)
		}
		return fmt.Errorf("%w; set ENDPOINT_ALLOW=%s for the webhook-workers and for this command, or give with --address a host:port that it has already",
			err, hostOf(refused.URL))
	}
	if invalid, ok := errors.AsType[*fault.Error](err); ok && len(invalid.Fields) > 0 {
		flags := map[string]string{"merchant_id": "--merchant", "event_types": "--events", "url": "--address"}
		var problems []string
		for _, field := range slices.Sorted(maps.Keys(invalid.Fields)) {
			problems = append(problems, flags[field]+": "+invalid.Fields[field])
		}
		return wrongUsage("%s", strings.Join(problems, "; "))
	}
	return err
}

// hostOf is the URL's host as an allow-list takes it.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil { // it is made of one
		return "HOST"
	}
	return u.Hostname()
}
