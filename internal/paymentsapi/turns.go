package paymentsapi

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/fault"
)

const (
	// farAbove is how many times as much as the others' median a merchant may create before it is held to the rate.
	farAbove = 4
	// turnsAtOnce is the part of a second's creations that a merchant may bring at once.
	turnsAtOnce = 10
	// together is how far apart turns are that are waited for: what commits together travels in one batch, which costs
	// little more than one event.
	together = 50 * time.Millisecond
)

// turns keep a merchant that creates far more than the others from delaying them: what it creates goes through the same
// database, the same WAL and the same processes. Beside others it has rate creations a second, or four times what the others
// have by their median, whichever is more; further ones wait for their turn. A merchant alone waits for nobody.
type turns struct {
	rate int // 0 lets everybody through

	mu     sync.Mutex
	lanes  map[string]*lane
	second time.Time // when the present one began
	counts []int     // creations of each merchant in the second before, sorted
}

type lane struct {
	now, before int       // creations asked for, in this second and the one before
	free        time.Time // when the next turn is
}

func newTurns(rate int) *turns { return &turns{rate: rate, lanes: map[string]*lane{}} }

// wait returns when it is the merchant's turn, and reports whether that was later. A fault.Unavailable says that the turn
// comes after ctx's end.
func (t *turns) wait(ctx context.Context, merchant string) (bool, error) {
	if t.rate == 0 {
		return false, nil
	}
	now := time.Now()
	turn, found := t.next(ctx, merchant, now)
	switch {
	case !turn.After(now):
		return false, nil
	case !found:
		return true, fault.New(fault.Unavailable, "merchant %s has too many requests waiting: try again later, or with fewer at a time", merchant)
	}
	timer := time.NewTimer(turn.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true, nil
	case <-ctx.Done():
		return true, fault.Wrap(ctx.Err(), fault.Unavailable, "waiting for a turn of merchant %s", merchant)
	}
}

// next takes the merchant's next turn, unless that is after ctx's end.
func (t *turns) next(ctx context.Context, merchant string, now time.Time) (turn time.Time, found bool) { //nolint:nonamedreturns // says what the bool is
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.second) >= time.Second {
		t.roll(now)
	}
	l := t.lanes[merchant]
	if l == nil {
		l = &lane{}
		t.lanes[merchant] = l
	}
	l.now++
	if len(t.lanes) == 1 {
		l.free = now
		return now, true
	}
	limit := max(t.rate, farAbove*t.othersMedian(l.before))
	each := time.Second / time.Duration(limit)
	if earliest := now.Add(-time.Second / turnsAtOnce); l.free.Before(earliest) {
		l.free = earliest
	}
	turn = l.free.Add(each)
	if deadline, bounded := ctx.Deadline(); bounded && turn.After(deadline) {
		return turn, false
	}
	l.free = turn
	if turn.After(now) {
		turn = turn.Truncate(together).Add(together)
	}
	return turn, true
}

// roll begins another second, and forgets merchants that created nothing in the last one and have nothing waiting.
func (t *turns) roll(now time.Time) {
	missed := now.Sub(t.second) >= 2*time.Second
	t.second, t.counts = now, t.counts[:0]
	for merchant, l := range t.lanes {
		l.before, l.now = l.now, 0
		if missed {
			l.before = 0
		}
		if l.before == 0 && !l.free.After(now) {
			delete(t.lanes, merchant)
			continue
		}
		t.counts = append(t.counts, l.before)
	}
	slices.Sort(t.counts)
}

// othersMedian is what the merchant in the middle created in the second before, leaving out one that created own.
func (t *turns) othersMedian(own int) int {
	others := len(t.counts) - 1
	if others < 1 {
		return 0
	}
	middle := (others - 1) / 2
	if at, found := slices.BinarySearch(t.counts, own); found && at <= middle {
		middle++
	}
	return t.counts[middle]
}
