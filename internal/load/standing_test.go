package load_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestABacklogIsWhatAnEndpointHasNotTaken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, d := db.Pool(t, ""), connect(t, db)
	well, ill, other := endpointtest.Add(t, pool, "well", nil), endpointtest.Add(t, pool, "ill", nil), endpointtest.Add(t, pool, "other", nil)
	_, err := pool.Exec(t.Context(), `update delivery.endpoints set circuit = 'open', circuit_opens = 3, circuit_changed_at = '2026-02-23T12:00:00Z',
		probe_at = '2026-02-23T12:00:05Z' where id = $1`, ill)
	require.NoError(t, err)
	add := func(endpoint uuid.UUID, state delivery.State, generation int) {
		_, err := pool.Exec(t.Context(), `insert into delivery.deliveries (event_id, endpoint_id, generation, epoch, merchant_id, state, ended_at)
			values ($1, $2, $3, 1, 'm', $4::text, case when $4 in ('succeeded', 'dead') then now() end)`, uuid.New(), endpoint, generation, string(state))
		require.NoError(t, err)
	}
	for _, state := range []delivery.State{delivery.Parked, delivery.Parked, delivery.Retrying, delivery.Pending, delivery.Dead, delivery.Succeeded} {
		add(ill, state, 0)
	}
	add(ill, delivery.Succeeded, 7)
	add(well, delivery.Succeeded, 0)
	add(other, delivery.Parked, 0)

	got, err := d.Backlogs(t.Context(), []uuid.UUID{well, ill, uuid.New()})
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, []any{well, delivery.CircuitClosed, 0, 0}, []any{got[0].EndpointID, got[0].Circuit, got[0].Parked, got[0].Due})
	require.WithinDuration(t, time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC), got[1].ChangedAt, 0)
	got[1].ChangedAt = time.Time{}
	require.Equal(t, load.Backlog{EndpointID: ill, Circuit: delivery.CircuitOpen, Opens: 3, Parked: 2, Due: 2}, got[1])
	circuits, err := d.Circuits(t.Context(), []uuid.UUID{ill, well})
	require.NoError(t, err)
	circuits[0].ChangedAt = time.Time{}
	require.Equal(t, load.Backlog{EndpointID: ill, Circuit: delivery.CircuitOpen, Opens: 3}, circuits[0])
	require.Equal(t, well, circuits[1].EndpointID)

	states, err := d.States(t.Context(), []uuid.UUID{well, ill})
	require.NoError(t, err)
	require.Equal(t, map[delivery.State]int{
		delivery.Parked: 2, delivery.Retrying: 1, delivery.Pending: 1, delivery.Dead: 1, delivery.Succeeded: 2,
	}, states, "a replay is not live")
}
