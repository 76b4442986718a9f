package paymentsapi

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
)

// creating asks for turns of a merchant on so many connections until the time is over, and returns how many it got.
func creating(t *testing.T, turns *turns, merchant string, connections int, pause, during time.Duration) int {
	t.Helper()
	var (
		mu    sync.Mutex
		group sync.WaitGroup
		got   int
		end   = time.Now().Add(during)
	)
	for range connections {
		group.Go(func() {
			for time.Now().Before(end) {
				_, err := turns.wait(t.Context(), merchant)
				mu.Lock()
				if err == nil {
					got++
				}
				mu.Unlock()
				<-time.After(pause)
			}
		})
	}
	group.Wait()
	return got
}

func TestAFloodBesideOthersHasItsRateAndTheOthersDoNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(100)
		var group sync.WaitGroup
		for i := range 5 {
			group.Go(func() {
				for range 100 {
					waited, err := turns.wait(t.Context(), fmt.Sprint("quiet ", i))
					require.NoError(t, err)
					require.False(t, waited)
					<-time.After(100 * time.Millisecond)
				}
			})
		}
		<-time.After(time.Millisecond)
		require.InDelta(t, 900, creating(t, turns, "flood", 8, time.Millisecond, 9*time.Second), 30)
		group.Wait()
		// Alone it waits for nobody.
		<-time.After(3 * time.Second)
		require.InDelta(t, 8000, creating(t, turns, "flood", 8, time.Millisecond, time.Second), 10)
	})
}

func TestMerchantsThatCreateAsMuchAsEachOtherWaitForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(100)
		got := make([]int, 4)
		var group sync.WaitGroup
		for i := range got {
			group.Go(func() {
				got[i] = creating(t, turns, fmt.Sprint("merchant ", i), 4, 10*time.Millisecond, 10*time.Second)
			})
		}
		group.Wait()
		for _, each := range got { // but for the first second, in which nobody knows yet
			require.Greater(t, each, 3600)
		}
	})
}

func TestTwoFloodsAreTwo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(100)
		got := make([]int, 5)
		var group sync.WaitGroup
		for i := range got {
			connections, pause := 1, 200*time.Millisecond
			if i < 2 {
				connections, pause = 8, time.Millisecond
			}
			group.Go(func() { got[i] = creating(t, turns, fmt.Sprint("merchant ", i), connections, pause, 10*time.Second) })
		}
		group.Wait()
		for i, each := range got {
			if i < 2 {
				require.InDelta(t, 1000, each, 60)
			} else {
				require.Equal(t, 50, each)
			}
		}
	})
}

func TestATurnThatWouldComeTooLateIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(10)
		_, err := turns.wait(t.Context(), "quiet")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		refused := 0
		var group sync.WaitGroup
		var mu sync.Mutex
		for range 30 {
			group.Go(func() {
				if _, err := turns.wait(ctx, "flood"); err != nil {
					mu.Lock()
					defer mu.Unlock()
					require.Equal(t, fault.Unavailable, fault.ClassOf(err))
					refused++
				}
			})
		}
		group.Wait()
		require.InDelta(t, 19, refused, 1, "ten have a turn within the second, and one had it at once")
		began := time.Now()
		_, err = turns.wait(t.Context(), "flood")
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond+together, "who was refused takes no turn")
	})
}

func TestMerchantsThatCreateNothingAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(10)
		for i := range 1000 {
			_, err := turns.wait(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		<-time.After(3 * time.Second)
		_, err := turns.wait(t.Context(), "last")
		require.NoError(t, err)
		require.Len(t, turns.lanes, 1)
	})
}
