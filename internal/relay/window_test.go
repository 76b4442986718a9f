package relay

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWindowHoldsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(4, 100)
		for range 4 {
			require.NoError(t, w.acquire(t.Context(), 1))
		}
		through := false
		go func() {
			if w.acquire(context.Background(), 1) == nil {
				through = true
			}
		}()
		synctest.Wait()
		require.False(t, through, "too many records")
		w.release(1)
		synctest.Wait()
		require.True(t, through)
		for range 4 {
			w.release(1)
		}

		require.NoError(t, w.acquire(t.Context(), 1000), "one that is larger than the window fits into an empty one")
		through = false
		go func() {
			if w.acquire(context.Background(), 1) == nil {
				through = true
			}
		}()
		synctest.Wait()
		require.False(t, through, "too many bytes")
		w.release(1000)
		synctest.Wait()
		require.True(t, through)
		require.Equal(t, 1, w.inFlight())

		// A large one may need more room than what wakes it.
		through = false
		go func() {
			if w.acquire(context.Background(), 100) == nil {
				through = true
			}
		}()
		synctest.Wait()
		require.False(t, through)
		w.release(1)
		synctest.Wait()
		require.True(t, through)
	})
}

func TestWindowGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWindow(1, 10)
	require.NoError(t, w.acquire(t.Context(), 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.acquire(ctx, 1), context.Canceled)
	require.Equal(t, 1, w.inFlight())
}
