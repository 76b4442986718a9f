package intake

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
)

// of gives the records to another merchant.
func of(merchant string, records []event.Record) []event.Record {
	for i := range records {
		records[i].Key = []byte(merchant)
		records[i].Value = bytes.Replace(records[i].Value, []byte(`"merchant_id":"m"`), []byte(`"merchant_id":"`+merchant+`"`), 1)
	}
	return records
}

func TestAnEventOfAQuietMerchantStartsAtOnceBehindAFloodOfItsPartition(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 20_000)...) // no call ends
		require.Len(t, h.seen(), MaxInFlight)
		pass(time.Second)
		began := time.Now()
		h.topic.write(of("quiet", records(0, 20_000, 1))...)
		calls := h.seen()
		require.Len(t, calls, MaxInFlight+1)
		require.Equal(t, []string{"0/20000"}, calls[MaxInFlight].offsets())
		require.Equal(t, began, calls[MaxInFlight].at)

		calls[MaxInFlight].end <- nil
		pass(largestGap)
		h.topic.write(of("quiet", records(0, 20_001, 1))...)
		calls = h.seen()
		require.Len(t, calls, MaxInFlight+2)
		require.Equal(t, []string{"0/20001"}, calls[MaxInFlight+1].offsets())
		require.Empty(t, h.topic.marked(0), "all that comes before is still under way")
	})
}

func TestABacklogLeavesRoomAsLongAsTheQuietHaveTraffic(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		const answer = 20 * time.Millisecond
		under, most := 0, 0
		h.mu.Lock()
		h.answer = func(c call) error {
			flooding := c.batch[0].MerchantID == "m"
			h.mu.Lock()
			if flooding {
				under++
				most = max(most, under)
			}
			took := answer * time.Duration(1+under) // the more of the backlog is under way, the longer all takes
			h.mu.Unlock()
			<-time.After(took)
			h.mu.Lock()
			defer h.mu.Unlock()
			if flooding {
				under--
			}
			return nil
		}
		h.mu.Unlock()
		peak := func() int { h.mu.Lock(); defer h.mu.Unlock(); n := most; most = under; return n }
		quietTraffic := func(from int64, n int) {
			for i := range n {
				h.topic.write(of("quiet", records(1, from+int64(i), 1))...)
				pass(50 * time.Millisecond)
			}
		}
		quietTraffic(0, 100)
		peak()
		h.topic.write(records(0, 0, 30_000)...)
		quietTraffic(100, 60)
		peak()
		quietTraffic(160, 20)
		require.LessOrEqual(t, peak(), 3, "beside quiet traffic")
		pass(2 * time.Second)
		require.Equal(t, MaxInFlight, peak(), "where there is none the backlog has everything")
	})
}

func TestNothingGrowsWhileEverythingDownstreamIsAway(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.mu.Lock()
		h.answer = func(call) error { return errDown }
		h.bury = func() error { return errors.New("the ledger is down") }
		h.mu.Unlock()
		const merchants = 50
		for i := range merchants {
			h.topic.write(of(string(rune('a'+i)), records(int32(i), 0, 2*maxWaiting/merchants))...)
		}
		poison := event.Record{Topic: "webhook-events", Partition: 99, Value: []byte("poison")}
		h.topic.write(poison)
		pass(time.Minute)
		before := runtime.NumGoroutine()
		pass(10 * time.Minute)
		require.LessOrEqual(t, h.topic.given, maxWaiting)
		require.LessOrEqual(t, h.inFlight(), 2*MaxInFlight)
		require.LessOrEqual(t, runtime.NumGoroutine(), before+100, "other tests run beside")
		require.Empty(t, h.topic.marks)

		h.mu.Lock()
		h.answer, h.bury = func(call) error { return nil }, nil
		h.mu.Unlock()
		pass(time.Minute)
		require.Equal(t, merchants*(2*maxWaiting/merchants)+1, h.topic.given, "and all goes on when they are back")
		require.Zero(t, h.held)
		require.Empty(t, h.queue.lanes)
	})
}
