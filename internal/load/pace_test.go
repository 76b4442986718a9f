package load

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestPaceKeepsItsSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at, late []time.Duration
		err := pace(t.Context(), 6, 100, func(i int, behind time.Duration) {
			at = append(at, time.Since(begin))
			late = append(late, behind)
			if i == 1 {
				<-time.After(25 * time.Millisecond) // on the clock of the bubble: a start that is held up
			}
		})
		require.NoError(t, err)
		ms := func(all ...int) []time.Duration {
			out := make([]time.Duration, len(all))
			for i, each := range all {
				out[i] = time.Duration(each) * time.Millisecond
			}
			return out
		}
		require.Empty(t, cmp.Diff(ms(0, 10, 35, 35, 40, 50), at), "what was missed is caught up, what follows is on time")
		require.Empty(t, cmp.Diff(ms(0, 0, 15, 5, 0, 0), late))
	})
}

func TestPaceDoesNotDrift(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		require.NoError(t, pace(t.Context(), 3001, 300, func(int, time.Duration) {}))
		require.Equal(t, 10*time.Second, time.Since(begin))
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		started := 0
		require.ErrorIs(t, pace(ctx, 1000, 2, func(int, time.Duration) { started++ }), context.DeadlineExceeded)
		require.InDelta(t, 2, started, 1)
	})
}

func TestSettle(t *testing.T) {
	t.Parallel()
	const second = time.Second
	for name, c := range map[string]struct {
		count   func(passed time.Duration) int
		reached bool
		after   time.Duration
	}{
		"there already":            {func(time.Duration) int { return 10 }, true, 0},
		"more than wanted":         {func(time.Duration) int { return 11 }, true, 0},
		"arriving":                 {func(p time.Duration) int { return int(p / second) }, true, 10 * second},
		"slower than the patience": {func(p time.Duration) int { return int(p / (6 * second)) }, false, 5 * second},
		"stuck half way":           {func(p time.Duration) int { return min(4, int(p/second)) }, false, 9 * second},
		"late by the patience":     {func(p time.Duration) int { return 10 * int(p/(5*second)) }, true, 5 * second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				reached, err := Settle(t.Context(), func() int { return c.count(time.Since(begin)) }, 10, second/10, 5*second)
				require.NoError(t, err)
				require.Equal(t, c.reached, reached)
				require.Equal(t, c.after, time.Since(begin))
			})
		})
	}
}

func TestSettleEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Settle(ctx, func() int { return 0 }, 1, 10*time.Millisecond, time.Minute)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
