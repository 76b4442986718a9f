package load_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/load"
)

func TestAccount(t *testing.T) {
	t.Parallel()
	committed := time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)
	a, b, c := uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
	events := []load.Event{{ID: a, Committed: committed}, {ID: b, Committed: committed}}
	after := func(ms, times int) load.Ack {
		return load.Ack{Times: times, First: committed.Add(time.Duration(ms) * time.Millisecond)}
	}
	for name, tc := range map[string]struct {
		acks map[uuid.UUID]load.Ack
		want load.Account
	}{
		"all delivered": {
			map[uuid.UUID]load.Ack{a: after(3, 1), b: after(4, 1)},
			load.Account{Created: 2, Delivered: 2, CommitToAck: []time.Duration{3 * time.Millisecond, 4 * time.Millisecond}},
		},
		"nothing delivered": {
			nil, load.Account{Created: 2, Lost: 2, LostIDs: []uuid.UUID{a, b}},
		},
		"a duplicate does not hide a loss": {
			map[uuid.UUID]load.Ack{a: after(3, 2)},
			load.Account{Created: 2, Delivered: 1, Lost: 1, Duplicates: 1, LostIDs: []uuid.UUID{b}, CommitToAck: []time.Duration{3 * time.Millisecond}},
		},
		"nor does a stranger": {
			map[uuid.UUID]load.Ack{a: after(3, 1), c: after(1, 1)},
			load.Account{Created: 2, Delivered: 1, Lost: 1, Unexpected: 1, LostIDs: []uuid.UUID{b}, CommitToAck: []time.Duration{3 * time.Millisecond}},
		},
		"a duplicate is one however often it came": {
			map[uuid.UUID]load.Ack{a: after(3, 9), b: after(4, 1)},
			load.Account{Created: 2, Delivered: 2, Duplicates: 1, CommitToAck: []time.Duration{3 * time.Millisecond, 4 * time.Millisecond}},
		},
	} {
		require.Empty(t, cmp.Diff(tc.want, load.AccountFor(events, tc.acks)), name)
	}
}

func TestAccountAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 50).Draw(t, "times")
		strangers := rapid.IntRange(0, 5).Draw(t, "strangers")
		var events []load.Event
		acks := map[uuid.UUID]load.Ack{}
		lost, again := 0, 0
		for i, n := range times {
			id := uuid.UUID{1, byte(i)}
			events = append(events, load.Event{ID: id})
			switch {
			case n == 0:
				lost++
			case n > 1:
				again++
				fallthrough
			default:
				acks[id] = load.Ack{Times: n}
			}
		}
		for i := range strangers {
			acks[uuid.UUID{2, byte(i)}] = load.Ack{Times: 1}
		}
		a := load.AccountFor(events, acks)
		require.Equal(t, []int{len(times), len(times) - lost, lost, again, strangers},
			[]int{a.Created, a.Delivered, a.Lost, a.Duplicates, a.Unexpected})
	})
}
