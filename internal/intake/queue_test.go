package intake

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/event"
)

func merchants(batch []item) map[string]int {
	counts := map[string]int{}
	for _, i := range batch {
		counts[i.ref.MerchantID]++
	}
	return counts
}

func TestAMerchantThatFloodsIsInNoBatchOfTheOthers(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for range 1000 {
		q.add(item{ref: event.Ref{MerchantID: "flood"}})
	}
	for range 3 {
		q.add(item{ref: event.Ref{MerchantID: "quiet"}})
	}
	q.add(item{ref: event.Ref{MerchantID: "rare"}})
	q.classify()
	require.Equal(t, map[string]int{"quiet": 3, "rare": 1}, merchants(q.cut(quiet)))
	require.Empty(t, q.cut(quiet))
	require.Equal(t, map[string]int{"flood": 64}, merchants(q.cut(busy)))
}

func TestWhereAllHaveMuchToDoNobodyIsBusy(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for n, merchant := range []string{"large", "small"} {
		for range []int{70, 20}[n] {
			q.add(item{ref: event.Ref{MerchantID: merchant}})
		}
	}
	q.classify()
	require.Equal(t, map[string]int{"large": 44, "small": 20}, merchants(q.cut(quiet)), "they take turns")
	require.Empty(t, q.cut(busy))
}

func TestHoweverManyFloodTheOthersTravelWithoutThem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue()
		var others []string
		for n := range rapid.IntRange(1, 10).Draw(t, "who flood") {
			for range rapid.IntRange(500, 2000).Draw(t, "events of a flood") {
				q.add(item{ref: event.Ref{MerchantID: fmt.Sprint("flood ", n)}})
			}
		}
		if rapid.Bool().Draw(t, "the floods come first") {
			q.classify()
			for range rapid.IntRange(0, 5).Draw(t, "batches") {
				for _, i := range q.cut(quiet) {
					q.ended(i)
				}
			}
		}
		for n := range rapid.IntRange(1, 10).Draw(t, "others") {
			others = append(others, fmt.Sprint("quiet ", n))
		}
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			for _, merchant := range others {
				for range rapid.IntRange(1, 3).Draw(t, "events") {
					q.add(item{ref: event.Ref{MerchantID: merchant}})
				}
			}
			q.classify()
			batch := q.cut(quiet)
			for merchant, n := range merchants(batch) {
				require.True(t, strings.HasPrefix(merchant, "quiet") || n <= floodFrom, "%s has %d of a batch", merchant, n)
			}
			for merchant, l := range q.lanes {
				require.Equal(t, l.open > floodFrom, l.class == busy && l.open > floodFrom, "%s has %d open", merchant, l.open)
			}
			for _, i := range batch {
				q.ended(i)
			}
			// Between two quiet events the floods are among themselves, and stay what they are.
			q.add(item{ref: event.Ref{MerchantID: "flood 0"}})
			flooding := map[string]bool{}
			for merchant, l := range q.lanes {
				flooding[merchant] = l.class == busy && l.open > floodUntil
			}
			q.classify()
			for merchant, l := range q.lanes {
				require.True(t, !flooding[merchant] || l.class == busy, merchant)
			}
		}
	})
}

func TestWhatIsUnderWayMakesAMerchantBusyToo(t *testing.T) {
	t.Parallel()
	q := newQueue()
	i, other := item{ref: event.Ref{MerchantID: "m"}}, item{ref: event.Ref{MerchantID: "other"}}
	var under []item
	for range busyEvents {
		q.add(i)
		q.classify()
		under = append(under, q.cut(quiet)...)
	}
	q.add(other)
	q.classify()
	require.Equal(t, map[string]int{"other": 1}, merchants(q.cut(quiet)))
	q.add(i)
	q.classify()
	require.Len(t, q.cut(busy), 1)
	for _, each := range under {
		q.ended(each)
	}
	q.add(i)
	q.classify()
	require.Len(t, q.cut(quiet), 1, "one is under way, and one waited")
	q.ended(i)
	q.ended(i)
	q.ended(other)
	require.Empty(t, q.lanes, "a merchant with nothing open is forgotten")
	require.Zero(t, q.open)
}

func TestTheTurnGoesOnFromBatchToBatch(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for n := range 100 { // more merchants than a batch has room
		for range 2 {
			q.add(item{ref: event.Ref{MerchantID: fmt.Sprint(n)}})
		}
	}
	counts := merchants(append(q.cut(quiet), q.cut(quiet)...))
	for n := range 100 {
		require.GreaterOrEqual(t, counts[fmt.Sprint(n)], 1, "merchant %d waited while others had two turns", n)
	}
}

func TestABatchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	q := newQueue()
	huge := strings.Repeat("x", maxBatchBytes)
	large := strings.Repeat("x", maxBatchBytes/3)
	q.add(item{ref: event.Ref{MerchantID: "m", ObjectID: huge}})
	for range 4 {
		q.add(item{ref: event.Ref{MerchantID: "m", ObjectID: large}})
	}
	require.Len(t, q.cut(quiet), 1, "one that is too large alone still goes")
	require.Len(t, q.cut(quiet), 2)
	require.Len(t, q.cut(quiet), 2)
	require.Empty(t, q.cut(quiet))
}

func TestQueueKeepsEveryItemOnceAndInItsMerchantsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue()
		var parts [3]*partition
		for i := range parts {
			parts[i] = &partition{}
		}
		waiting := map[string][]int64{} // offsets by merchant, in order
		under := map[string][]item{}
		origin := map[int64]*partition{}
		offset := int64(0)
		all := []string{"a", "b", "c", "d"}
		of := func(merchant string) class { // of one for which something waits
			return q.lanes[merchant].class
		}
		count := func(c class) int {
			n := 0
			for merchant, offsets := range waiting {
				if len(offsets) > 0 && of(merchant) == c {
					n += len(offsets)
				}
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				few := rapid.SampledFrom(all).Draw(t, "the one with few")
				for range rapid.IntRange(1, 80).Draw(t, "events") {
					merchant := rapid.SampledFrom(all).Draw(t, "merchant")
					if merchant == few && rapid.Bool().Draw(t, "skip") {
						continue
					}
					from := rapid.SampledFrom(parts[:]).Draw(t, "partition")
					waiting[merchant] = append(waiting[merchant], offset)
					origin[offset] = from
					q.add(item{ref: event.Ref{MerchantID: merchant}, record: event.Record{Offset: offset}, origin: from})
					offset++
				}
				q.classify()
				total := 0
				for _, merchant := range all {
					total += len(waiting[merchant]) + len(under[merchant])
				}
				for merchant, offsets := range waiting {
					if len(offsets) == 0 {
						continue
					}
					own := len(offsets) + len(under[merchant])
					others := float64(total-own) / max(1, float64(len(q.lanes)-1))
					small := slices.ContainsFunc(all, func(other string) bool {
						open := len(waiting[other]) + len(under[other])
						return open > 0 && open <= busyEvents
					})
					switch {
					case own <= busyEvents || own <= floodUntil && float64(own) <= busyUntil*others:
						require.Equal(t, quiet, of(merchant), "%d open, and %g of each other", own, others)
					case float64(own) > busyFrom*others && len(q.lanes) > 1, own > floodFrom && small:
						require.Equal(t, busy, of(merchant), "%d open, and %g of each other", own, others)
					}
				}
			},
			"cut": func(t *rapid.T) {
				c := rapid.SampledFrom([]class{quiet, busy}).Draw(t, "class")
				left := count(c)
				first := map[string]bool{}
				for merchant, offsets := range waiting {
					first[merchant] = len(offsets) > 0 && of(merchant) == quiet
				}
				batch := q.cut(c)
				require.Len(t, batch, min(left, maxBatchEvents))
				for _, i := range batch {
					merchant := i.ref.MerchantID
					require.Equal(t, c, of(merchant))
					require.Equal(t, waiting[merchant][0], i.record.Offset)
					waiting[merchant] = waiting[merchant][1:]
					under[merchant] = append(under[merchant], i)
				}
				counts := merchants(batch)
				for merchant, quiet := range first {
					require.True(t, !quiet || counts[merchant] > 0 || c == busy, "the next event of a quiet merchant is in the next batch, whatever else waits")
				}
				for merchant, left := range waiting {
					for _, count := range counts {
						require.True(t, len(left) == 0 || of(merchant) != c || count <= counts[merchant]+1, "%s waits with %d of a batch %v", merchant, counts[merchant], counts)
					}
				}
			},
			"end": func(t *rapid.T) {
				merchant := rapid.SampledFrom(all).Draw(t, "merchant")
				n := rapid.IntRange(0, len(under[merchant])).Draw(t, "events")
				for _, i := range under[merchant][:n] {
					q.ended(i)
				}
				under[merchant] = under[merchant][n:]
			},
			"drop": func(t *rapid.T) {
				gone := rapid.SampledFrom(parts[:]).Draw(t, "partition")
				dropped := 0
				for merchant, offsets := range waiting {
					var kept []int64
					for _, o := range offsets {
						if origin[o] == gone {
							dropped++
						} else {
							kept = append(kept, o)
						}
					}
					waiting[merchant] = kept
				}
				require.Equal(t, dropped, q.drop(gone))
			},
			"": func(t *rapid.T) {
				open := 0
				for _, merchant := range all {
					if len(waiting[merchant])+len(under[merchant]) > 0 {
						open++
					}
				}
				require.Len(t, q.lanes, open, "who has nothing open is forgotten")
				require.Equal(t, []int{count(quiet), count(busy)}, q.waiting[:])
			},
		})
	})
}
