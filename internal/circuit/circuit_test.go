package circuit_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/circuit"
)

const half = 0.5

var start = time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)

func TestACircuitOpensWhereHalfOfEnoughRequestsFail(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	failed, ok := circuit.Sample{Since: start}, circuit.Sample{Since: start, OK: true}
	for range circuit.Samples / 2 {
		require.Equal(t, circuit.Unchanged, w.Observe(id, ok, start))
	}
	for range circuit.Samples/2 - 1 {
		require.Equal(t, circuit.Unchanged, w.Observe(id, failed, start))
	}
	require.Equal(t, circuit.Open, w.Observe(id, failed, start))
	require.Equal(t, circuit.Unchanged, w.Observe(uuid.New(), failed, start), "others are others")
}

func TestACircuitOpensAfterARowOfFailuresHoweverManySucceededBefore(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	failed, ok := circuit.Sample{Since: start}, circuit.Sample{Since: start, OK: true}
	for range 100 * circuit.Samples {
		require.Equal(t, circuit.Unchanged, w.Observe(id, ok, start))
	}
	for range 3 { // a success begins the row anew
		for range circuit.Samples - 1 {
			require.Equal(t, circuit.Unchanged, w.Observe(id, failed, start))
		}
		require.Equal(t, circuit.Unchanged, w.Observe(id, ok, start))
	}
	for range circuit.Samples - 1 {
		require.Equal(t, circuit.Unchanged, w.Observe(id, failed, start))
	}
	require.Equal(t, circuit.Open, w.Observe(id, failed, start))
}

func TestRequestsThatStallCountAsFailures(t *testing.T) {
	t.Parallel()
	later := start.Add(time.Second)
	w, id := circuit.NewWatch(half), uuid.New()
	for range 2 { // looking is no sample
		require.Equal(t, circuit.Unchanged, w.Stalled(id, start, circuit.Samples-1, start))
	}
	require.Equal(t, circuit.Open, w.Stalled(id, start, circuit.Samples, start))
	require.Equal(t, circuit.Open, w.Stalled(id, start, circuit.Samples, start), "nobody has written it down")
	w.Ruled(id, start)
	require.Equal(t, circuit.Unchanged, w.Stalled(id, start, circuit.Samples, start))

	require.Equal(t, circuit.Unchanged, w.Stalled(id, later, circuit.Samples-1, start), "as many as the first time: it may be slow at first")
	require.Equal(t, circuit.Open, w.Stalled(id, later, circuit.Samples, start))
	require.Equal(t, circuit.Unchanged, w.Stalled(id, start, 100, start), "of another time of the endpoint")

	id = uuid.New()
	for range 100 * circuit.Samples {
		w.Observe(id, circuit.Sample{Since: start, OK: true}, start)
	}
	w.Observe(id, circuit.Sample{Since: start}, start)
	require.Equal(t, circuit.Unchanged, w.Stalled(id, start, circuit.Samples-2, start))
	require.Equal(t, circuit.Open, w.Stalled(id, start, circuit.Samples-1, start), "with the one that failed they are a row")
	require.Equal(t, circuit.Unchanged, circuit.NewWatch(0).Stalled(id, start, circuit.Samples, start))
}

func TestWhatIsOlderThanTheWindowDoesNotCount(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	failed := circuit.Sample{Since: start}
	for range circuit.Samples - 1 {
		w.Observe(id, failed, start)
	}
	later := start.Add(circuit.Window)
	require.Equal(t, circuit.Unchanged, w.Observe(id, failed, later))
	for range circuit.Samples - 2 {
		require.Equal(t, circuit.Unchanged, w.Observe(id, failed, later))
	}
	require.Equal(t, circuit.Open, w.Observe(id, failed, later))
}

func TestStragglersOfAnOutageDoNotReopenTheCircuit(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	closed := start.Add(time.Minute)
	require.Equal(t, circuit.Unchanged, w.Observe(id, circuit.Sample{Since: closed, Opens: 1, OK: true}, closed))
	for range 1000 {
		require.Equal(t, circuit.Unchanged, w.Observe(id, circuit.Sample{Since: start}, closed))
	}
	// As soon as requests of its own fail it opens, and sooner than the first time.
	again := circuit.Sample{Since: closed, Opens: 1}
	require.Equal(t, circuit.Unchanged, w.Observe(id, again, closed))
	require.Equal(t, circuit.Open, w.Observe(id, again, closed))
}

func TestAVerdictIsRepeatedUntilItIsWrittenDown(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	again := circuit.Sample{Since: start, Opens: 1}
	w.Observe(id, again, start)
	w.Observe(id, again, start)
	require.Equal(t, circuit.Open, w.Observe(id, again, start))
	require.Equal(t, circuit.Open, w.Observe(id, again, start))
	w.Ruled(id, start.Add(-time.Second))
	require.Equal(t, circuit.Open, w.Observe(id, again, start), "that was about another time")
	w.Ruled(id, start)
	require.Equal(t, circuit.Unchanged, w.Observe(id, again, start))
}

func TestAnEndpointIsWellAWindowAfterItsCircuitClosed(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(half), uuid.New()
	ok := circuit.Sample{Since: start, Opens: 3, OK: true}
	require.Equal(t, circuit.Unchanged, w.Observe(id, ok, start.Add(circuit.Window-1)))
	require.Equal(t, circuit.Well, w.Observe(id, ok, start.Add(circuit.Window)))
	ok.Opens = 0
	require.Equal(t, circuit.Unchanged, w.Observe(id, ok, start.Add(circuit.Window)))
}

func TestWithoutAShareNothingOpens(t *testing.T) {
	t.Parallel()
	w, id := circuit.NewWatch(0), uuid.New()
	for range 10 * circuit.Samples {
		require.Equal(t, circuit.Unchanged, w.Observe(id, circuit.Sample{Since: start}, start))
	}
	require.Zero(t, w.Endpoints())
}

func TestAnEndpointWithoutRequestsIsForgotten(t *testing.T) {
	t.Parallel()
	w := circuit.NewWatch(half)
	for range 1000 {
		w.Observe(uuid.New(), circuit.Sample{Since: start}, start)
	}
	require.Equal(t, 1000, w.Endpoints())
	w.Observe(uuid.New(), circuit.Sample{Since: start}, start.Add(2*circuit.Window))
	require.Equal(t, 1, w.Endpoints())
}

func TestTheWaitGrowsByAQuarterUpToABound(t *testing.T) {
	t.Parallel()
	for opens, want := range map[int]time.Duration{
		0: 4 * time.Second, 1: 5 * time.Second, 2: 6250 * time.Millisecond, 20: circuit.LongestWait, 1 << 30: circuit.LongestWait,
	} {
		require.Equal(t, want, circuit.Wait(4*time.Second, opens))
	}
	require.Equal(t, circuit.LongestWait, circuit.Wait(time.Hour, 0))
}

// The property: whatever comes in whatever order, the verdict is the one that a reader of all samples would come to.
func TestTheWatchJudgesAsWhoRemembersEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type seen struct {
			circuit.Sample
			at time.Time
		}
		var (
			w       = circuit.NewWatch(half)
			id      = uuid.New()
			now     = start
			all     []seen
			newest  time.Time // the latest change of the circuit that a sample told of
			ruled   bool
			swept   time.Time
			changes = []time.Time{start}
		)
		bucket := func(at time.Time) int64 { return at.UnixNano() / int64(circuit.Window/6) }
		for range rapid.IntRange(1, 300).Draw(t, "samples") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, time.Second, 7 * time.Second, circuit.Window}).Draw(t, "later"))
			if rapid.IntRange(0, 30).Draw(t, "change") == 0 {
				changes = append(changes, now)
			}
			s := circuit.Sample{
				Since: changes[max(0, len(changes)-1-rapid.IntRange(0, 2).Draw(t, "straggles"))],
				Opens: rapid.IntRange(0, 1).Draw(t, "opens"), OK: now.Sub(start)%(2*circuit.Window) < circuit.Window && rapid.IntRange(0, 2).Draw(t, "fails") == 0,
			}
			got := w.Observe(id, s, now)
			if now.Sub(swept) >= circuit.Window {
				swept = now
				if len(all) == 0 || bucket(now)-bucket(all[len(all)-1].at) >= 6 {
					// It has forgotten the endpoint, and may take a straggler for news: the ledger, which is asked with the time of
					// the change, does not.
					newest, ruled, all = time.Time{}, false, nil
				}
			}
			if s.Since.Before(newest) {
				require.Equal(t, circuit.Unchanged, got)
				continue
			}
			if s.Since.After(newest) {
				newest, ruled, all = s.Since, false, nil
			}
			all = append(all, seen{s, now})
			ok, failed, row := 0, 0, 0
			for _, each := range all {
				if bucket(now)-bucket(each.at) < 6 {
					if each.OK {
						ok, row = ok+1, 0
					} else {
						failed, row = failed+1, row+1
					}
				}
			}
			few := circuit.Samples
			if s.Opens > 0 {
				few = 3
			}
			want := circuit.Unchanged
			if bad := failed >= ok; !ruled {
				switch {
				case !s.OK && (bad && ok+failed >= few || row >= circuit.Samples):
					want = circuit.Open
				case s.OK && !bad && s.Opens > 0 && now.Sub(s.Since) >= circuit.Window:
					want = circuit.Well
				}
			}
			require.Equal(t, want, got)
			if got != circuit.Unchanged && rapid.Bool().Draw(t, "ruled") {
				w.Ruled(id, s.Since)
				ruled = true
			}
		}
	})
}
