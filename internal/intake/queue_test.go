package intake

import (
	"fmt"
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

func TestAMerchantThatFloodsFillsOnlyWhatOthersLeave(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for range 1000 {
		q.add(item{ref: event.Ref{MerchantID: "flood"}})
	}
	for range 3 {
		q.add(item{ref: event.Ref{MerchantID: "quiet"}})
	}
	q.add(item{ref: event.Ref{MerchantID: "rare"}})
	require.Equal(t, map[string]int{"flood": 60, "quiet": 3, "rare": 1}, merchants(q.cut()))
	require.Equal(t, map[string]int{"flood": 64}, merchants(q.cut()))
}

func TestTheTurnGoesOnFromBatchToBatch(t *testing.T) {
	t.Parallel()
	q := newQueue()
	for n := range 100 { // more merchants than a batch has room
		for range 2 {
			q.add(item{ref: event.Ref{MerchantID: fmt.Sprint(n)}})
		}
	}
	counts := merchants(append(q.cut(), q.cut()...))
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
	require.Len(t, q.cut(), 1, "one that is too large alone still goes")
	require.Len(t, q.cut(), 2)
	require.Len(t, q.cut(), 2)
	require.Empty(t, q.cut())
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
		origin := map[int64]*partition{}
		length, offset := 0, int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "events") {
					merchant := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "merchant")
					from := rapid.SampledFrom(parts[:]).Draw(t, "partition")
					q.add(item{ref: event.Ref{MerchantID: merchant}, record: event.Record{Offset: offset}, origin: from})
					waiting[merchant] = append(waiting[merchant], offset)
					origin[offset] = from
					offset++
					length++
				}
			},
			"cut": func(t *rapid.T) {
				batch := q.cut()
				require.Len(t, batch, min(length, maxBatchEvents))
				for _, i := range batch {
					require.Equal(t, waiting[i.ref.MerchantID][0], i.record.Offset)
					waiting[i.ref.MerchantID] = waiting[i.ref.MerchantID][1:]
				}
				length -= len(batch)
				counts := merchants(batch)
				for merchant, left := range waiting {
					for _, count := range counts {
						require.True(t, len(left) == 0 || count <= counts[merchant]+1, "%s waits with %d of a batch %v", merchant, counts[merchant], counts)
					}
				}
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
				length -= dropped
				require.Equal(t, dropped, q.drop(gone))
			},
			"": func(t *rapid.T) { require.Equal(t, length, q.length) },
		})
	})
}
