package dispatch_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

// paced is a dispatcher in a bubble, whose time a test can tell to the nanosecond: its ledger gives out every ticket.
type paced struct {
	*postgres.Ledger // none: what it would do besides is not done here

	d        *dispatch.Dispatcher
	endpoint delivery.Endpoint
	connect  time.Duration // how long a connection takes to make

	mu       sync.Mutex
	void     []uuid.UUID // tickets that nobody gets
	calls    []string    // of the ledger
	outcomes []delivery.Outcome
	begun    map[uuid.UUID]time.Time
	started  map[uuid.UUID]time.Time
	timeouts []time.Duration
}

func inBubble(t *testing.T, test func(t *testing.T, p *paced)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &paced{
			endpoint: delivery.Endpoint{ID: uuid.New(), Enabled: true, Timeout: 3 * time.Second, Revision: 1, RateLimit: 50},
			begun:    map[uuid.UUID]time.Time{}, started: map[uuid.UUID]time.Time{},
		}
		p.d = dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute}}, p, &data{}, p,
			slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		test(t, p)
		require.NoError(t, p.d.Close(context.WithoutCancel(t.Context())))
	})
}

func (p *paced) called(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, name)
}

func (p *paced) Plan(_ context.Context, _, _ string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	p.called("Plan")
	var claims []delivery.Claim
	var planned delivery.Planned
	for _, ref := range refs {
		claims, planned.Events = append(claims, p.claim(ref.ID, 0)), append(planned.Events, ref.ID)
	}
	return claims, planned, nil
}

func (p *paced) claim(id uuid.UUID, epoch int64) delivery.Claim {
	return delivery.Claim{
		Key: delivery.Key{EventID: id, EndpointID: p.endpoint.ID}, Epoch: epoch + 1, Number: 1, EndpointRevision: 1,
		Event: event.PayloadRequest{EventID: id, TxID: 7, MinVersion: 1},
	}
}

func (p *paced) Claim(_ context.Context, _ string, _ uuid.UUID, tickets []delivery.Ticket) ([]delivery.Claim, []delivery.Settled, error) {
	p.called("Claim")
	var claims []delivery.Claim
	for _, ticket := range slices.Backward(tickets) { // in any order
		if !slices.Contains(p.void, ticket.EventID) {
			claims = append(claims, p.claim(ticket.EventID, ticket.Epoch))
		}
	}
	return claims, nil, nil
}

func (p *paced) Holds(context.Context, delivery.Claim) (bool, error) {
	p.called("Holds")
	return true, nil
}

func (p *paced) Record(_ context.Context, _ string, outcomes []delivery.Outcome) error {
	p.called("Record")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcomes = append(p.outcomes, outcomes...)
	return nil
}

func (p *paced) Endpoints(context.Context, []uuid.UUID) ([]delivery.Endpoint, error) {
	p.called("Endpoints")
	return []delivery.Endpoint{p.endpoint}, nil
}

func (p *paced) Post(_ context.Context, e delivery.Endpoint, message deliver.Message, _ int, guard deliver.Guard) deliver.Response {
	p.mu.Lock()
	p.begun[message.EventID] = time.Now()
	p.timeouts = append(p.timeouts, e.Timeout)
	p.mu.Unlock()
	<-time.After(p.connect)
	if guard() != nil {
		return deliver.Response{Cause: delivery.CauseNotStarted}
	}
	p.mu.Lock()
	p.started[message.EventID] = time.Now()
	p.mu.Unlock()
	return deliver.Response{Cause: delivery.CauseOK, StatusCode: 200, Sent: true}
}

// list has slots from in from now on, 20 ms apart.
func (p *paced) list(n int, in, lead time.Duration) delivery.AttemptList {
	list := delivery.AttemptList{
		EndpointID: p.endpoint.ID, Number: 1, SlotUS: time.Now().Add(in).UnixMicro(), EveryUS: 20_000, LeadMS: lead.Milliseconds(),
	}
	for range n {
		list.Tickets = append(list.Tickets, delivery.Ticket{EventID: uuid.New(), Epoch: 3})
	}
	return list
}

func TestEachRequestStartsInItsSlotOnAConnectionMadeBefore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.connect = 30 * time.Millisecond
		list := p.list(5, 300*time.Millisecond, 50*time.Millisecond)
		p.void = []uuid.UUID{list.Tickets[2].EventID}
		result, err := p.d.Attempt(t.Context(), "inv-1", list)
		require.NoError(t, err)
		require.Len(t, p.started, 4)
		for i, ticket := range list.Tickets {
			slot, _ := list.Slot(i)
			if i == 2 {
				require.NotContains(t, p.started, ticket.EventID)
				continue
			}
			require.True(t, slot.Equal(p.started[ticket.EventID]), "%d", i) // a void ticket's slot is nobody else's
			require.True(t, slot.Add(-50*time.Millisecond).Equal(p.begun[ticket.EventID]), "%d", i)
		}
		for _, timeout := range p.timeouts {
			require.Equal(t, 3050*time.Millisecond, timeout, "the wait for the slot is not the endpoint's")
		}
		require.Empty(t, result.Pace())
		require.Empty(t, result.FollowUps())
		require.NotContains(t, p.calls, "Holds", "the claims are fresh")
	})
}

func TestARequestThatIsLateForItsSlotAsksForAnotherOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in, connect, lead time.Duration
		late              bool
		wants             int64 // lead
	}{
		"the list comes late":              {in: -101 * time.Millisecond, lead: 50 * time.Millisecond, late: true},
		"the list comes just in time":      {in: -100 * time.Millisecond, lead: 50 * time.Millisecond},
		"the connection takes long":        {in: 100 * time.Millisecond, connect: 200 * time.Millisecond, lead: 50 * time.Millisecond, late: true, wants: 200},
		"and is begun sooner":              {in: 300 * time.Millisecond, connect: 200 * time.Millisecond, lead: 200 * time.Millisecond},
		"it takes as long as it may":       {in: 1200 * time.Millisecond, connect: 1100 * time.Millisecond, lead: time.Second},
		"another clock booked it long ago": {in: -5 * time.Second, lead: 50 * time.Millisecond, late: true},
		"another clock is ahead":           {in: 5 * time.Second, lead: 50 * time.Millisecond, late: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, p *paced) {
				p.connect = c.connect
				list := p.list(1, c.in, c.lead)
				result, err := p.d.Attempt(t.Context(), "inv-1", list)
				require.NoError(t, err)
				if !c.late {
					<-time.After(time.Second) // what outlived its step
					synctest.Wait()
					require.Len(t, p.started, 1)
					require.Empty(t, result.Pace())
					return
				}
				require.Empty(t, p.started)
				require.Empty(t, result.FollowUps())
				asked := result.Pace()
				require.Len(t, asked, 1)
				want := delivery.PaceRequest{
					List: delivery.AttemptList{EndpointID: p.endpoint.ID, Number: 1, Tickets: []delivery.Ticket{{EventID: list.Tickets[0].EventID, Epoch: 4}}},
					Rate: 50, LeadMS: c.wants,
				}
				require.Equal(t, want, asked[0])
				require.Len(t, p.outcomes, 1)
				require.Equal(t, delivery.CausePaced, p.outcomes[0].Cause)
				require.False(t, p.outcomes[0].Attempted, "it was no attempt")
				require.Equal(t, delivery.PaceWithin, p.outcomes[0].RetryIn)
			})
		})
	}
}

// Interleaving: the step does not wait for a slow endpoint, and its request misses the slot afterwards.
func TestARequestThatIsLateAfterItsStepIsBegunSoonerTheNextTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.connect = 1500 * time.Millisecond
		_, err := p.d.Attempt(t.Context(), "inv-1", p.list(1, 0, 50*time.Millisecond))
		require.NoError(t, err)
		synctest.Wait() // it is open since a second: the endpoint is slow
		p.connect = 200 * time.Millisecond
		result, err := p.d.Attempt(t.Context(), "inv-2", p.list(1, 100*time.Millisecond, 50*time.Millisecond))
		require.NoError(t, err)
		require.Empty(t, result.Pace())
		watchdog := result.FollowUps()
		require.Len(t, watchdog, 1)
		<-time.After(time.Second)
		synctest.Wait()
		require.Empty(t, p.started)
		for _, wants := range []int64{200, 0} {
			result, err = p.d.Attempt(t.Context(), "inv-3", watchdog[0].List)
			require.NoError(t, err)
			require.Len(t, result.Pace(), 1)
			require.Equal(t, wants, result.Pace()[0].LeadMS, "the pacer is told once")
		}
	})
}

// Or what was parked would come back as what comes now, and a probe as what a half-open circuit parks.
func TestWhatIsLateForItsSlotStaysWhatItWas(t *testing.T) {
	t.Parallel()
	for _, probe := range []bool{false, true} {
		inBubble(t, func(t *testing.T, p *paced) {
			list := p.list(2, -time.Second, 50*time.Millisecond)
			list.Backlog, list.Probe = !probe, probe
			result, err := p.d.Attempt(t.Context(), "inv-1", list)
			require.NoError(t, err)
			asked := result.Pace()
			require.Len(t, asked, 1)
			require.Len(t, asked[0].List.Tickets, 2)
			require.Equal(t, probe, asked[0].List.Probe)
			require.Equal(t, !probe, asked[0].List.Backlog)
			pace := delivery.Pace{}
			booked, _ := pace.Book(asked[0], time.Now())
			require.Equal(t, probe, booked[0].List.Probe)
			result, err = p.d.Attempt(t.Context(), "inv-2", booked[0].List)
			require.NoError(t, err)
			require.Empty(t, result.Pace())
			require.Len(t, p.started, 2)
		})
	}
}

// No lead would be long enough: it must not go round for ever.
func TestAnEndpointThatTakesTooLongToReachForAnySlotFails(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.connect = 1200 * time.Millisecond
		result, err := p.d.Attempt(t.Context(), "inv-1", p.list(1, 1050*time.Millisecond, time.Second))
		require.NoError(t, err)
		require.Empty(t, p.started)
		require.Equal(t, delivery.CauseTimeoutConnect, result.Deliveries[0].Cause)
		require.True(t, p.outcomes[0].Attempted)
		require.Len(t, result.FollowUps(), 1, "by the schedule")
	})
}

func TestAProcessThatWasFrozenInFrontOfASlotMissesIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.connect = 600 * time.Millisecond // as long as it is frozen
		result, err := p.d.Attempt(t.Context(), "inv-1", p.list(10, 100*time.Millisecond, 50*time.Millisecond))
		require.NoError(t, err)
		require.Empty(t, p.started)
		require.Len(t, result.Pace()[0].List.Tickets, 10)
	})
}

func TestWithoutALimitASlotIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.endpoint.RateLimit = 0 // it was removed meanwhile
		began := time.Now()
		result, err := p.d.Attempt(t.Context(), "inv-1", p.list(3, 400*time.Millisecond, 50*time.Millisecond))
		require.NoError(t, err)
		require.Len(t, p.started, 3)
		require.Less(t, time.Since(began), 50*time.Millisecond)
		require.Empty(t, result.Pace())
	})
}

func TestAnEndpointWithoutALimitPaysNothingForThoseThatHaveOne(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		p.endpoint.RateLimit = 0
		first, err := p.d.Process(t.Context(), "inv-1", []event.Ref{newRef(), newRef()})
		require.NoError(t, err)
		require.Equal(t, []string{"Plan", "Endpoints", "Record"}, p.calls)
		later, err := p.d.Attempt(t.Context(), "inv-2", delivery.AttemptList{EndpointID: p.endpoint.ID, Number: 1, Tickets: []delivery.Ticket{{EventID: uuid.New(), Epoch: 1}}})
		require.NoError(t, err)
		require.Equal(t, []string{"Plan", "Endpoints", "Record", "Claim", "Record"}, p.calls)
		for _, result := range []dispatch.Result{first, later} {
			require.Empty(t, result.Pace(), "nothing is sent to a pacer")
			require.Empty(t, result.FollowUps())
		}
	})
}

func TestWhatIsUnderWayHasHadItsSlot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *paced) {
		list := p.list(1, 300*time.Millisecond, 50*time.Millisecond)
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := p.d.Attempt(t.Context(), "inv-1", list); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		list.SlotUS, list.Tickets[0].Epoch = 0, 4 // the reconciler takes it over
		result, err := p.d.Attempt(t.Context(), "inv-2", list)
		require.NoError(t, err)
		require.Equal(t, delivery.Succeeded, result.Deliveries[0].State, "it takes the answer of the request that waits for its slot")
		first.Wait()
		require.Len(t, p.begun, 1)
	})
}

func TestADeliveryWithoutASlotGoesToThePacer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	limited := endpointtest.Add(t, w.all, "limited", func(s *endpoint.Spec) { s.RateLimit = 5 })
	refs := []event.Ref{newRef(), newRef(), newRef()}
	refs[0].MerchantID, refs[1].MerchantID = "limited", "limited"
	result := w.process(t, "inv-1", refs...)
	require.Len(t, w.merchant.sent(), 1, "only the other merchant's")
	require.Empty(t, result.FollowUps())
	asked := result.Pace()
	require.Len(t, asked, 1)
	require.Equal(t, limited, asked[0].List.EndpointID)
	require.Equal(t, 5, asked[0].Rate)
	require.Zero(t, asked[0].LeadMS)
	require.Len(t, asked[0].List.Tickets, 2)
	require.Equal(t, "retrying attempts=0", w.state(t, refs[0]))
	due := func() (in float64) {
		require.NoError(t, w.all.QueryRow(t.Context(), `select extract(epoch from next_attempt_at - clock_timestamp()) from delivery.deliveries where event_id = $1`,
			[16]byte(refs[0].ID)).Scan(&in))
		return in
	}
	require.InDelta(t, delivery.PaceWithin.Seconds(), due(), 2, "it is not overdue before it can have had its slot")

	// A timer, the watchdog and the reconciler come without a slot, too.
	before := w.data.asked
	result, err := w.Attempt(t.Context(), "inv-2", asked[0].List)
	require.NoError(t, err)
	require.Equal(t, before, w.data.asked, "nobody asks for what is not sent")
	require.Len(t, result.Pace(), 1)
	require.Len(t, w.merchant.sent(), 1)

	booked := result.Pace()[0].List
	booked.SlotUS, booked.EveryUS, booked.LeadMS = time.Now().Add(200*time.Millisecond).UnixMicro(), 1000, 100
	result, err = w.Attempt(t.Context(), "inv-3", booked)
	require.NoError(t, err)
	require.Empty(t, result.Pace())
	require.Len(t, w.merchant.sent(), 3)
	require.Equal(t, "succeeded attempts=1", w.state(t, refs[0]))
}

func TestWhatThePacerHasNoSlotForIsParkedUnlessItHasMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	limited := endpointtest.Add(t, w.all, "limited", func(s *endpoint.Spec) { s.RateLimit = 5 })
	refs := []event.Ref{newRef(), newRef()}
	refs[0].MerchantID, refs[1].MerchantID = "limited", "limited"
	list := w.process(t, "inv-1", refs...).Pace()[0].List
	for i, ticket := range list.Tickets {
		if ticket.EventID == refs[1].ID {
			list.Tickets[i].Epoch++ // of another one's claim
		}
	}
	require.NoError(t, w.Park(t.Context(), limited, list.Tickets))
	require.Equal(t, "parked attempts=0", w.state(t, refs[0]))
	require.Equal(t, "retrying attempts=0", w.state(t, refs[1]))
	var cause string
	var timer *time.Time
	require.NoError(t, w.all.QueryRow(t.Context(), `select last_cause, next_attempt_at from delivery.deliveries where event_id = $1`,
		[16]byte(refs[0].ID)).Scan(&cause, &timer))
	require.Equal(t, "paced", cause)
	require.Nil(t, timer)
	require.NoError(t, w.Park(t.Context(), limited, list.Tickets), "once more is the same")
}
