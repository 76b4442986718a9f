package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/stack"
)

var keyVerbs = []verb{
	{name: "new", summary: "[ID]", run: newKey},
	{name: "list", summary: "[flags]", run: listKeys},
	{name: "rotate", summary: "[flags]", run: rotateKeys},
}

func keys(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return runOneOf(ctx, "keys", keyVerbs, args, stdout, stderr)
}

func newKey(_ context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("keys new")
	rest, err := parse(fs, args, 1, "keys new [ID]",
		"Prints a fresh key as ENCRYPTION_KEYS takes it, and keeps it nowhere. The id is that of the day where none is given.")
	if err != nil {
		return err
	}
	id := "k" + time.Now().UTC().Format("20060102")
	if len(rest) > 0 {
		id = rest[0]
	}
	key := seal.NewKey(id)
	var ring seal.Keyring
	if err := ring.UnmarshalText([]byte(key)); err != nil || len(ring.IDs()) != 1 {
		return wrongUsage("%q is not the id of a key: want a-z, 0-9, - and _, 32 characters at most", id)
	}
	fmt.Fprintln(stdout, key)
	return nil
}

// usedKey is a key, and how many endpoints something of is sealed with it.
type usedKey struct {
	ID        string `json:"id"` // empty stands for what is not sealed yet
	Endpoints int    `json:"endpoints"`
	Known     bool   `json:"known"` // it is in ENCRYPTION_KEYS
	Seals     bool   `json:"seals"` // it is the first there
}

func usedKeys(ctx context.Context, opened openedEndpoints) ([]usedKey, error) {
	counts, err := opened.KeysInUse(ctx)
	if err != nil {
		return nil, err
	}
	var out []usedKey
	known := opened.Keys.IDs()
	for i, id := range known {
		out = append(out, usedKey{ID: id, Endpoints: counts[id], Known: true, Seals: i == 0})
		delete(counts, id)
	}
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, usedKey{ID: id, Endpoints: counts[id]})
	}
	return out, nil
}

func listKeys(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("keys list")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "keys list [flags]", "Says how many endpoints are sealed with each key. The endpoints"+ofEndpoints); err != nil {
		return err
	}
	opened, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	used, err := usedKeys(ctx, opened)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			Keys []usedKey `json:"keys"`
		}{used})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, key := range used {
		note := ""
		switch {
		case key.ID == "":
			note = "of before secrets were sealed: keys rotate seals them"
		case key.Seals:
			note = "seals"
		case !key.Known:
			note = "not in ENCRYPTION_KEYS"
		}
		fmt.Fprintf(tw, "%s\t%d endpoints\t%s\n", orElse(key.ID, "none"), key.Endpoints, note)
	}
	return tw.Flush()
}

func rotateKeys(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("keys rotate")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "keys rotate [flags]",
		"Seals what is secret of every endpoint with a new key.\n\n"+
			"For the running stack it does all of it: it draws a key, restarts the workers with both, seals, and drops the old key.\n\n"+
			"For a ledger at "+envDatabaseURL+" it seals with the first key of ENCRYPTION_KEYS. In this order:\n"+
			"  1. hookline keys new; add the key LAST to the ENCRYPTION_KEYS of every worker, and restart them\n"+
			"  2. put it FIRST for whoever seals: this command, hookline endpoints and seed, the console\n"+
			"  3. hookline keys rotate\n"+
			"  4. when it says that the old key is not used any more, remove it everywhere; keep it with the ledger's backups\n"+
			"It may be cut short and run again."); err != nil {
		return err
	}
	progress := func(done, of int) {
		if done == of || done%100 == 0 {
			fmt.Fprintf(stderr, "%d of %d endpoints\n", done, of)
		}
	}
	var result stack.KeyRotation
	var err error
	if os.Getenv(envDatabaseURL) == "" {
		result, err = stack.RotateKeys(ctx, *dir, func(line string) { fmt.Fprintln(stderr, line) }, progress)
	} else {
		var opened openedEndpoints
		if opened, err = openEndpoints(ctx, *dir); err != nil {
			return err
		}
		defer opened.Close()
		result, err = stack.SealAnew(ctx, opened.Manager, opened.Keys, progress)
	}
	if failed, ok := errors.AsType[*endpoint.ResealError](err); ok {
		for _, each := range failed.Failed {
			fmt.Fprintf(stderr, "%s; give it a new secret with --overlap 0, or remove it and add it again\n", each)
		}
	}
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, result)
	}
	fmt.Fprintf(stdout, "sealed with %s: %d endpoints, of which %d anew\n", result.Key, result.Endpoints, result.Changed)
	if len(result.Unused) > 0 {
		fmt.Fprintf(stdout, "not used any more: %s\n", strings.Join(result.Unused, ", "))
	}
	return nil
}
