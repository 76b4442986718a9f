package load

import (
	"math"
	"slices"
	"time"
)

// Percentiles of durations, in milliseconds. All are 0 where there was nothing to measure.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// PercentilesOf takes the nearest rank: every value is one that was measured. It sorts its argument.
func PercentilesOf(durations []time.Duration) Percentiles {
	if len(durations) == 0 {
		return Percentiles{}
	}
	slices.Sort(durations)
	rank := func(percent int) float64 {
		return Milliseconds(durations[(len(durations)*percent+99)/100-1])
	}
	return Percentiles{P50: rank(50), P95: rank(95), P99: rank(99), Max: rank(100)}
}

// Milliseconds rounds to a hundredth of one.
func Milliseconds(d time.Duration) float64 { return Round(float64(d)/float64(time.Millisecond), 2) }

// Round rounds to so many decimals, for a report that a person reads.
func Round(value float64, decimals int) float64 {
	factor := math.Pow10(decimals)
	return math.Round(value*factor) / factor
}
