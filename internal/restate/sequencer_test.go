package restate

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

// hostile are ids that a path, a key or a line of a log could take for something else.
func hostile() []string {
	return []string{"pay_1", "a/b", "a%2Fb", "a b?c#d", "..", "../../query", "zażółć/\u0000\n", "%", "+", ""}
}

func TestAWakeSendsWhatWasReleased(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	for _, id := range hostile() {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			s := delivery.Sequence{EndpointID: uuid.New(), ObjectType: "payment", ObjectID: id}
			list := delivery.AttemptList{EndpointID: s.EndpointID, Number: 1, Tickets: []delivery.Ticket{{EventID: uuid.New(), Epoch: 2}}}
			owners := make(chan string, 2)
			w.scripts.onRelease(s, func(owner string) ([]delivery.AttemptList, error) {
				owners <- owner
				return []delivery.AttemptList{list}, nil
			})
			arrived := make(chan delivery.AttemptList, 1)
			w.scripts.onAttempt(s.EndpointID, func(_ context.Context, _ string, got delivery.AttemptList) (dispatch.Result, error) {
				arrived <- got
				return dispatch.Result{}, nil
			})
			require.NoError(t, w.client.Wake(t.Context(), s))
			require.Equal(t, list, receive(t, arrived))
			require.Contains(t, receive(t, owners), "inv_", "the owner is the invocation")
		})
	}
}

func TestAStepWakesTheSequencesOfItsResult(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	one := ref()
	var sequences []delivery.Sequence
	woken := make(chan delivery.Sequence, len(hostile()))
	for _, id := range hostile() {
		s := delivery.Sequence{EndpointID: uuid.New(), ObjectType: "payment", ObjectID: id}
		sequences = append(sequences, s)
		w.scripts.onRelease(s, func(string) ([]delivery.AttemptList, error) {
			woken <- s
			return nil, nil
		})
	}
	w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
		return dispatch.Result{Wake: sequences}, nil
	})
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
	var got []delivery.Sequence
	for range sequences {
		got = append(got, receive(t, woken))
	}
	require.ElementsMatch(t, sequences, got)
}

func TestAReleaseThatFailsIsMadeAgainByTheSameInvocationAndOneAtATime(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	s := delivery.Sequence{EndpointID: uuid.New(), ObjectType: "payment", ObjectID: uuid.NewString()}
	var inside atomic.Int32
	owners := make(chan string, 6)
	w.scripts.onRelease(s, func(owner string) ([]delivery.AttemptList, error) {
		if inside.Add(1) > 1 {
			t.Error("two releases of one sequence at once")
		}
		defer inside.Add(-1)
		owners <- owner
		if len(owners) < 3 {
			return nil, errors.New("the ledger is away")
		}
		return nil, nil
	})
	for range 3 {
		require.NoError(t, w.client.Wake(t.Context(), s))
	}
	first := receive(t, owners)
	require.Equal(t, first, receive(t, owners))
	for range 3 {
		receive(t, owners)
	}
}

func TestAKeyThatNamesNoSequenceEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	require.NotNil(t, w)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ingressOf(t)+"/ObjectSequencer/nothing/Wake", http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.GreaterOrEqual(t, response.StatusCode, 400)
}
