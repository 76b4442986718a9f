package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/stack"
)

const envDatabaseURL = "DATABASE_URL"

func endpoints(ctx context.Context, args []string, stdout, _ io.Writer) error {
	const verbs = "want `endpoints add` or `endpoints list`"
	if len(args) == 0 {
		return wrongUsage(verbs)
	}
	switch args[0] {
	case "add":
		return addEndpoint(ctx, args[1:], stdout)
	case "list":
		return listEndpoints(ctx, args[1:], stdout)
	case "-h", "-help", "--help":
		return helpError("Usage: hookline endpoints add --merchant M --url U [flags]\n       hookline endpoints list [flags]\n\nEach has --help.\n")
	default:
		return wrongUsage(verbs)
	}
}

func addEndpoint(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("endpoints add")
	dir := dirFlag(fs)
	merchant := fs.String("merchant", "", "`id` of the merchant (required)")
	target := fs.String("url", "", "`URL` that gets the webhooks (required)")
	secret := fs.String("secret", "", "signing `secret`, whsec_ and base64; drawn where none is given")
	description := fs.String("description", "", "`text` for whoever reads the list")
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	if _, err := parse(fs, args, 0, "endpoints add --merchant M --url U [flags]",
		"Adds an endpoint to the running stack, or to the ledger at "+envDatabaseURL+" where that is set."); err != nil {
		return err
	}
	if *merchant == "" || *target == "" {
		return wrongUsage("--merchant and --url are required")
	}
	store, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer store.Close()
	added, whsec, err := store.Add(ctx, endpoint.Spec{MerchantID: *merchant, URL: *target, Description: *description, Secret: *secret})
	if invalid, ok := errors.AsType[*fault.Error](err); ok && len(invalid.Fields) > 0 {
		var problems []string
		for field, problem := range invalid.Fields {
			problems = append(problems, flagOf(field)+": "+problem)
		}
		slices.Sort(problems)
		return wrongUsage("%s", strings.Join(problems, "; "))
	}
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			endpoint.Endpoint
			Secret string `json:"secret"`
		}{added, whsec})
	}
	fmt.Fprintf(stdout, "endpoint %s of %s\nsigning secret, shown only now: %s\n", added.ID, added.MerchantID, whsec)
	return nil
}

// flagOf is the flag that sets the endpoint's field.
func flagOf(field string) string {
	name, _, _ := strings.Cut(field, "_") // merchant_id
	return "--" + name
}

func listEndpoints(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("endpoints list")
	dir := dirFlag(fs)
	merchant := fs.String("merchant", "", "only those of the merchant with this `id`")
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "endpoints list [flags]",
		"Lists the endpoints of the running stack, or of the ledger at "+envDatabaseURL+" where that is set."); err != nil {
		return err
	}
	store, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer store.Close()
	all, err := store.List(ctx, *merchant)
	if err != nil {
		return err
	}
	if *asJSON {
		if all == nil {
			all = []endpoint.Endpoint{}
		}
		return printJSON(stdout, struct {
			Endpoints []endpoint.Endpoint `json:"endpoints"`
		}{all})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, e := range all {
		enabled := "enabled"
		if !e.Enabled {
			enabled = "disabled"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", e.ID, e.MerchantID, enabled, e.URL, e.Description)
	}
	return tw.Flush()
}

// openedEndpoints are the endpoints of a ledger, with the pool that reaches it.
type openedEndpoints struct {
	*endpoint.Manager
	Close func()
}

// endpointSettings are those of endpoints in a ledger at DATABASE_URL.
type endpointSettings struct {
	Egress egress.Config
	Keys   seal.Keyring `env:"ENCRYPTION_KEYS,required,notEmpty" secret:"true"`
}

// openEndpoints connects to the ledger at DATABASE_URL, or to the embedded stack's.
func openEndpoints(ctx context.Context, dir string) (openedEndpoints, error) {
	dsn := os.Getenv(envDatabaseURL)
	var settings endpointSettings
	var guard *egress.Guard
	var err error
	if dsn != "" {
		if settings, err = config.Load(settings, os.Environ()); err != nil {
			return openedEndpoints{}, err
		}
		guard = egress.New(settings.Egress)
	} else {
		status, err := stack.ReadStatus(ctx, dir)
		if err != nil {
			return openedEndpoints{}, err
		}
		if status.State(stack.Postgres) != stack.StateReady {
			return openedEndpoints{}, errors.New("the stack does not run: hookline up starts it; or set " + envDatabaseURL + " to another ledger")
		}
		dsn, settings.Keys = status.DSN, status.Keys
		if guard, err = stack.EmbeddedGuard(); err != nil {
			return openedEndpoints{}, err
		}
	}
	pool, err := postgres.NewPool(ctx, dsn, postgres.Options{ApplicationName: "hookline endpoints"})
	if err != nil {
		return openedEndpoints{}, fmt.Errorf("%s: %w", envDatabaseURL, err)
	}
	return openedEndpoints{Manager: stack.Endpoints(pool, settings.Keys, guard), Close: pool.Close}, nil
}
