package bench

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
)

func TestAShareIsGivenAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"20%": 0.2, "0.2": 0.2, "0%": 0, "0": 0, "12.5%": 0.125} {
		got, err := ParseShare(text)
		require.NoError(t, err, text)
		require.InDelta(t, want, got, 1e-12, text)
	}
	for _, text := range []string{"", "%", "20", "100%", "-1%", "1", "NaN", "some", "5 %"} {
		_, err := ParseShare(text)
		require.Error(t, err, text)
	}
}

func TestKindsLieEvenlyAmongEachOther(t *testing.T) {
	t.Parallel()
	require.Equal(t, []kind{0, 0, 0, 0, hanging, 0, 0, 0, failing, hanging}, kinds(10, 0.2, 0.1))
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 200).Draw(t, "endpoints")
		h, f := rapid.Float64Range(0, 0.4).Draw(t, "hanging"), rapid.Float64Range(0, 0.4).Draw(t, "failing")
		counts := map[kind]int{}
		for _, k := range kinds(n, h, f) {
			counts[k]++
		}
		for k, share := range map[kind]float64{hanging: h, failing: f} {
			require.InDelta(t, share*float64(n), counts[k], 1)
			require.Equal(t, share > 0, counts[k] > 0)
		}
	})
}

func TestRequestsAreCountedWithinAnySecond(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)
	var one, other tally
	for _, ms := range []int{0, 900, 1100, 1500, 1890, 1900, 100_000} { // 4 from 900 to 1890, though 3 in the second second
		one.begin(begin.Add(time.Duration(ms) * time.Millisecond))
		if ms != 900 {
			one.end()
		}
	}
	other.begin(begin)
	var r Troubled
	r.add(&one, begin.Add(110*time.Second))
	r.add(&other, begin.Add(110*time.Second))
	require.Empty(t, cmp.Diff(Troubled{Attempts: 8, MostOfOne: 7, MostOfOnePerS: 4, MostOpenAtOnce: 2, MostOfOneLatePerM: 1}, r))
}

func TestAfterACircuitOpenedOnlyProbesAreAllowed(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)
	after := func(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }
	requests := func(at ...float64) *tally {
		t := &tally{}
		for _, s := range at {
			t.begin(after(s))
		}
		return t
	}
	a, b := uuid.New(), uuid.New()
	w := circuitWatch{opened: map[uuid.UUID]time.Time{}}
	look := func(endpoint uuid.UUID, circuit delivery.Circuit, since float64, opens int) load.Backlog {
		backlog := load.Backlog{EndpointID: endpoint, Circuit: circuit, ChangedAt: after(since), Opens: opens}
		w.note([]load.Backlog{backlog})
		return backlog
	}
	look(a, delivery.CircuitClosed, -5, 0)
	look(a, delivery.CircuitOpen, 10, 1)
	look(b, delivery.CircuitOpen, 12.5, 1)
	ends := []load.Backlog{look(a, delivery.CircuitOpen, 40, 3), look(b, delivery.CircuitHalfOpen, 30, 2)}
	var r Troubled
	r.spare(begin, w.opened, ends, []*tally{requests(1, 9, 10.9, 15, 25, 39), requests(30)})
	require.InDelta(t, 12.5, *r.OpenedAfterS, 0)
	require.Equal(t, []int{4, 4}, []int{r.AttemptsOpen, r.Probes}, "that at 10.9 s was decided before")

	r = Troubled{}
	r.spare(begin, w.opened, append(ends, look(uuid.New(), delivery.CircuitClosed, 0, 0)), []*tally{requests(), requests(), requests(1, 2)})
	require.Nil(t, r.OpenedAfterS, "one did not open")
}

func looks(n int, mb func(second float64) float64) []held {
	all := make([]held, n)
	for i := range all {
		at := time.Duration(i) * memoryInterval
		all[i] = held{at, int64(mb(at.Seconds()) * (1 << 20))}
	}
	return all
}

func TestMemoryIsFlatWhereItStopsGrowing(t *testing.T) {
	t.Parallel()
	require.Nil(t, memoryOf(nil))
	warm := memoryOf(looks(151, func(s float64) float64 { return min(200, 50+5*s) })) // it is warm after 30 s
	require.True(t, warm.Flat)
	require.Equal(t, []float64{50, 200, 200, 0, 240}, []float64{warm.FirstMB, warm.LastMB, warm.MaxMB, warm.SlopeMBPerMin, warm.SlopeOverS})
	require.Len(t, warm.SeriesMB, 51)
	require.InDelta(t, 6, warm.SeriesEveryS, 0)

	leak := memoryOf(looks(151, func(s float64) float64 { return 100 + s/2 }))
	require.False(t, leak.Flat)
	require.InDelta(t, 30, leak.SlopeMBPerMin, 0.01)

	saw := memoryOf(looks(151, func(s float64) float64 { return 100 + float64(int(s)%20)*4 }))
	require.True(t, saw.Flat, "a heap that is collected is flat: %+v", saw)

	shrinks := memoryOf(looks(151, func(s float64) float64 { return 500 - s }))
	require.True(t, shrinks.Flat)

	short := memoryOf(looks(6, func(s float64) float64 { return 100 * s }))
	require.Zero(t, short.SlopeOverS, "of a few seconds nothing is said")
}

func TestMemoryIsWatchedUntilItIsStopped(t *testing.T) {
	t.Parallel()
	w := watchMemory(t.Context(), fixture, []Component{{Name: "postgres", PID: 100}})
	w.stop()
	w.stop()
	require.NoError(t, w.err)
	require.Len(t, w.held["postgres"], 1)

	gone := watchMemory(t.Context(), procFS{root: t.TempDir() + "/none"}, nil)
	gone.stop()
	require.Error(t, gone.err)
}

func TestAComparisonIsOfMediansOfRunsInTurn(t *testing.T) {
	t.Parallel()
	with, without := []float64{20, 400, 21, 19, 22}, []float64{19, 18, 20, 300, 18.5}
	var turns []bool
	c, err := compare(t.Context(), Options{Hanging: 0.2, Failing: 0.1}, 5, time.Nanosecond, func(_ context.Context, o Options) (Report, error) {
		troubled := o.Hanging > 0
		require.Equal(t, troubled, o.Failing > 0)
		p99 := without[len(turns)/2]
		if troubled {
			p99 = with[len(turns)/2]
		}
		turns = append(turns, troubled)
		return Report{Created: 1, Delivered: 1, CommitToAckMS: load.Percentiles{P50: p99 / 2, P99: p99}}, nil
	})
	require.NoError(t, err)
	require.Equal(t, []bool{true, false, true, false, true, false, true, false, true, false}, turns)
	require.Equal(t, []float64{21, 19, 2, 10.5}, []float64{c.MedianWithMS.P99, c.MedianWithoutMS.P99, c.P99MovedMS, c.P99MovedPercent})
	require.True(t, c.Unmoved, "2 ms are nothing")
	require.NoError(t, c.Err())
	var out bytes.Buffer
	c.Print(&out)
	require.Contains(t, out.String(), "unmoved")

	c.With[1].Lost = 1
	require.ErrorContains(t, c.Err(), "run 2: 1 of 1 events")
	c.With[1].Lost = 0
	for i := range c.With {
		c.With[i].CommitToAckMS.P99 += 100
	}
	c.judge()
	require.EqualError(t, c.Err(), "the healthy endpoints' p99 moved by 102.0 ms, 536.8 %")

	_, err = compare(t.Context(), Options{}, 1, 0, func(context.Context, Options) (Report, error) { return Report{}, errors.New("no stack") })
	require.EqualError(t, err, "no stack")
}

func TestAlternationsNeedSomethingToAlternate(t *testing.T) {
	t.Parallel()
	require.NoError(t, Options{Failing: 0.1}.CheckAlternations(5))
	require.Error(t, Options{Failing: 0.1}.CheckAlternations(0))
	require.Error(t, Options{Failing: 0.1}.CheckAlternations(51))
	require.Error(t, Options{}.CheckAlternations(5))
}
