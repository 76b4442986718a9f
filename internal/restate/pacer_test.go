package restate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

// paced is a step's result about n deliveries of the endpoint whose turn it is not.
func paced(endpoint uuid.UUID, rate, n int) dispatch.Result {
	var result dispatch.Result
	for range n {
		result.Deliveries = append(result.Deliveries, dispatch.Line{
			EventID: uuid.New(), EndpointID: endpoint, Epoch: 7, Number: 2, State: delivery.Retrying, Cause: delivery.CausePaced,
			Next: 2, RetryInMS: delivery.PaceWithin.Milliseconds(), RateLimit: rate,
		})
	}
	return result
}

func (w *worker) dispatched(t *testing.T, result dispatch.Result) {
	t.Helper()
	one := ref()
	w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) { return result, nil })
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
}

func TestThePacerGivesEachDeliveryASlotOfItsOwnAndSendsItInTime(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	endpoint := uuid.New()
	type arrival struct {
		list delivery.AttemptList
		at   time.Time
	}
	arrivals := make(chan arrival, 100)
	var failed atomic.Bool
	w.scripts.onAttempt(endpoint, func(_ context.Context, _ string, list delivery.AttemptList) (dispatch.Result, error) {
		if failed.CompareAndSwap(false, true) {
			return dispatch.Result{}, errors.New("once more")
		}
		arrivals <- arrival{list, time.Now()}
		return dispatch.Result{}, nil
	})
	const rate = 40
	want := map[uuid.UUID]bool{}
	for range 3 { // one batch after the other, each of which knows nothing of the others
		result := paced(endpoint, rate, 20)
		for _, line := range result.Deliveries {
			want[line.EventID] = true
		}
		w.dispatched(t, result)
	}
	var all []arrival
	for got := 0; got < len(want); got += len(all[len(all)-1].list.Tickets) {
		all = append(all, receive(t, arrivals))
	}
	slices.SortFunc(all, func(a, b arrival) int { return cmp.Compare(a.list.SlotUS, b.list.SlotUS) })
	var last time.Time
	for _, each := range all {
		require.Equal(t, 2, each.list.Number)
		require.LessOrEqual(t, len(each.list.Tickets), rate/5, "200 ms of slots are a step")
		for i, ticket := range each.list.Tickets {
			require.True(t, want[ticket.EventID], "each delivery has one slot")
			delete(want, ticket.EventID)
			require.EqualValues(t, 7, ticket.Epoch)
			slot, _ := each.list.Slot(i)
			if !last.IsZero() {
				require.GreaterOrEqual(t, slot.Sub(last), time.Second/rate)
			}
			last = slot
		}
	}
	require.Empty(t, want)
	first, _ := all[0].list.Slot(0)
	require.InDelta(t, 1.5, last.Sub(first).Seconds(), 0.5, "and no slot is left out but where nothing was to be sent")
	ahead := time.UnixMicro(all[len(all)-1].list.SlotUS).Sub(all[len(all)-1].at)
	require.LessOrEqual(t, ahead, 250*time.Millisecond, "what is booked ahead waits in Restate, and not in a step")

	var state struct {
		Rows []struct {
			Value string `json:"value_utf8"`
		}
	}
	ask(t, http.MethodPost, w.admin+"/query", map[string]string{
		"query": "select value_utf8 from state where service_name = '" + PacerService + "' and service_key = '" + endpoint.String() + "'",
	}, &state)
	require.Len(t, state.Rows, 1)
	var pace delivery.Pace
	require.NoError(t, json.Unmarshal([]byte(state.Rows[0].Value), &pace))
	require.Greater(t, pace.NextUS, last.UnixMicro())
}

func TestThePacerParksWhatItHasNoSlotFor(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	endpoint := uuid.New()
	attempted, parked := make(chan delivery.AttemptList, 100), make(chan []delivery.Ticket, 1)
	w.scripts.onAttempt(endpoint, func(_ context.Context, _ string, list delivery.AttemptList) (dispatch.Result, error) {
		attempted <- list
		return dispatch.Result{}, nil
	})
	w.scripts.onPark(endpoint, func(tickets []delivery.Ticket) error {
		parked <- tickets
		return errors.New("the ledger is away")
	})
	result := paced(endpoint, 1, 15)
	w.dispatched(t, result)
	left := receive(t, parked)
	require.Len(t, left, 5, "one a second, for 10 s")
	require.Equal(t, result.Deliveries[14].EventID, left[4].EventID, "those that came last")
	require.Len(t, receive(t, attempted).Tickets, 1)

	// Nobody waits for what could not be parked.
	w.dispatched(t, paced(endpoint, 1000, 1))
	require.Len(t, receive(t, parked), 1, "it is booked out for 10 s")
}
