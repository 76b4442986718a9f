package load_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/load"
)

func TestPercentiles(t *testing.T) {
	t.Parallel()
	upTo := func(n int) []time.Duration {
		all := make([]time.Duration, n)
		for i := range all {
			all[n-1-i] = time.Duration(i+1) * time.Millisecond // the largest first
		}
		return all
	}
	for name, c := range map[string]struct {
		durations []time.Duration
		want      load.Percentiles
	}{
		"none":             {nil, load.Percentiles{}},
		"one":              {upTo(1), load.Percentiles{P50: 1, P95: 1, P99: 1, Max: 1}},
		"two":              {upTo(2), load.Percentiles{P50: 1, P95: 2, P99: 2, Max: 2}},
		"a hundred":        {upTo(100), load.Percentiles{P50: 50, P95: 95, P99: 99, Max: 100}},
		"a hundred and 1":  {upTo(101), load.Percentiles{P50: 51, P95: 96, P99: 100, Max: 101}},
		"a thousand":       {upTo(1000), load.Percentiles{P50: 500, P95: 950, P99: 990, Max: 1000}},
		"microseconds":     {[]time.Duration{1234567}, load.Percentiles{P50: 1.23, P95: 1.23, P99: 1.23, Max: 1.23}},
		"a clock set back": {[]time.Duration{-time.Millisecond}, load.Percentiles{P50: -1, P95: -1, P99: -1, Max: -1}},
	} {
		require.Equal(t, c.want, load.PercentilesOf(c.durations), name)
	}
}

func TestPercentilesAreMeasuredValuesInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.SliceOfN(rapid.Int64Range(0, 1_000_000), 1, 300).Draw(t, "ms")
		durations := make([]time.Duration, len(ms))
		for i, each := range ms {
			durations[i] = time.Duration(each) * time.Millisecond
		}
		p := load.PercentilesOf(durations)
		require.True(t, slices.IsSorted([]float64{p.P50, p.P95, p.P99, p.Max}))
		for percent, value := range map[int]float64{50: p.P50, 95: p.P95, 99: p.P99, 100: p.Max} {
			below, atMost := 0, 0
			for _, each := range ms {
				if float64(each) < value {
					below++
				}
				if float64(each) <= value {
					atMost++
				}
			}
			require.Less(t, below, atMost, "it was measured")
			require.GreaterOrEqual(t, atMost*100, percent*len(ms))
			require.Less(t, below*100, percent*len(ms))
		}
	})
}
