package simulator

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestOnlyTheLatestWebhooksAreRemembered(t *testing.T) {
	t.Parallel()
	a := newAttempts(3)
	ids := func(text string) (counts []int) {
		for _, id := range text {
			counts = append(counts, a.count(attempted{1, "joes", string(id)}))
		}
		return counts
	}
	require.Equal(t, []int{1, 1, 2, 1, 3}, ids("abaca"))
	require.Equal(t, []int{1, 2, 2}, ids("dbc"), "a is forgotten")
	require.Equal(t, []int{1, 3, 2}, ids("acd"), "b is")
	require.Equal(t, 1, a.count(attempted{2, "joes", "d"}), "another rule's")
	require.Equal(t, 1, a.count(attempted{1, "jims", "d"}), "another merchant's")
}

func TestMemoryOfAttemptsIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(t, "most")
		a := newAttempts(most)
		for _, id := range rapid.SliceOf(rapid.IntRange(0, 8)).Draw(t, "ids") {
			webhook := attempted{id: strconv.Itoa(id)}
			before := a.of[webhook]
			require.Equal(t, before+1, a.count(webhook))
			require.LessOrEqual(t, len(a.of), most)
			require.Len(t, a.known, len(a.of))
			for _, known := range a.known {
				require.Contains(t, a.of, known)
			}
		}
	})
	b := newBehaviours()
	b.set(Behaviour{FailFirst: 2})
	for i := range maxCounted + 10 {
		require.Equal(t, 503, b.judge("joes", strconv.Itoa(i)).status)
	}
	require.Len(t, b.attempts.of, maxCounted)
	b.clear()
	require.Empty(t, b.attempts.of)
}
