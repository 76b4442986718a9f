package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/stack"
)

const envDatabaseURL = "DATABASE_URL"

// ofEndpoints ends the help of what works on endpoints.
const ofEndpoints = " of the running stack, or of the ledger at " + envDatabaseURL + " with ENCRYPTION_KEYS where that is set."

// endpointVerbs are the verbs of endpoints.
var endpointVerbs = []verb{
	{name: "add", summary: "--merchant M --url U [flags]", run: addEndpoint},
	{name: "list", summary: "[--merchant M] [flags]", run: listEndpoints},
	{name: "show", summary: "ID [flags]", run: showEndpoint},
	{name: "update", summary: "ID [flags]", run: updateEndpoint},
	{name: "disable", summary: "ID [flags]", run: disableEndpoint},
	{name: "enable", summary: "ID [flags]", run: enableEndpoint},
	{name: "remove", summary: "ID [flags]", run: removeEndpoint},
	{name: "rotate-secret", summary: "ID [flags]", run: rotateSecret},
	{name: "test", summary: "ID [flags]", run: testEndpoint},
}

func endpoints(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return runOneOf(ctx, "endpoints", endpointVerbs, args, stdout, stderr)
}

// runOneOf runs the verb of a verb that the arguments begin with. The summary of each is its synopsis.
func runOneOf(ctx context.Context, of string, verbs []verb, args []string, stdout, stderr io.Writer) error {
	var names []string
	usage := "Usage: "
	for i, v := range verbs {
		if len(args) > 0 && args[0] == v.name {
			return v.run(ctx, args[1:], stdout, stderr)
		}
		names = append(names, v.name)
		if i > 0 {
			usage += "       "
		}
		usage += "hookline " + of + " " + v.name + " " + v.summary + "\n"
	}
	if len(args) > 0 && slices.Contains([]string{"-h", "-help", "--help"}, args[0]) {
		return helpError(usage + "\nEach has --help.\n")
	}
	return wrongUsage("want `%s` and one of %s", of, strings.Join(names, ", "))
}

// fieldFlags are the flags that set the fields which a refusal names.
var fieldFlags = map[string]string{
	"merchant_id": "--merchant", "url": "--url", "description": "--description", "event_types": "--events", "headers": "--header",
	"retry_schedule": "--schedule", "ordering": "--ordering", "timeout": "--timeout", "rate_limit": "--rate-limit", "secret": "--secret", "secret_kind": "--secret-kind",
	"overlap": "--overlap",
}

// asUsage makes a mistake on the command line of a refusal that names fields, with the flag of each.
func asUsage(err error) error {
	invalid, ok := errors.AsType[*fault.Error](err)
	if !ok || len(invalid.Fields) == 0 {
		return err
	}
	var problems []string
	for field, problem := range invalid.Fields {
		problems = append(problems, fieldFlags[field]+": "+problem)
	}
	slices.Sort(problems)
	return wrongUsage("%s", clean(strings.Join(problems, "; "), 0))
}

// endpointID reads the only argument of a verb about one endpoint.
func endpointID(rest []string) (uuid.UUID, error) {
	if len(rest) == 0 {
		return uuid.Nil, wrongUsage("want the id of an endpoint; hookline endpoints list names them")
	}
	const length = 36 // the library also reads other forms
	id, err := uuid.Parse(rest[0])
	if err != nil || len(rest[0]) != length {
		return uuid.Nil, wrongUsage("%q is not the id of an endpoint; hookline endpoints list names them", rest[0])
	}
	return id, nil
}

// openedEndpoints are the endpoints of a ledger, with the pool that reaches it.
type openedEndpoints struct {
	*endpoint.Manager

	Keys  seal.Keyring
	Guard *egress.Guard
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
	return openedEndpoints{Manager: stack.Endpoints(pool, settings.Keys, guard), Keys: settings.Keys, Guard: guard, Close: pool.Close}, nil
}

// openEndpoint reads the arguments of a verb about one endpoint, which has no more to check than its id, and connects.
func openEndpoint(ctx context.Context, fs *flag.FlagSet, args []string, dir *string, synopsis, about string) (openedEndpoints, uuid.UUID, error) {
	rest, err := parse(fs, args, 1, synopsis, about)
	if err != nil {
		return openedEndpoints{}, uuid.Nil, err
	}
	id, err := endpointID(rest)
	if err != nil {
		return openedEndpoints{}, uuid.Nil, err
	}
	opened, err := openEndpoints(ctx, *dir)
	return opened, id, err
}

// openToSeal is openEndpoints for who seals something: meanwhile the embedded stack's keys stay what they are.
func openToSeal(ctx context.Context, dir string) (openedEndpoints, error) {
	release := func() {}
	if os.Getenv(envDatabaseURL) == "" {
		var err error
		if release, err = stack.Hold(ctx, dir); err != nil {
			return openedEndpoints{}, err
		}
	}
	opened, err := openEndpoints(ctx, dir)
	if err != nil {
		release()
		return opened, err
	}
	disconnect := opened.Close
	opened.Close = func() {
		disconnect()
		release()
	}
	return opened, nil
}
