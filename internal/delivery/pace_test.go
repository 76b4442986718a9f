package delivery_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/delivery"
)

// mostInASecond is how many of the instants, in Unix microseconds, fall into one second at most.
func mostInASecond(instants []int64) int {
	slices.Sort(instants)
	most, first := 0, 0
	for i, at := range instants {
		for at-instants[first] >= 1_000_000 {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func TestSlotsAreNeverMoreThanTheLimitInASecond(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 1000).Draw(t, "rate")
		var pace delivery.Pace
		now := time.UnixMilli(1_760_000_000_000)
		var slots, begun, received []int64
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2_000_000).Draw(t, "pause µs")) * time.Microsecond)
			tickets := make([]delivery.Ticket, rapid.IntRange(1, delivery.MaxTickets).Draw(t, "tickets"))
			for i := range tickets {
				tickets[i].EventID = uuid.New()
			}
			list := delivery.AttemptList{EndpointID: uuid.New(), Number: 3, Tickets: tickets}
			lists, left := pace.Book(delivery.PaceRequest{
				List: list, Rate: rate, LeadMS: rapid.SampledFrom([]int64{0, 0, 0, 120, 900, 5000}).Draw(t, "lead"),
			}, now)

			var booked []delivery.Ticket
			for _, each := range lists {
				require.Equal(t, list.EndpointID, each.List.EndpointID)
				require.Equal(t, list.Number, each.List.Number)
				require.LessOrEqual(t, len(each.List.Tickets), delivery.MaxTickets)
				first, lead := each.List.Slot(0)
				last, _ := each.List.Slot(len(each.List.Tickets) - 1)
				require.GreaterOrEqual(t, lead, 50*time.Millisecond)
				require.LessOrEqual(t, lead, delivery.MaxLead)
				require.GreaterOrEqual(t, each.Delay, time.Duration(0))
				require.False(t, now.Add(each.Delay).After(first.Add(-lead)), "it comes in time")
				require.LessOrEqual(t, first.Sub(now.Add(each.Delay)), lead+151*time.Millisecond, "and not long before")
				require.LessOrEqual(t, last.Sub(first), 200*time.Millisecond)
				require.LessOrEqual(t, last.Sub(now), delivery.PaceAhead)
				for i := range each.List.Tickets {
					slot, _ := each.List.Slot(i)
					require.True(t, slot.After(now))
					if len(slots) > 0 {
						require.Greater(t, slot.UnixMicro(), slots[len(slots)-1], "one after the other")
					}
					slots = append(slots, slot.UnixMicro())
					begun = append(begun, slot.Add(time.Duration(rapid.Int64Range(0, int64(delivery.PaceLate)).Draw(t, "late"))).UnixMicro())
					received = append(received, slot.Add(time.Duration(rapid.Int64Range(0, int64(250*time.Millisecond)-1).Draw(t, "later"))).UnixMicro())
				}
				booked = append(booked, each.List.Tickets...)
			}
			require.Equal(t, tickets, append(booked, left...), "each delivery is booked, or left")
			if len(left) > 0 {
				require.Greater(t, pace.NextUS, now.Add(delivery.PaceAhead).UnixMicro(), "what is left has no slot")
			}
			// What is kept in between is kept as JSON.
			kept, err := json.Marshal(pace)
			require.NoError(t, err)
			pace = delivery.Pace{}
			require.NoError(t, json.Unmarshal(kept, &pace))
		}
		require.LessOrEqual(t, mostInASecond(slots), rate)
		require.LessOrEqual(t, mostInASecond(begun), rate+(rate+9)/10)
		require.LessOrEqual(t, mostInASecond(received), rate+delivery.Burst(rate))
	})
}

func TestABacklogGetsEverySlotThatThereIs(t *testing.T) {
	t.Parallel()
	var pace delivery.Pace
	now := time.UnixMilli(1_760_000_000_000)
	tickets := make([]delivery.Ticket, delivery.MaxTickets)
	booked, left := 0, 0
	for range 20 {
		lists, rest := pace.Book(delivery.PaceRequest{List: delivery.AttemptList{Tickets: tickets}, Rate: 50}, now)
		for _, each := range lists {
			booked += len(each.List.Tickets)
		}
		left += len(rest)
	}
	require.Equal(t, 498, booked, "50 a second from 50 ms on, for 10 s")
	require.Equal(t, 20*delivery.MaxTickets-498, left)
	lists, _ := pace.Book(delivery.PaceRequest{List: delivery.AttemptList{Tickets: tickets}, Rate: 50}, now.Add(time.Second))
	require.Len(t, lists, 5, "a second later there are 50 more")
}

func TestARequestThatWasLateMakesOthersBeginSooner(t *testing.T) {
	t.Parallel()
	var pace delivery.Pace
	now := time.UnixMilli(1_760_000_000_000)
	leadOf := func(lateLead int64, now time.Time) time.Duration {
		lists, _ := pace.Book(delivery.PaceRequest{List: delivery.AttemptList{Tickets: make([]delivery.Ticket, 1)}, Rate: 1000, LeadMS: lateLead}, now)
		slot, lead := lists[0].List.Slot(0)
		require.Equal(t, lead, slot.Sub(now))
		return lead
	}
	require.Equal(t, 50*time.Millisecond, leadOf(0, now))
	require.Equal(t, 400*time.Millisecond, leadOf(400, now.Add(time.Minute)))
	require.Equal(t, 400*time.Millisecond, leadOf(200, now.Add(2*time.Minute)), "the longest counts")
	require.Equal(t, 400*time.Millisecond, leadOf(5000, now.Add(7*time.Minute)), "a process that was frozen says nothing about the endpoint")
	require.Equal(t, 50*time.Millisecond, leadOf(0, now.Add(13*time.Minute)), "it is forgotten")
}

func TestAClockThatWasFarAheadHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_760_000_000_000)
	pace := delivery.Pace{NextUS: now.Add(time.Hour).UnixMicro()}
	lists, left := pace.Book(delivery.PaceRequest{List: delivery.AttemptList{Tickets: make([]delivery.Ticket, 1)}, Rate: 1}, now)
	require.Empty(t, left)
	slot, _ := lists[0].List.Slot(0)
	require.Equal(t, 50*time.Millisecond, slot.Sub(now))
}
