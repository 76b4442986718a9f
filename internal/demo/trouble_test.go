package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
)

// breaker delivers with a circuit that opens at the first failure: it tries that one again every 100 ms, parks the rest, and
// lets all of them go when the endpoint takes it.
type breaker struct {
	*retrier
	loses bool // what it parked

	mu   sync.Mutex
	open map[uuid.UUID]chan struct{} // closed when the circuit is
}

func (b *breaker) deliver(to delivery.Endpoint, event uuid.UUID) {
	ctx := context.WithoutCancel(b.t.Context())
	exec := func(query string, args ...any) {
		_, err := b.pool.Exec(ctx, query, args...)
		require.NoError(b.t, err)
	}
	move := func(state delivery.State) {
		exec(`insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, ended_at)
			values ($1, $2, 1, $3, $4::text, case when $4 = 'succeeded' then now() end)
			on conflict (event_id, endpoint_id, generation) do update set state = excluded.state, ended_at = excluded.ended_at`,
			event, to.ID, to.MerchantID, string(state))
	}
	number := 0
	try := func() bool {
		number++
		began := time.Now()
		cause, _ := b.attempt(ctx, to, event, number)
		exec(`insert into delivery.attempts (event_id, endpoint_id, generation, epoch, number, latency_ms, attempted_at, owner, cause)
			values ($1, $2, 0, $3::integer, $3::integer, $4, $5, 'inv', $6)`, event, to.ID, number, time.Since(began).Milliseconds(), began, string(cause))
		return cause == delivery.CauseOK
	}
	turn := func(state delivery.Circuit) {
		exec(`update delivery.endpoints set circuit = $2::text, circuit_changed_at = clock_timestamp(),
			probe_at = case when $2 <> 'closed' then clock_timestamp() end where id = $1`, to.ID, string(state))
	}
	for {
		b.mu.Lock()
		opened := b.open[to.ID]
		b.mu.Unlock()
		if opened != nil {
			move(delivery.Parked)
			if b.loses {
				return
			}
			<-opened
		}
		if try() {
			move(delivery.Succeeded)
			return
		}
		move(delivery.Retrying)
		b.mu.Lock()
		first := b.open[to.ID] == nil
		if first {
			opened = make(chan struct{})
			b.open[to.ID] = opened
		}
		b.mu.Unlock()
		if !first {
			continue
		}
		turn(delivery.CircuitOpen)
		for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
			turn(delivery.CircuitHalfOpen)
			if try() {
				tick.Stop()
				break
			}
			turn(delivery.CircuitOpen)
		}
		move(delivery.Succeeded)
		turn(delivery.CircuitClosed)
		b.mu.Lock()
		delete(b.open, to.ID)
		b.mu.Unlock()
		close(opened)
		return
	}
}

// ordealOf runs the scenario on a breaker.
func ordealOf(t *testing.T, b *breaker, hangs bool, run func(context.Context, Options) (Outcome, error)) (Outcome, Options, string) {
	t.Helper()
	b.retrier, b.open = &retrier{instead: b.deliver}, map[uuid.UUID]chan struct{}{}
	o := onFake(t, b.retrier)
	if b.patience = 20 * time.Second; hangs {
		b.patience = time.Second
	}
	var out bytes.Buffer
	o.Payments, o.Out, o.patience = 100, &out, time.Second
	outcome, err := run(t.Context(), o)
	require.NoError(t, err)
	outcome.Print(&out)
	return outcome, o, out.String()
}

func short(of troubles) troubles {
	of.perS, of.from, of.to, of.least = 20, time.Second, 2500*time.Millisecond, time.Second
	of.well, of.timeout = 2, max(of.timeout, time.Second)
	return of
}

func requireXML(t *testing.T, p Plotter) {
	t.Helper()
	var drawn bytes.Buffer
	require.NoError(t, p.Plot(&drawn))
	for decoder := xml.NewDecoder(&drawn); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

func TestAnOutageIsParkedAndDrained(t *testing.T) {
	t.Parallel()
	outcome, o, out := ordealOf(t, &breaker{}, false, short(outage()).outage)
	r := outcome.(Outage)
	require.Equal(t, []int{300, 300, 0, 3}, []int{r.Created, r.Delivered, r.Lost, r.Merchants})
	require.GreaterOrEqual(t, r.DownAtS, 1.0)
	require.GreaterOrEqual(t, r.UpAtS, 2.5)
	require.GreaterOrEqual(t, *r.CircuitOpenedAtS, r.DownAtS)
	require.GreaterOrEqual(t, *r.CircuitClosedAtS, r.UpAtS)
	require.GreaterOrEqual(t, r.Attempts, 2, "one opens it, and another finds it as bad")
	require.Less(t, r.AttemptsSpared, r.Attempts)
	require.Positive(t, r.ParkedMost)
	require.NotNil(t, r.DrainedInS)
	require.Positive(t, r.LiveDuringDrain.Events)
	require.Positive(t, r.LiveSinceUp.Events)
	require.Equal(t, 200, r.Others.Events)
	require.Less(t, r.OthersDown.Events, r.Others.Events)
	require.Contains(t, out, "300 events created, 300 delivered, 0 lost, ")
	requireXML(t, r)
	behaviours, endpoints := leftBehind(t, o)
	require.Empty(t, behaviours)
	require.Empty(t, endpoints)

	line, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(line), `{"scenario":"outage","created":300,"delivered":300,"lost":0,"duplicates":0,`)
	require.NotContains(t, string(line), "figure")
}

func TestWhereAParkedWebhookIsLostTheOutageIsAFailure(t *testing.T) {
	t.Parallel()
	outcome, o, _ := ordealOf(t, &breaker{loses: true}, false, short(outage()).outage)
	r := outcome.(Outage)
	require.Positive(t, r.Lost)
	require.ErrorContains(t, r.Err(), "webhooks did not arrive")
	require.Nil(t, r.DrainedInS)
	_, endpoints := leftBehind(t, o)
	require.Len(t, endpoints, 3)
	for _, each := range endpoints {
		require.False(t, each.Enabled)
	}
}

func TestMerchantsThatHangAreSpared(t *testing.T) {
	t.Parallel()
	outcome, o, out := ordealOf(t, &breaker{}, true, short(hangs()).hanging)
	r := outcome.(Hanging)
	require.Equal(t, []int{400, 400, 0, 4}, []int{r.Created, r.Delivered, r.Lost, r.Merchants})
	require.Len(t, r.Hanging, 2)
	for _, m := range r.Hanging {
		require.NotNil(t, m.CircuitOpenedAtS)
		require.NotNil(t, m.CircuitClosedAtS)
		require.Positive(t, m.Attempts)
		require.Positive(t, m.ParkedMost)
		require.GreaterOrEqual(t, m.AttemptsMostAtOnce, 2, "until the first one timed out there were others")
	}
	require.Equal(t, 200, r.HealthyBefore.Events+r.HealthyWhile.Events+r.HealthyAfter.Events)
	require.Contains(t, out, "2 of 4 merchants hung")
	requireXML(t, r)
	behaviours, endpoints := leftBehind(t, o)
	require.Empty(t, behaviours)
	require.Empty(t, endpoints)
}

func TestTooFewPaymentsForAnOutageAreRefused(t *testing.T) {
	t.Parallel()
	_, err := runOutage(t.Context(), Options{Payments: 20, Out: io.Discard})
	require.ErrorContains(t, err, "900 to 10,000 payments, 20 per second, not 20")
	_, err = runHanging(t.Context(), Options{Payments: 20, Out: io.Discard})
	require.ErrorContains(t, err, "not 20")
}

func TestADrainIsOfWhatWasCreatedBeforeTheCircuitClosed(t *testing.T) {
	t.Parallel()
	s, closed := time.Second, 10.0
	events := []arrival{{1 * s, 2 * s}, {5 * s, 11 * s}, {6 * s, 13 * s}, {9 * s, 13500 * time.Millisecond}, {11 * s, 11200 * time.Millisecond}, {14 * s, 20 * s}}
	r := Outage{CircuitClosedAtS: &closed}
	r.drained(events)
	require.Equal(t, []float64{3.5, 3, 2}, []float64{*r.DrainedInS, float64(r.Drained), float64(r.DrainMostPerS)})
	require.Equal(t, 1, r.LiveDuringDrain.Events, "the last one was created when the drain was over")
	require.InDelta(t, 200, r.LiveDuringDrain.CommitToAckMS.Max, 0.01)

	r = Outage{CircuitClosedAtS: &closed}
	r.drained(append(events, arrival{committed: 7 * s}))
	require.Nil(t, r.DrainedInS, "one did not arrive")
	r = Outage{}
	r.drained(events)
	require.Zero(t, r.Drained, "the circuit did not close")
}

func TestAnOutageFailsForWhatItShows(t *testing.T) {
	t.Parallel()
	at := 12.0
	good := Outage{CircuitOpenedAtS: &at, CircuitClosedAtS: &at, LiveDuringDrain: Latency{Events: 1, CommitToAckMS: load.Percentiles{P99: 999}}}
	require.NoError(t, good.Err())
	for want, change := range map[string]func(r *Outage){
		"2 of 0 webhooks did not arrive":  func(r *Outage) { r.Lost = 2 },
		"1 webhooks were not signed well": func(r *Outage) { r.InvalidSignatures = 1 },
		"the circuit did not open":        func(r *Outage) { r.CircuitOpenedAtS = nil },
		"the circuit did not close":       func(r *Outage) { r.CircuitClosedAtS = nil },
		"nothing was created since the circuit closed: let the traffic go on for longer": func(r *Outage) { r.LiveDuringDrain.Events = 0 },
		"beside the backlog the p99 of live webhooks was 1000 ms, and not under 1s":      func(r *Outage) { r.LiveDuringDrain.CommitToAckMS.P99 = 1000 },
	} {
		r := good
		change(&r)
		require.EqualError(t, r.Err(), want)
	}
}

func TestMerchantsThatHangFailTheScenarioWhereTheyHurtOthers(t *testing.T) {
	t.Parallel()
	at := 20.0
	latency := func(p99 float64) Latency { return Latency{Events: 9, CommitToAckMS: load.Percentiles{P99: p99}} }
	r := Hanging{Hanging: []HangingMerchant{{Merchant: "m", CircuitOpenedAtS: &at}}, HealthyBefore: latency(20), HealthyWhile: latency(250)}
	require.NoError(t, r.Err())
	r.HealthyWhile = latency(251)
	require.EqualError(t, r.Err(), "while some hung, the p99 of the others was 251 ms, before it was 20 ms")
	r.HealthyBefore = latency(130)
	require.NoError(t, r.Err(), "the machine is slow")
	r.Hanging[0].CircuitOpenedAtS = nil
	require.EqualError(t, r.Err(), "the circuit of m did not open")
}

func TestAttemptsAreCountedWithinASecondAndAtOnce(t *testing.T) {
	t.Parallel()
	d := &ordeal{began: time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)}
	var attempts []load.Attempt
	for _, ms := range []int{0, 900, 1100, 1500, 1890, 1900, 9000} {
		attempts = append(attempts, load.Attempt{Began: d.began.Add(time.Duration(ms) * time.Millisecond), Took: 500 * time.Millisecond})
	}
	require.Equal(t, tried{total: 7, perS: 4, atOnce: 3}, d.tried(attempts, 0, forever))
	require.Equal(t, tried{total: 2, perS: 2, atOnce: 2}, d.tried(attempts, 900*time.Millisecond, 1500*time.Millisecond))
	require.Equal(t, tried{}, d.tried(nil, 0, forever))
}

func TestACircuitsTimesAreTheLedgers(t *testing.T) {
	t.Parallel()
	d := &ordeal{began: time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)}
	look := func(at time.Duration, circuit delivery.Circuit, since time.Duration) {
		d.samples = append(d.samples, sample{at, []load.Backlog{{Circuit: circuit, ChangedAt: d.began.Add(since)}}})
	}
	s := time.Second
	look(0, delivery.CircuitClosed, -100*s)
	look(10*s, delivery.CircuitClosed, -100*s)
	look(11*s, delivery.CircuitOpen, 10500*time.Millisecond)
	look(15*s, delivery.CircuitOpen, 10500*time.Millisecond)
	look(20*s, delivery.CircuitOpen, 16*s) // it was half open in between
	look(21*s, delivery.CircuitHalfOpen, 21*s)
	look(22*s, delivery.CircuitClosed, 21500*time.Millisecond)
	look(30*s, delivery.CircuitClosed, 21500*time.Millisecond)
	phases := d.phases(0)
	require.Equal(t, []phase{
		{delivery.CircuitClosed, 0, 10500 * time.Millisecond},
		{delivery.CircuitOpen, 10500 * time.Millisecond, 16 * s},
		{delivery.CircuitOpen, 16 * s, 21 * s},
		{delivery.CircuitHalfOpen, 21 * s, 21500 * time.Millisecond},
		{delivery.CircuitClosed, 21500 * time.Millisecond, 30 * s},
	}, phases)
	opened, closed, opens := circuitOf(phases)
	require.Equal(t, []float64{10.5, 21.5, 2}, []float64{*opened, *closed, float64(opens)})
	opened, closed, opens = circuitOf(phases[:3])
	require.InDelta(t, 10.5, *opened, 0)
	require.Nil(t, closed)
	require.Equal(t, 2, opens)
	opened, _, _ = circuitOf(phases[:1])
	require.Nil(t, opened)

	opened, closed, opens = circuitOf([]phase{{delivery.CircuitClosed, 0, s}, {delivery.CircuitHalfOpen, s, 2 * s}, {delivery.CircuitClosed, 2 * s, 3 * s}})
	require.Equal(t, []float64{1, 2, 1}, []float64{*opened, *closed, float64(opens)}, "it was open for too short a time to be seen")
}
