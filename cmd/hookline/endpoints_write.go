package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/signing"
)

// specFlags are the flags that add and update share.
type specFlags struct {
	set *flag.FlagSet

	url, description, events, schedule, ordering, timeout, rateLimit string

	headers []string
	unknown bool
}

func addSpecFlags(fs *flag.FlagSet) *specFlags {
	f := &specFlags{set: fs}
	fs.StringVar(&f.url, "url", "", "`URL` that gets the webhooks; user info and query are kept encrypted; - reads it from standard input")
	fs.StringVar(&f.description, "description", "", "`text` for whoever reads the list")
	fs.StringVar(&f.events, "events", "", "comma-separated `types` that it gets, such as payment.*,invoice.paid; empty is every type but endpoint.*")
	fs.BoolVar(&f.unknown, "unknown-types", false, "let --events name types that the catalogue does not have")
	fs.Func("header", "`'Name: value'` sent with every webhook, kept encrypted; may be given several times. @FILE is the lines of a file", func(text string) error {
		f.headers = append(f.headers, text)
		return nil
	})
	fs.StringVar(&f.schedule, "schedule", "", "`waits` between attempts, such as 5s,5m,2h, or a preset: standard, day, minutes; default is the deployment's")
	fs.StringVar(&f.ordering, "ordering", "", "`ordering`: parallel, or object for each object's events in the order of its versions (default parallel)")
	fs.StringVar(&f.timeout, "timeout", "", "`duration` that an attempt may take, 1s to 30s (default 10s)")
	fs.StringVar(&f.rateLimit, "rate-limit", "", "most `webhooks` a second, 1 to 1000; none is as many as there are (default none)")
	return f
}

// change is what the flags that were given ask for. What cannot be read is in its Wrong.
func (f *specFlags) change() endpoint.Change {
	c := endpoint.Change{UnknownTypes: f.unknown, Wrong: map[string]string{}}
	f.set.Visit(func(given *flag.Flag) {
		switch given.Name {
		case "url":
			c.URL = &f.url
		case "description":
			c.Description = &f.description
		case "events":
			types := splitList(f.events)
			c.EventTypes = &types
		case "header":
			headers, problem := readHeaders(f.headers)
			if c.Headers = &headers; problem != "" {
				c.Wrong["headers"] = problem
			}
		case "schedule":
			var schedule delivery.Schedule
			if c.Schedule = &schedule; f.schedule != "default" {
				if err := schedule.UnmarshalText([]byte(f.schedule)); err != nil {
					c.Wrong["retry_schedule"] = err.Error()
				}
			}
		case "ordering":
			ordering := endpoint.Ordering(f.ordering)
			c.Ordering = &ordering
		case "timeout":
			// A wrong one is named once: it is not told that it is out of bounds, too.
			timeout, err := time.ParseDuration(f.timeout)
			if err != nil {
				c.Wrong["timeout"] = fmt.Sprintf("%q is not a duration such as 10s", f.timeout)
				return
			}
			c.Timeout = &timeout
		case "rate-limit":
			limit, err := readRateLimit(f.rateLimit)
			if err != nil {
				c.Wrong["rate_limit"] = err.Error()
				return
			}
			c.RateLimit = &limit
		}
	})
	return c
}

// readRateLimit reads 0 and none alike: no limit.
func readRateLimit(text string) (int, error) {
	if text == "none" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number of webhooks a second nor none", text)
	}
	return limit, nil
}

func splitList(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	list := strings.Split(text, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// readHeaders quotes no value: it may be a credential.
func readHeaders(given []string) (map[string]string, string) {
	headers := map[string]string{}
	lines, err := headerLines(given)
	if err != nil {
		return headers, err.Error()
	}
	for i, line := range lines {
		name, value, found := strings.Cut(line, ":")
		if !found {
			return headers, fmt.Sprintf("header %d has no colon: want 'Name: value'", i+1)
		}
		if _, twice := headers[name]; twice {
			return headers, fmt.Sprintf("%q is there twice", name)
		}
		headers[name] = strings.TrimSpace(value)
	}
	return headers, ""
}

func addEndpoint(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("endpoints add")
	dir := dirFlag(fs)
	merchant := fs.String("merchant", "", "`id` of the merchant, who need not exist yet (required)")
	flags := addSpecFlags(fs)
	secret := fs.String("secret", "", "signing `secret`, whsec_ or whsk_ and base64; - reads it from standard input; drawn where none is given")
	kind := fs.String("secret-kind", string(signing.HMAC), "`kind` of the secret that is drawn: hmac or ed25519")
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	if _, err := parse(fs, args, 0, "endpoints add --merchant M --url U [flags]", "Adds an endpoint to those"+ofEndpoints); err != nil {
		return err
	}
	if *merchant == "" || flags.url == "" {
		return wrongUsage("--merchant and --url are required")
	}
	if err := readSecretly(ctx, os.Stdin, map[string]*string{"--secret": secret, "--url": &flags.url}); err != nil {
		return err
	}
	opened, err := openToSeal(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	change := flags.change()
	added, verifier, err := opened.Add(ctx, endpoint.Spec{
		MerchantID: *merchant, URL: flags.url, Description: flags.description, EventTypes: value(change.EventTypes), UnknownTypes: flags.unknown,
		Headers: value(change.Headers), Schedule: value(change.Schedule), Ordering: value(change.Ordering), Timeout: value(change.Timeout),
		RateLimit: value(change.RateLimit), Secret: *secret, SecretKind: signing.Kind(*kind), Wrong: change.Wrong,
	})
	if err != nil {
		return asUsage(err)
	}
	sayAllowed(stderr, opened.Guard)
	if *asJSON {
		return printJSON(stdout, struct {
			endpoint.Endpoint
			Secret string `json:"secret"` // what the merchant verifies with
		}{added, verifier})
	}
	fmt.Fprintf(stdout, "endpoint %s of %s\n", added.ID, added.MerchantID)
	printVerifier(stdout, verifier)
	return nil
}

// sayAllowed tells who chose a URL what the rules are lifted for.
func sayAllowed(stderr io.Writer, guard *egress.Guard) {
	if open := guard.Describe(); open != "" {
		fmt.Fprintln(stderr, open)
	}
}

func value[T any](given *T) T {
	if given == nil {
		var none T
		return none
	}
	return *given
}

func printVerifier(stdout io.Writer, verifier string) {
	if strings.HasPrefix(verifier, "whpk_") {
		fmt.Fprintf(stdout, "public key to verify with: %s\n", verifier)
		return
	}
	fmt.Fprintf(stdout, "signing secret, shown only now: %s\n", verifier)
}

func updateEndpoint(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("endpoints update")
	dir := dirFlag(fs)
	flags := addSpecFlags(fs)
	noHeaders := fs.Bool("no-headers", false, "send no headers of its own any more")
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	rest, err := parse(fs, args, 1, "endpoints update ID [flags]",
		"Changes what is given of an endpoint"+ofEndpoints+"\n--header replaces all of its headers. What is planned already stays planned; attempts go by what the endpoint is then.")
	if err != nil {
		return err
	}
	id, err := endpointID(rest)
	if err != nil {
		return err
	}
	change := flags.change()
	if *noHeaders {
		if change.Headers != nil {
			return wrongUsage("want either --header or --no-headers")
		}
		change.Headers = &map[string]string{}
	}
	given := 0
	fs.Visit(func(f *flag.Flag) {
		if f.Name != "dir" && f.Name != "json" && f.Name != "unknown-types" {
			given++
		}
	})
	if given == 0 {
		return wrongUsage("want a flag that says what to change")
	}
	if err := readSecretly(ctx, os.Stdin, map[string]*string{"--url": &flags.url}); err != nil {
		return err
	}
	opened, err := openToSeal(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	updated, err := opened.Update(ctx, id, change)
	if err != nil {
		return asUsage(err)
	}
	if change.URL != nil {
		sayAllowed(stderr, opened.Guard)
	}
	if *asJSON {
		return printJSON(stdout, updated)
	}
	return printEndpoint(stdout, updated, nil)
}

func disableEndpoint(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints disable")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	opened, id, err := openEndpoint(ctx, fs, args, dir, "endpoints disable ID [flags]",
		"Stops deliveries to an endpoint"+ofEndpoints+"\nWhat is due, and what is planned from now on, is parked until it is enabled.")
	if err != nil {
		return err
	}
	defer opened.Close()
	if err := opened.Disable(ctx, id); err != nil {
		return err
	}
	if *asJSON {
		shown, err := opened.Get(ctx, id)
		if err != nil {
			return err
		}
		return printJSON(stdout, shown)
	}
	fmt.Fprintf(stdout, "endpoint %s is disabled: its deliveries are parked until it is enabled\n", id)
	return nil
}

func enableEndpoint(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints enable")
	dir := dirFlag(fs)
	drop := fs.Bool("drop-parked", false, "end what was parked, as dead, instead of sending it")
	asJSON := fs.Bool("json", false, "print the endpoint, and how much was parked, as JSON on the last line")
	opened, id, err := openEndpoint(ctx, fs, args, dir, "endpoints enable ID [flags]",
		"Lets deliveries to an endpoint begin again"+ofEndpoints+"\nWhat was parked is sent, the oldest first.")
	if err != nil {
		return err
	}
	defer opened.Close()
	parked, err := opened.Enable(ctx, id, *drop)
	if err != nil {
		return err
	}
	if *asJSON {
		shown, err := opened.Get(ctx, id)
		if err != nil {
			return err
		}
		return printJSON(stdout, struct {
			endpoint.Endpoint
			Parked  int64 `json:"parked"`
			Dropped bool  `json:"dropped"`
		}{shown, parked, *drop})
	}
	fate := "are sent, the oldest first"
	if *drop {
		fate = "were dropped"
	}
	fmt.Fprintf(stdout, "endpoint %s is enabled; %d parked deliveries %s\n", id, parked, fate)
	return nil
}

func removeEndpoint(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints remove")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print how many parked deliveries ended as JSON on the last line")
	opened, id, err := openEndpoint(ctx, fs, args, dir, "endpoints remove ID [flags]",
		"Removes an endpoint, with its secrets, from those"+ofEndpoints+"\nIts open deliveries end as dead. There is no way back: disable keeps it.")
	if err != nil {
		return err
	}
	defer opened.Close()
	parked, err := opened.Remove(ctx, id)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			ID     string `json:"id"`
			Parked int64  `json:"parked"`
		}{id.String(), parked})
	}
	fmt.Fprintf(stdout, "endpoint %s is removed; %d parked deliveries ended with it\n", id, parked)
	return nil
}

func rotateSecret(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints rotate-secret")
	dir := dirFlag(fs)
	overlap := fs.Duration("overlap", endpoint.DefaultOverlap, "how long the secrets before it sign as well, at most 168h; 0 ends them now")
	kind := fs.String("secret-kind", "", "`kind` of the secret that is drawn: hmac or ed25519 (default: as the present one)")
	secret := fs.String("secret", "", "the new `secret`, whsec_ or whsk_ and base64; - reads it from standard input; drawn where none is given")
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	rest, err := parse(fs, args, 1, "endpoints rotate-secret ID [flags]",
		"Gives an endpoint a new signing secret, and prints what to verify with. Of the endpoints"+ofEndpoints+
			"\nWebhooks carry a signature by each live secret, so that the merchant can change over at any time of the overlap.")
	if err != nil {
		return err
	}
	id, err := endpointID(rest)
	if err != nil {
		return err
	}
	if err := readSecretly(ctx, os.Stdin, map[string]*string{"--secret": secret}); err != nil {
		return err
	}
	opened, err := openToSeal(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	verifier, err := opened.RotateSecret(ctx, id, *secret, signing.Kind(*kind), *overlap)
	if err != nil {
		return asUsage(err)
	}
	shown, err := opened.Get(ctx, id)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			endpoint.Endpoint
			Secret string `json:"secret"` // what the merchant verifies with
		}{shown, verifier})
	}
	printVerifier(stdout, verifier)
	for _, each := range shown.Secrets {
		if each.ExpiresAt != nil {
			fmt.Fprintf(stdout, "the secret of %s signs until %s\n", each.CreatedAt.Format(time.RFC3339), each.ExpiresAt.Format(time.RFC3339))
		}
	}
	return nil
}
