package replication_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/wal"
	"github.com/hookline/hookline/migrations"
)

type gap struct {
	from   wal.LSN // 0: not known
	reason string
}

// gaps are what was declared about the slot. Each ends where the slot stands, as far as anybody has confirmed it.
func gaps(t *testing.T, pool *pgxpool.Pool, slot string) []gap {
	t.Helper()
	rows, err := pool.Query(t.Context(), "select coalesce(from_lsn - '0/0'::pg_lsn, 0)::bigint, reason, to_lsn > coalesce(from_lsn, '0/0') from public.relay_gaps where slot_name = $1 order by id", slot)
	require.NoError(t, err)
	defer rows.Close()
	var out []gap
	for rows.Next() {
		var g gap
		var forward bool
		require.NoError(t, rows.Scan(&g.from, &g.reason, &forward))
		require.True(t, forward)
		out = append(out, g)
	}
	require.NoError(t, rows.Err())
	return out
}

// start connects as a relay that was just started does, and returns its source and how many gaps it declared.
func start(t *testing.T, cfg replication.Config) (*replication.Source, int) {
	t.Helper()
	declared := 0
	source := replication.New(cfg, slog.New(slog.DiscardHandler), func() { declared++ })
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		source.Disconnect(ctx)
		source.Close(ctx)
	})
	connect(t, source)
	return source, declared
}

const (
	dropSlot = "select pg_drop_replication_slot($1)"
	makeSlot = "select pg_create_logical_replication_slot($1, 'pgoutput')"

	vanished = "there was no slot any more"
	moved    = "the slot stands beyond what was ever confirmed: it was made anew, or moved"
	first    = "events were committed before the first slot"
)

// Not parallel: a slot that is made beside an older one, of any database of the server, begins at that one's horizon, and
// looks as old as it. Then nothing is declared, and the reconciler finds the events all the same.
func TestASlotThatSomebodyMadeAfterAnEventHasAGap(t *testing.T) {
	pool, cfg, _ := setup(t)
	for _, statement := range []string{insertPayment, "select pg_create_logical_replication_slot('" + cfg.Slot + "', 'pgoutput')"} {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	_, declared := start(t, cfg)
	require.Equal(t, 1, declared)
	require.Equal(t, []gap{{reason: first}}, gaps(t, pool, cfg.Slot))
}

func TestGaps(t *testing.T) {
	t.Parallel()
	type bench struct {
		cfg  replication.Config
		run  func(statement string, args ...any)
		stop func() wal.LSN // a relay that confirmed one event ends; returns how far it confirmed
	}
	cases := map[string]struct {
		before func(b bench) wal.LSN // returns where the gap begins
		want   string                // the gap's reason; empty for none
	}{
		"the first slot of a fresh database": {
			before: func(bench) wal.LSN { return 0 },
		},
		"the first slot, after an event": {
			before: func(b bench) wal.LSN { b.run(insertPayment); return 0 },
			want:   first,
		},
		"a slot that somebody made before the first event": {
			before: func(b bench) wal.LSN { b.run(makeSlot, b.cfg.Slot); b.run(insertPayment); return 0 },
		},
		"a relay that starts again": {
			before: func(b bench) wal.LSN { b.stop(); b.run(insertPayment); return 0 },
		},
		"a slot that was dropped": {
			before: func(b bench) wal.LSN { at := b.stop(); b.run(dropSlot, b.cfg.Slot); b.run(insertPayment); return at },
			want:   vanished,
		},
		"a slot that was dropped and made again behind the relay's back": {
			before: func(b bench) wal.LSN {
				at := b.stop()
				b.run(dropSlot, b.cfg.Slot)
				b.run(makeSlot, b.cfg.Slot) // at once: nothing lies between but what a row of relay_state takes
				return at
			},
			want: moved,
		},
		"a slot that was moved": {
			before: func(b bench) wal.LSN {
				at := b.stop()
				b.run("begin; set local synchronous_commit = on; " + insertPayment + "; commit") // a slot moves as far as WAL is flushed
				b.run("select pg_replication_slot_advance($1, pg_current_wal_lsn())", b.cfg.Slot)
				return at
			},
			want: moved,
		},
		"a database that was copied from another server": {
			before: func(b bench) wal.LSN {
				b.stop()
				b.run("update relay_state set system_identifier = 'another'")
				return 0
			},
			want: "the database was copied from another server",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, cfg, source := setup(t)
			run := func(statement string, args ...any) {
				whenFree(t, func() error {
					_, err := pool.Exec(t.Context(), statement, args...)
					return err
				})
			}
			from := c.before(bench{cfg: cfg, run: run, stop: func() wal.LSN {
				connect(t, source)
				run(insertPayment)
				at := next(t, source, wal.Commit).LSN
				require.NoError(t, source.Confirm(at, false))
				source.Disconnect(t.Context())
				require.Empty(t, gaps(t, pool, cfg.Slot))
				return at
			}})
			var want []gap
			if c.want != "" {
				want = []gap{{from: from, reason: c.want}}
			}
			again, declared := start(t, cfg)
			require.Equal(t, want, gaps(t, pool, cfg.Slot))
			require.Equal(t, len(want), declared)
			again.Disconnect(t.Context())

			_, declared = start(t, cfg)
			require.Zero(t, declared, "it is said once")
		})
	}
}

// The interleaving: the position is written down, and the relay dies before the server hears of it. And the one that must
// not be: the server has heard of a position that is not written down.
func TestAPositionIsWrittenDownBeforeItIsConfirmed(t *testing.T) {
	t.Parallel()
	pool, cfg, source := setup(t)
	connect(t, source)
	_, err := pool.Exec(t.Context(), insertPayment)
	require.NoError(t, err)
	commit := next(t, source, wal.Commit).LSN

	_, err = pool.Exec(t.Context(), "alter table relay_state rename to elsewhere")
	require.NoError(t, err)
	require.ErrorContains(t, source.Confirm(commit, false), "remembering the position")
	source.Disconnect(t.Context())
	state, err := source.State(t.Context())
	require.NoError(t, err)
	require.Less(t, state.Confirmed, commit, "what cannot be written down is not confirmed")
	_, err = source.Connect(t.Context())
	require.ErrorContains(t, err, "run the migrations")

	_, err = pool.Exec(t.Context(), "alter table elsewhere rename to relay_state")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "update relay_state set confirmed_lsn = $1::text::pg_lsn", commit.String())
	require.NoError(t, err)
	again, declared := start(t, cfg)
	require.Zero(t, declared)
	require.Equal(t, commit, next(t, again, wal.Commit).LSN, "it comes again")
}

func TestTheReaderSeesTheGapsAndTheRelaysRoleCannotHideThem(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool(t, migrations.RoleReader).Exec(t.Context(), "select * from relay_gaps")
	require.NoError(t, err)
	for _, statement := range []string{"delete from relay_gaps", "update relay_gaps set reason = ''", "delete from relay_state"} {
		_, err = db.Pool(t, migrations.RoleCDC).Exec(t.Context(), statement)
		require.ErrorContains(t, err, "permission denied", statement)
	}
}

func TestTheStateSaysHowMuchMoreMayBeWritten(t *testing.T) {
	t.Parallel()
	_, _, source := setup(t)
	connect(t, source)
	state, err := source.State(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4<<30, state.Keep)
	require.Positive(t, state.Safe)
	require.LessOrEqual(t, state.Safe, state.Keep+(64<<20))
}
