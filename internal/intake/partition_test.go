package intake

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/event"
)

func TestPartitionIsDoneOnlyAsFarAsThereIsNoGap(t *testing.T) {
	t.Parallel()
	p := &partition{}
	for _, offset := range []int64{5, 6, 9, 10} { // holes are what compaction and aborted transactions leave
		p.take(event.Record{Topic: "t", Partition: 2, Offset: offset, LeaderEpoch: 7, Key: []byte("k"), Value: []byte("v")})
	}
	_, grown := p.finish(6)
	require.False(t, grown)
	last, grown := p.finish(5)
	require.True(t, grown)
	require.Equal(t, event.Record{Topic: "t", Partition: 2, Offset: 6, LeaderEpoch: 7}, last)
	_, grown = p.finish(10)
	require.False(t, grown)
	_, grown = p.finish(7)
	require.False(t, grown, "what was never taken")
	last, grown = p.finish(9)
	require.True(t, grown)
	require.EqualValues(t, 10, last.Offset)
	_, grown = p.finish(9)
	require.False(t, grown, "a second time")
}

func TestPartitionNeverMarksPastWhatIsOpen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := &partition{}
		next := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		var open []int64 // in order
		marked, done := next-1, map[int64]bool{}
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)) // drawing each would take rapid seconds
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				for range rapid.IntRange(1, 700).Draw(t, "records") {
					next += []int64{0, 0, 0, 1, 5}[order.IntN(5)] // a hole
					p.take(event.Record{Offset: next})
					open = append(open, next)
					next++
				}
			},
			"finish": func(t *rapid.T) {
				for range rapid.IntRange(1, 700).Draw(t, "records") {
					if len(open) == 0 {
						return
					}
					i := order.IntN(min(len(open), 80))
					offset := open[i]
					open = append(open[:i:i], open[i+1:]...)
					done[offset] = true
					last, grown := p.finish(offset)
					if grown {
						require.Greater(t, last.Offset, marked)
						require.True(t, done[last.Offset])
						marked = last.Offset
					}
					if len(open) > 0 {
						require.Less(t, marked, open[0])
					}
					require.Equal(t, i == 0, grown, "the mark grows when the first open record is done, and only then")
				}
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, len(p.open), 2*(len(p.open)-p.head)+1024+1, "what is done is let go")
			},
		})
	})
}
