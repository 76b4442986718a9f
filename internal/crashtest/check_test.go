package crashtest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/crashtest"
)

var begin = time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

func id(n int) uuid.UUID { return uuid.UUID{15: byte(n)} }

// sets are of n payments, each acknowledged, committed, received once and in the ledger; webhook i came at i seconds.
func sets(n int) crashtest.Sets {
	var s crashtest.Sets
	for i := range n {
		object := crashtest.Object{ID: fmt.Sprintf("p%d", i), Version: 1}
		hash := fmt.Sprintf("hash%d", i)
		s.Acknowledged = append(s.Acknowledged, object)
		s.Committed = append(s.Committed, crashtest.Event{
			Object: object, ID: id(i), MerchantID: "m", Type: "payment.succeeded", Committed: at(1000*i - 5), Bodies: []string{"of another version", hash},
		})
		s.Received = append(s.Received, crashtest.Receipt{
			Object: object, ID: id(i).String(), MerchantID: "m", Type: "payment.succeeded", BodySHA256: hash, At: at(1000 * i),
		})
		s.Ledger = append(s.Ledger, crashtest.Attempt{EventID: id(i), BodySHA256: hash})
	}
	return s
}

func without[T any](list []T, i int) []T { return slices.Delete(slices.Clone(list), i, i+1) }

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(s *crashtest.Sets)
		want   func(v *crashtest.Verdict)
	}{
		"all equal": {func(*crashtest.Sets) {}, func(*crashtest.Verdict) {}},
		"a removed receipt is a loss": {
			func(s *crashtest.Sets) { s.Received = without(s.Received, 1) },
			func(v *crashtest.Verdict) {
				v.Received = 2
				v.Lost = []string{"event 00000000-0000-0000-0000-000000000001 of payment p1 version 1 was committed and never received"}
			},
		},
		"a duplicate that makes the counts equal does not hide it": {
			func(s *crashtest.Sets) { s.Received[1] = s.Received[0] },
			func(v *crashtest.Verdict) {
				v.Received = 2
				v.Lost = []string{"event 00000000-0000-0000-0000-000000000001 of payment p1 version 1 was committed and never received"}
				v.Duplicates = []crashtest.Duplicate{{EventID: id(0), First: at(0), Again: at(0), Late: true}}
			},
		},
		"nor does an invented one": {
			func(s *crashtest.Sets) { s.Received[1].ID = "invented" },
			func(v *crashtest.Verdict) {
				v.Received = 2
				v.Lost = []string{"event 00000000-0000-0000-0000-000000000001 of payment p1 version 1 was committed and never received"}
				v.Phantoms = []string{"invented"}
			},
		},
		"an invented receipt is a phantom": {
			func(s *crashtest.Sets) {
				s.Received = append(s.Received, crashtest.Receipt{ID: id(9).String(), MerchantID: "m", At: at(1)})
			},
			func(v *crashtest.Verdict) { v.Phantoms = []string{id(9).String()} },
		},
		"an acknowledged payment without its event is a loss": {
			func(s *crashtest.Sets) {
				s.Committed, s.Received, s.Ledger = without(s.Committed, 0), without(s.Received, 0), without(s.Ledger, 0)
			},
			func(v *crashtest.Verdict) {
				v.Committed, v.Received = 2, 2
				v.Lost = []string{"payment p0 version 1 was acknowledged and never committed"}
			},
		},
		"another version of the payment does not stand in for it": {
			func(s *crashtest.Sets) { s.Acknowledged[0].Version = 2 },
			func(v *crashtest.Verdict) {
				v.Lost = []string{"payment p0 version 2 was acknowledged and never committed"}
			},
		},
		"what was committed and never acknowledged must be received all the same": {
			func(s *crashtest.Sets) {
				s.Acknowledged, s.Received = without(s.Acknowledged, 2), without(s.Received, 2)
			},
			func(v *crashtest.Verdict) {
				v.Acknowledged, v.Received = 2, 2
				v.Lost = []string{"event 00000000-0000-0000-0000-000000000002 of payment p2 version 1 was committed and never received"}
			},
		},
		"what was acknowledged twice counts once": {
			func(s *crashtest.Sets) { s.Acknowledged = append(s.Acknowledged, s.Acknowledged[0]) },
			func(*crashtest.Verdict) {},
		},
		"a changed body is a mismatch": {
			func(s *crashtest.Sets) { s.Received[0].BodySHA256, s.Ledger[0].BodySHA256 = "forged", "forged" },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: its body (SHA-256 forged) is none that its snapshot and payment make"}
			},
		},
		"a body with the payment as of another time is right": {
			func(s *crashtest.Sets) {
				s.Received[0].BodySHA256, s.Ledger[0].BodySHA256 = "of another version", "of another version"
			},
			func(*crashtest.Verdict) {},
		},
		"bodies of events that nobody keeps are not compared": {
			func(s *crashtest.Sets) { s.Committed[0].Bodies = nil },
			func(*crashtest.Verdict) {},
		},
		"a webhook of another payment is a mismatch": {
			func(s *crashtest.Sets) { s.Received[0].Object.ID = "p7" },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: it is of payment p0 version 1 and told of payment p7 version 1"}
			},
		},
		"so is one of another version": {
			func(s *crashtest.Sets) { s.Received[0].Version = 2 },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: it is of payment p0 version 1 and told of payment p0 version 2"}
			},
		},
		"so is one of another type": {
			func(s *crashtest.Sets) { s.Received[0].Type = "payment.refunded" },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: it is a payment.succeeded and came as a payment.refunded"}
			},
		},
		"so is one at another merchant": {
			func(s *crashtest.Sets) { s.Received[0].MerchantID = "n" },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: it is m's and reached n"}
			},
		},
		"the ledger has a 2xx for a body that nobody got": {
			func(s *crashtest.Sets) { s.Ledger[0].BodySHA256 = "other" },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000000: the ledger has a 2xx for a body (SHA-256 other) that no merchant got"}
			},
		},
		"the ledger has a 2xx of an event that is not there": {
			func(s *crashtest.Sets) { s.Ledger[0].EventID = id(9) },
			func(v *crashtest.Verdict) {
				v.Mismatches = []string{"event 00000000-0000-0000-0000-000000000009: the ledger has a 2xx of it, and it was never committed"}
			},
		},
		"the ledger's own gaps are no mismatch: an answer may come just before a kill": {
			func(s *crashtest.Sets) { s.Ledger = nil }, func(*crashtest.Verdict) {},
		},
		"a replay is meant to arrive again": {
			func(s *crashtest.Sets) {
				s.Received = append(s.Received, s.Received[0])
				s.Ledger = append(s.Ledger, crashtest.Attempt{EventID: id(0), Generation: 7, BodySHA256: "hash0"})
				s.Generations = map[uuid.UUID]int{id(0): 2}
			},
			func(*crashtest.Verdict) {},
		},
		"a third time it is not, and the generation that came twice is named": {
			func(s *crashtest.Sets) {
				s.Received = append(s.Received, s.Received[0], s.Received[0])
				replayed := crashtest.Attempt{EventID: id(0), Generation: 7, BodySHA256: "hash0"}
				s.Ledger = append(s.Ledger, replayed, replayed)
				s.Generations = map[uuid.UUID]int{id(0): 2}
			},
			func(v *crashtest.Verdict) {
				v.Duplicates = []crashtest.Duplicate{{EventID: id(0), Generation: 7, First: at(0), Again: at(0), Late: true}}
			},
		},
		"each further time is a duplicate of its own": {
			func(s *crashtest.Sets) { s.Received = append(s.Received, s.Received[0], s.Received[0]) },
			func(v *crashtest.Verdict) {
				d := crashtest.Duplicate{EventID: id(0), First: at(0), Again: at(0), Late: true}
				v.Duplicates = []crashtest.Duplicate{d, d}
			},
		},
	} {
		s := sets(3)
		tc.change(&s)
		want := crashtest.Verdict{Acknowledged: 3, Committed: 3, Received: 3}
		tc.want(&want)
		require.Empty(t, cmp.Diff(want, crashtest.Check(s)), name)
	}
}

func TestOnlyAFaultExcusesADuplicate(t *testing.T) {
	t.Parallel()
	kill := crashtest.Window{Fault: "kill", From: at(10_000), To: at(12_000)}
	shared := crashtest.Window{Fault: "freeze", From: at(10_000), To: at(30_000), OnTheWire: true}
	later := crashtest.Window{Fault: "later", From: at(20_000), To: at(20_500)}
	for name, tc := range map[string]struct {
		first, again int // ms
		faults       []crashtest.Window
		want         crashtest.Duplicate
	}{
		"just before the kill":              {9_900, 11_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: 100 * time.Millisecond}},
		"at the limit":                      {9_750, 11_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: 250 * time.Millisecond}},
		"beyond the limit":                  {9_749, 11_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: 251 * time.Millisecond, Late: true}},
		"while it was frozen":               {11_500, 13_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: -1500 * time.Millisecond}},
		"when it woke":                      {12_900, 14_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: -2900 * time.Millisecond}},
		"on the wire of one of two":         {10_400, 31_000, []crashtest.Window{shared}, crashtest.Duplicate{Fault: "freeze", Before: -400 * time.Millisecond}},
		"delivered by the other of two":     {13_000, 31_000, []crashtest.Window{shared}, crashtest.Duplicate{Fault: "freeze", Before: -3 * time.Second, Late: true}},
		"long after":                        {13_100, 14_000, []crashtest.Window{kill}, crashtest.Duplicate{Fault: "kill", Before: -3100 * time.Millisecond, Late: true}},
		"a fault that comes after both":     {1_000, 2_000, []crashtest.Window{kill}, crashtest.Duplicate{Late: true}},
		"without any fault":                 {1_000, 2_000, nil, crashtest.Duplicate{Late: true}},
		"the fault that excuses is named":   {9_900, 21_000, []crashtest.Window{later, kill}, crashtest.Duplicate{Fault: "kill", Before: 100 * time.Millisecond}},
		"of two that do not, the nearer":    {19_000, 21_000, []crashtest.Window{kill, later}, crashtest.Duplicate{Fault: "later", Before: time.Second, Late: true}},
		"one excuse is enough, in any turn": {19_900, 21_000, []crashtest.Window{kill, later}, crashtest.Duplicate{Fault: "later", Before: 100 * time.Millisecond}},
	} {
		s := sets(1)
		s.Faults = tc.faults
		s.Received[0].At = at(tc.first)
		twice := s.Received[0]
		twice.At = at(tc.again)
		s.Received = []crashtest.Receipt{twice, s.Received[0]} // in whatever order they are read
		tc.want.EventID, tc.want.First, tc.want.Again = id(0), at(tc.first), at(tc.again)
		got := crashtest.Check(s)
		require.Empty(t, cmp.Diff([]crashtest.Duplicate{tc.want}, got.Duplicates), name)
		late := 0
		if tc.want.Late {
			late = 1
		}
		require.Equal(t, late, got.Late(), name)
	}
}

func TestADuplicateTellsItsTimeBeforeTheFault(t *testing.T) {
	t.Parallel()
	line, err := json.Marshal(crashtest.Duplicate{Fault: "kill", Before: 1500 * time.Microsecond, First: begin, Again: begin})
	require.NoError(t, err)
	require.JSONEq(t, `{"event_id":"00000000-0000-0000-0000-000000000000","generation":0,"first":"2026-02-23T12:00:00Z",
		"again":"2026-02-23T12:00:00Z","fault":"kill","before_fault_ms":1.5}`, string(line))
}

// Whatever is removed, invented and repeated at once, each is found by its id.
func TestCheckAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 50).Draw(t, "times")
		strangers := rapid.IntRange(0, 5).Draw(t, "strangers")
		forged := rapid.SliceOfN(rapid.Bool(), len(times), len(times)).Draw(t, "forged")
		s := sets(len(times))
		received := s.Received
		s.Received, s.Ledger = nil, nil
		lost, again, differ := 0, 0, 0
		for i, n := range times {
			r := received[i]
			if forged[i] && n > 0 {
				r.BodySHA256 = "forged"
				differ += n
			}
			for range n {
				s.Received = append(s.Received, r)
			}
			if n == 0 {
				lost++
			}
			again += max(0, n-1)
		}
		for i := range strangers {
			s.Received = append(s.Received, crashtest.Receipt{ID: fmt.Sprint("stranger", i)})
		}
		v := crashtest.Check(s)
		require.Equal(t, []int{len(times), len(times) - lost, lost, strangers, again, again, differ},
			[]int{v.Committed, v.Received, len(v.Lost), len(v.Phantoms), len(v.Duplicates), v.Late(), len(v.Mismatches)})
	})
}

func TestAVersionThatIsAcceptedBeforeAnEarlierOneIsOutOfOrder(t *testing.T) {
	t.Parallel()
	// Two payments of four versions each, in order.
	ordered := func() []crashtest.Receipt {
		var out []crashtest.Receipt
		for v := range 4 {
			for p := range 2 {
				out = append(out, crashtest.Receipt{
					Object: crashtest.Object{ID: fmt.Sprintf("p%d", p), Version: int64(v + 1)}, ID: id(10*p + v).String(), MerchantID: "m", At: at(1000*v + p),
				})
			}
		}
		return out
	}
	disorder := func(received []crashtest.Receipt) []string {
		return crashtest.Check(crashtest.Sets{Received: received}).Disorder
	}
	require.Empty(t, disorder(ordered()))

	swapped := ordered()
	swapped[2].At, swapped[4].At = swapped[4].At, swapped[2].At
	require.Equal(t, []string{"payment p0 version 3 was accepted 1s before version 2 of it"}, disorder(swapped))
	last := ordered()
	last[0].At = at(60_000)
	require.Len(t, disorder(last), 3, "each that came before the first one")

	again := ordered()
	again = append(again, again[0], again[2])
	again[8].At, again[9].At = at(9000), at(9001)
	require.Empty(t, disorder(again), "what comes once more came first before")
	another := ordered()
	another[4].MerchantID = "another"
	another[4].At = at(0)
	require.Empty(t, disorder(another), "each merchant has an order of their own")
	atOnce := ordered()
	for i := range atOnce {
		atOnce[i].At = at(0)
	}
	require.Empty(t, disorder(atOnce), "then it is the order of the book")
	require.Empty(t, disorder(without(ordered(), 2)), "what did not come is lost, and not late")

	result := crashtest.Result{Acknowledged: 1, OrderViolations: 1}
	require.NoError(t, result.Err(), "nobody asked for an order")
	result.Ordered = true
	require.ErrorContains(t, result.Err(), "1 order violations")
}
