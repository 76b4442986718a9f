package crashtest

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack"
)

func TestRetriesThatWaitedAreCountedByWhatCameAfterTheKill(t *testing.T) {
	t.Parallel()
	once, twice, never, driven, other := uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}, uuid.UUID{4}, uuid.UUID{5}
	w := WaitingRetries{Waiting: 4, epochs: map[uuid.UUID]int64{once: 1, twice: 1, never: 1, driven: 7}, killed: after(0)}
	received := func(id uuid.UUID, ms int) Receipt { return Receipt{ID: id.String(), At: after(ms)} }
	w.account([]Receipt{
		received(never, -1), received(twice, 9000), received(once, 4000), received(driven, 5000), received(twice, 2000), received(other, 1),
		{ID: "no uuid", At: after(1)},
	}, []Attempt{
		{EventID: once, Epoch: 2}, {EventID: twice, Epoch: 2}, {EventID: driven, Epoch: 9}, {EventID: other, Epoch: 2},
	})
	require.Equal(t, []int{2, 1, 1, 2}, []int{w.Once, w.Twice, w.Never, w.ByTimer})
	require.Equal(t, []float64{2, 9}, []float64{w.FirstS, w.LastS})
}

func TestEveryKindOfFaultButRandomOnesIsInTheMatrix(t *testing.T) {
	t.Parallel()
	inMatrix := map[string]bool{kindNone: true} // nothing happens
	for _, each := range entries() {
		o := Options{Freeze: time.Second}
		each.change(&o)
		if !o.Random {
			inMatrix[o.Fault.Kind] = true
			parsed, err := ParseFault(o.Fault.String())
			require.NoError(t, err)
			require.Equal(t, o.Fault, parsed)
		}
	}
	for kind := range targets {
		require.True(t, inMatrix[kind], kind)
	}
	require.Contains(t, Names(), "kill-waiting:"+stack.WebhookWorker)
}
