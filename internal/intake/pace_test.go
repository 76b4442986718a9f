package intake

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPaceRisesWithTheRate(t *testing.T) {
	t.Parallel()
	for rate, want := range map[int]time.Duration{
		1: 8 * time.Millisecond, 100: 8 * time.Millisecond, 400: 8 * time.Millisecond,
		500: 10 * time.Millisecond, 700: 14 * time.Millisecond, 1000: 20 * time.Millisecond, 5000: 20 * time.Millisecond,
	} {
		var p pace
		now := time.Unix(1_770_000_000, 0)
		for range 10 * rate { // ten seconds
			now = now.Add(time.Second / time.Duration(rate))
			p.arrived(1, now)
		}
		require.InDelta(t, want, p.gap(now), float64(200*time.Microsecond), "at %d/s", rate)
		require.Equal(t, 8*time.Millisecond, p.gap(now.Add(time.Minute)), "after a pause")
	}
}

func TestPaceKeepsItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var p pace
		now := time.Unix(1_770_000_000, 0)
		for range rapid.IntRange(1, 50).Draw(t, "arrivals") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "after")))
			p.arrived(rapid.IntRange(0, 4096).Draw(t, "events"), now)
			gap := p.gap(now)
			require.GreaterOrEqual(t, gap, leastGap)
			require.LessOrEqual(t, gap, largestGap)
		}
	})
}
