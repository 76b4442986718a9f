package intake

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestABacklogTakesWhatTheQuietAllow(t *testing.T) {
	t.Parallel()
	c := newCourtesy()
	for range 50 {
		c.ended(30*time.Millisecond, true)
	}
	require.Equal(t, 1, c.limit(), "a backlog begins with one batch")
	for range 200 {
		c.ended(50*time.Millisecond, false) // slower than alone, but not twice as slow
	}
	require.Equal(t, MaxInFlight, c.limit())
	c.ended(70*time.Millisecond, false)
	require.Equal(t, MaxInFlight/2, c.limit())
	for range 10 {
		c.ended(70*time.Millisecond, false)
	}
	require.Equal(t, 1, c.limit())
	c.ended(20*time.Millisecond, false)
	require.Equal(t, 2, c.limit())
}

func TestABacklogAlwaysHasABatchAndNeverMoreThanThereAre(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newCourtesy()
		for range rapid.IntRange(1, 300).Draw(t, "batches") {
			c.ended(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "took")), rapid.Bool().Draw(t, "alone"))
			require.GreaterOrEqual(t, c.limit(), 1)
			require.LessOrEqual(t, c.limit(), MaxInFlight)
		}
	})
}
