package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/migrations"
)

// slot makes the slot of a CDC before the first event is committed: what commits before there is one is in no stream.
// A migration cannot do it, as a slot is not made in a transaction that wrote, and which CDC there is to be is no
// property of the schema. Run again, it changes nothing.
func slot(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("slot")
	business := fs.String("business", "", "`DSN` of the business tables' database, as a role with the right of replication")
	name := fs.String("name", "", "`name` of the slot: hookline_relay for cdc-relay, sequin_slot for Sequin")
	if _, err := parse(fs, args, 0, "slot --business DSN --name NAME",
		"Makes the replication slot of the one CDC that is to run, where it is missing or was invalidated, and leaves it otherwise.\n"+
			"A slot that nobody reads keeps WAL: make no other."); err != nil {
		return err
	}
	if *business == "" || *name == "" {
		return wrongUsage("--business or --name is missing")
	}
	cfg := replication.Config{DatabaseURL: *business, Slot: *name, Publication: migrations.Publication}
	if err := cfg.Validate(); err != nil {
		return wrongUsage("%s", err)
	}
	if err := replication.EnsureSlot(ctx, cfg, logging.New(stderr, slog.LevelInfo, "hookline")); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "the slot %s is there\n", *name)
	return nil
}
