package restate

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/drain"
	"github.com/hookline/hookline/internal/event"
)

// taken is a turn that a drainer had.
type taken struct {
	owner string
	ramp  drain.Ramp
}

// turns makes the endpoint's drainer hand out the turns one by one; then it ends.
func (w *worker) turns(endpoint uuid.UUID, script ...drain.Turn) <-chan taken {
	var mu sync.Mutex
	had := make(chan taken, 100)
	w.scripts.onTurn(endpoint, func(owner string, ramp drain.Ramp) drain.Turn {
		mu.Lock()
		defer mu.Unlock()
		turn := drain.Turn{}
		if len(script) > 0 {
			turn, script = script[0], script[1:]
		}
		turn.At = time.Now()
		had <- taken{owner, ramp}
		return turn
	})
	return had
}

func (w *worker) wake(t *testing.T, endpoint uuid.UUID, full bool) {
	t.Helper()
	status := ask(t, http.MethodPost, ingressOf(t)+"/"+DrainerService+"/"+endpoint.String()+"/"+WakeHandler, DrainWake{Full: full}, nil)
	require.Equal(t, http.StatusOK, status, "it has ended")
}

func (w *worker) query(t *testing.T, where string) []map[string]any {
	t.Helper()
	var answer struct {
		Rows []map[string]any `json:"rows"`
	}
	ask(t, http.MethodPost, w.admin+"/query", map[string]string{"query": "select id, status from sys_invocation where " + where}, &answer)
	return answer.Rows
}

// pendingTicks are those of the endpoint's drainer that have not begun.
func (w *worker) pendingTicks(t *testing.T, endpoint uuid.UUID) []map[string]any {
	t.Helper()
	return w.query(t, fmt.Sprintf("target_service_name = '%s' and target_service_key = '%s' and target_handler_name = '%s' and status = 'scheduled'", DrainerService, endpoint, TickHandler))
}

func nothing[T any](t *testing.T, from <-chan T, within time.Duration, what string) {
	t.Helper()
	select {
	case <-from:
		require.Fail(t, what)
	case <-time.After(within):
	}
}

func TestADrainerTakesTurnsUntilNothingIsLeft(t *testing.T) {
	t.Parallel()
	w, endpoint := theWorker(t), uuid.New()
	list := delivery.AttemptList{EndpointID: endpoint, Number: 1, Backlog: true, Tickets: []delivery.Ticket{{EventID: uuid.New(), Epoch: 2}}}
	attempts := make(chan delivery.AttemptList, 10)
	block := make(chan struct{})
	w.scripts.onAttempt(endpoint, func(_ context.Context, _ string, list delivery.AttemptList) (dispatch.Result, error) {
		attempts <- list
		<-block // no turn may wait for it
		return dispatch.Result{}, nil
	})
	defer close(block)
	had := w.turns(endpoint,
		drain.Turn{Lists: []delivery.AttemptList{list}, Next: 10 * time.Millisecond, Ramp: drain.Ramp{AtOnce: 8}},
		drain.Turn{Next: 10 * time.Millisecond, Ramp: drain.Ramp{AtOnce: 16}},
	)
	require.NoError(t, w.client.WakeDrainer(t.Context(), endpoint))
	first := receive(t, had)
	require.Equal(t, drain.Ramp{}, first.ramp)
	require.Equal(t, list, receive(t, attempts))
	require.Equal(t, drain.Ramp{AtOnce: 8}, receive(t, had).ramp, "it remembers, and waits for no attempt")
	third := receive(t, had)
	require.Equal(t, drain.Ramp{AtOnce: 16}, third.ramp)
	require.NotEqual(t, first.owner, third.owner)
	require.Eventually(t, func() bool { return len(w.pendingTicks(t, endpoint)) == 0 }, 10*time.Second, 20*time.Millisecond)
	nothing(t, had, 100*time.Millisecond, "it had ended")
}

// Interleaving: wakes come while the drain goes on. They must not make it go faster, nor make a second one.
func TestAWakeOfADrainerThatIsAwakeDoesNothingButTellItThatThereIsNoRoom(t *testing.T) {
	t.Parallel()
	w, endpoint := theWorker(t), uuid.New()
	had := w.turns(endpoint, drain.Turn{Next: 900 * time.Millisecond, Ramp: drain.Ramp{AtOnce: 64}})
	w.wake(t, endpoint, false)
	receive(t, had)
	for i := range 5 {
		w.wake(t, endpoint, i == 2)
	}
	require.Len(t, w.pendingTicks(t, endpoint), 1)
	require.Equal(t, taken{ramp: drain.Ramp{AtOnce: 64, Full: true}}.ramp, receive(t, had).ramp)
	nothing(t, had, 200*time.Millisecond, "one turn, and not six")
}

// Interleaving: a drainer sleeps until its probe is due, and the endpoint is enabled meanwhile. The tick that it had sent
// itself comes all the same.
func TestAWakeReplacesATickThatIsFarAwayAndAStaleTickDoesNothing(t *testing.T) {
	t.Parallel()
	w, endpoint := theWorker(t), uuid.New()
	had := w.turns(endpoint,
		drain.Turn{Next: 3 * time.Second, Ramp: drain.Ramp{AtOnce: 1}}, // asleep
		drain.Turn{Next: time.Hour, Ramp: drain.Ramp{AtOnce: 2}},       // woken: it goes on to sleep for longer
		drain.Turn{Next: 50 * time.Millisecond, Ramp: drain.Ramp{AtOnce: 3}},
		drain.Turn{Next: 50 * time.Millisecond, Ramp: drain.Ramp{AtOnce: 4}},
	)
	w.wake(t, endpoint, false)
	receive(t, had)
	w.wake(t, endpoint, false)
	require.Equal(t, 1, receive(t, had).ramp.AtOnce)
	require.Len(t, w.pendingTicks(t, endpoint), 1, "the one before comes sooner than it is needed")
	w.wake(t, endpoint, false)
	require.Equal(t, 2, receive(t, had).ramp.AtOnce, "there is something to do now")
	require.Equal(t, 3, receive(t, had).ramp.AtOnce, "and the drain goes on at once")
	require.Equal(t, 4, receive(t, had).ramp.AtOnce)
	require.Eventually(t, func() bool { return len(w.pendingTicks(t, endpoint)) == 0 }, 10*time.Second, 50*time.Millisecond, "the stale one has come")
	nothing(t, had, 200*time.Millisecond, "and was void")
}

// Interleaving: somebody kills the tick that is on its way.
func TestAWakeBeginsAgainWhereTheChainIsBroken(t *testing.T) {
	t.Parallel()
	w, endpoint := theWorker(t), uuid.New()
	had := w.turns(endpoint, drain.Turn{Next: time.Hour, Ramp: drain.Ramp{AtOnce: 8}}, drain.Turn{Next: 20 * time.Millisecond})
	w.wake(t, endpoint, false)
	receive(t, had)
	ticks := w.pendingTicks(t, endpoint)
	require.Len(t, ticks, 1)
	require.Less(t, ask(t, http.MethodPatch, w.admin+"/invocations/"+ticks[0]["id"].(string)+"/kill", nil, nil), 300)
	require.Eventually(t, func() bool { return len(w.pendingTicks(t, endpoint)) == 0 }, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, w.client.WakeDrainer(t.Context(), endpoint)) // as the reconciler does
	receive(t, had)
	receive(t, had)
}

func TestAStepThatParkedWakesTheDrainer(t *testing.T) {
	t.Parallel()
	w, endpoint, one := theWorker(t), uuid.New(), ref()
	had := w.turns(endpoint)
	w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
		return dispatch.Result{Drain: []dispatch.DrainWake{{EndpointID: endpoint, Full: true}}}, nil
	})
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
	require.Equal(t, drain.Ramp{}, receive(t, had).ramp, "it was not draining: there is no ramp to halve")
}
