package stack

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The only test here that makes a slot: slots belong to the whole server, and these have fixed names.
func TestDoctorNamesTheSlotOfTheOtherCDC(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	look := func() Check {
		checks, err := Doctor(t.Context(), Options{Dir: t.TempDir(), Environ: []string{"DATABASE_URL=" + db.DSN()}})
		require.NoError(t, err)
		for _, check := range checks {
			if check.Name == "replication slots" {
				return check
			}
		}
		require.Fail(t, "doctor does not look at the slots")
		return Check{}
	}
	require.True(t, look().OK)

	// A slot that was made, and that nobody reads.
	_, err := pool.Exec(t.Context(), "select pg_create_logical_replication_slot('sequin_slot', 'pgoutput')")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot('sequin_slot')")
		require.NoError(t, err)
	})
	_, err = pool.Exec(t.Context(), "create table junk as select repeat('x', 1000) from generate_series(1, 1000)")
	require.NoError(t, err)
	check := look()
	require.False(t, check.OK)
	require.False(t, check.Required, "up does without it")
	require.Regexp(t, `^sequin_slot, which nobody reads, keeps \d{6,} bytes of WAL: start the CDC`, check.Detail)
	require.Empty(t, check.Fix, "it may be the one that is used")
}

func TestTheCommandDropsTheSlotThatIsNotRead(t *testing.T) {
	t.Parallel()
	check := judgeSlots([]cdcSlot{{name: "hookline_relay", active: true, retained: 10}, {name: "sequin_slot", retained: 123456}})
	require.Equal(t, Check{
		Name: "replication slots", Detail: "sequin_slot, which nobody reads, keeps 123456 bytes of WAL, while hookline_relay is read",
		Fix: `psql "$DATABASE_URL" -c "select pg_drop_replication_slot('sequin_slot')"`,
	}, check)
	require.True(t, judgeSlots([]cdcSlot{{name: "hookline_relay", active: true}}).OK)
	require.True(t, judgeSlots(nil).OK)
}

func TestDoctorDoesNotQuoteThePassword(t *testing.T) {
	t.Parallel()
	s := &stack{Options: Options{Environ: []string{"DATABASE_URL=postgres://u:secret@127.0.0.1:1/d"}}}
	checks := s.checkSlots(t.Context())
	require.Len(t, checks, 1)
	require.False(t, checks[0].OK)
	require.NotContains(t, checks[0].Detail, "secret")
	require.Empty(t, (&stack{}).checkSlots(t.Context()), "nothing to ask")
}
