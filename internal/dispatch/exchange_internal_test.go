package dispatch

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

// Of the endpoint's circuit it matters only whether it has changed since.
func TestWhatHasStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x, endpoint, since := newExchanges(100), uuid.New(), time.Now()
		open := func(n int) []*exchange {
			all := make([]*exchange, n)
			for i := range all {
				all[i] = &exchange{
					claim:    delivery.Claim{Key: delivery.Key{EventID: uuid.New(), EndpointID: endpoint}},
					endpoint: delivery.Endpoint{ID: endpoint, CircuitSince: since}, holder: nobody{},
				}
				require.Equal(t, entryBegun, x.enter(all[i]))
			}
			return all
		}
		answer := func(e *exchange) {
			x.answered(e, deliver.Response{Cause: delivery.CauseOK, StatusCode: 200})
			x.forget(e)
		}
		look := func() int { return x.stalled(endpoint, since) }
		wait := func(d time.Duration) { <-time.After(d) } // the fake clock's

		require.Zero(t, look(), "nothing is open")
		first := open(5)
		wait(stalledAfter - time.Millisecond)
		require.Zero(t, look())
		wait(time.Millisecond)
		require.Zero(t, look(), "the first look")
		require.Zero(t, x.stalled(endpoint, since.Add(time.Second)), "the circuit has changed since they began")
		require.Zero(t, look(), "the first look again")
		wait(leastBetweenLooks)
		require.Equal(t, 5, look())
		require.Equal(t, 5, look())

		// A process that was frozen looks anew.
		wait(time.Minute)
		require.Zero(t, look())
		wait(leastBetweenLooks)
		require.Equal(t, 5, look())

		// What waits for the ledger does not wait for the endpoint; when it goes out its time begins.
		x.renews(first[0], true)
		require.Equal(t, 4, look())
		x.renews(first[0], false)
		require.True(t, x.mayStart(first[0]))
		require.Equal(t, 4, look())
		wait(stalledAfter)
		require.Equal(t, 5, look())

		// An answer says that the endpoint is there. What begins after it is measured by how long it takes: 4 times a minute.
		answer(first[1])
		require.Zero(t, look())
		open(3)
		wait(4*time.Minute - time.Second)
		require.Zero(t, look())
		wait(30 * time.Second)
		require.Zero(t, look(), "the first look")
		wait(leastBetweenLooks)
		require.Equal(t, 3, look())
	})
}
