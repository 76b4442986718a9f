package demo

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/plot"
)

const (
	// liveLimit is what live traffic may take beside a backlog that drains, by its 99th percentile.
	liveLimit = time.Second
	// liveLeast is the least time for which traffic counts as beside the drain, however soon that is over.
	liveLeast = 2 * time.Second
)

// outage is a merchant that answers 503 for 20 s.
func outage() troubles {
	return troubles{ill: 1, well: 3, perS: 20, behaviour: unavailable(), from: 10 * time.Second, to: 30 * time.Second, least: 45 * time.Second}
}

// Outage is what came of the scenario of that name. It counts events by id; seconds count from its beginning.
type Outage struct {
	Scenario          string  `json:"scenario"`
	Created           int     `json:"created"`
	Delivered         int     `json:"delivered"` // of the created: accepted at least once
	Lost              int     `json:"lost"`      // of the created: not accepted by the end
	Duplicates        int     `json:"duplicates"`
	InvalidSignatures int     `json:"invalid_signatures"`
	Merchants         int     `json:"merchants"`
	PerS              float64 `json:"per_s"` // payments, of each merchant

	DownAtS float64 `json:"down_at_s"`
	UpAtS   float64 `json:"up_at_s"`
	// CircuitOpenedAtS is of the first time, CircuitClosedAtS of the last; null where it did not.
	CircuitOpenedAtS *float64 `json:"circuit_opened_at_s"`
	CircuitClosedAtS *float64 `json:"circuit_closed_at_s"`
	CircuitOpens     int      `json:"circuit_opens"`
	// Attempts are the ledger's, at the merchant that is down: while it is, and of those the ones behind the circuit's opening.
	Attempts         int `json:"attempts_while_down"`
	AttemptsMostPerS int `json:"attempts_while_down_most_per_s"`
	AttemptsSpared   int `json:"attempts_while_down_and_open"`
	ParkedMost       int `json:"parked_most"`
	// DrainedInS is from the circuit's closing until everything that was created before had been accepted; null where it
	// was not.
	DrainedInS    *float64 `json:"drained_in_s"`
	DrainMostPerS int      `json:"drain_most_per_s"` // webhooks accepted in a second of that
	Drained       int      `json:"drained"`          // how many there were

	// LiveDuringDrain is of what was created for the merchant while its backlog drained; LiveSinceUp of all that was created
	// since it is well, also before the circuit knew.
	LiveDuringDrain Latency `json:"live_during_drain"`
	LiveSinceUp     Latency `json:"live_since_up"`
	Others          Latency `json:"others"` // the other merchants', throughout
	OthersDown      Latency `json:"others_while_down"`

	Intake string `json:"intake"`
	Kafka  string `json:"kafka"`

	figure plot.Figure
}

func runOutage(ctx context.Context, o Options) (Outcome, error) { return outage().outage(ctx, o) }

func (t troubles) outage(ctx context.Context, o Options) (Outcome, error) {
	fmt.Fprintf(o.Out, "\n%d merchants, %g payments/s each; one answers 503 from %.0f s to %.0f s.\n\n", t.ill+t.well, t.perS, t.from.Seconds(), t.to.Seconds())
	d, fates, err := t.endure(ctx, o)
	if err != nil {
		return nil, err
	}
	all, ill, others := total(fates), fates[0], eventsOf(fates[t.ill:])
	r := Outage{
		Scenario: "outage", Created: all.Created, Delivered: all.Delivered, Lost: all.Lost, Duplicates: all.Duplicates,
		Merchants: len(fates), PerS: t.perS, DownAtS: seconds(d.fell), UpAtS: seconds(d.recovered), ParkedMost: d.mostParked(0),
		Others: between(others, 0, forever), OthersDown: between(others, d.fell, d.recovered),
		LiveSinceUp: between(ill.events, d.recovered, forever), Intake: d.worker.Intake, Kafka: o.Kafka,
	}
	if r.InvalidSignatures, err = d.invalidSince(ctx); err != nil {
		return nil, err
	}
	while := d.tried(ill.attempts, d.fell, d.recovered)
	r.Attempts, r.AttemptsMostPerS = while.total, while.perS
	r.CircuitOpenedAtS, r.CircuitClosedAtS, r.CircuitOpens = circuitOf(d.phases(0))
	if r.CircuitOpenedAtS != nil {
		r.AttemptsSpared = d.tried(ill.attempts, duration(*r.CircuitOpenedAtS), d.recovered).total
	}
	r.drained(ill.events)
	r.figure = d.figure(fmt.Sprintf("A merchant that is down for %.0f s", r.UpAtS-r.DownAtS), r.headline(), "answers 503", fates)
	if r.DrainedInS != nil {
		r.figure.Shades = append(r.figure.Shades, plot.Span{
			From: *r.CircuitClosedAtS, To: *r.CircuitClosedAtS + *r.DrainedInS, Name: "its backlog drains", Colour: plot.Orange,
		})
	}
	return r, nil
}

// forever is after every scenario.
const forever = 24 * time.Hour

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// drained looks at what the merchant got since its circuit closed.
func (r *Outage) drained(events []arrival) {
	if r.CircuitClosedAtS == nil {
		return
	}
	closed, last, missing := duration(*r.CircuitClosedAtS), time.Duration(0), false
	var accepted []time.Duration
	for _, e := range events {
		switch {
		case e.committed >= closed:
		case e.accepted == 0:
			missing = true
		case e.accepted >= closed:
			r.Drained++
			last = max(last, e.accepted-closed)
			accepted = append(accepted, e.accepted)
		}
	}
	r.DrainMostPerS = mostInASecond(accepted)
	r.LiveDuringDrain = between(events, closed, closed+max(last, liveLeast))
	if in := seconds(last); !missing {
		r.DrainedInS = &in
	}
}

// Err says what was lost, and where the outage hurt more than it has to.
func (r Outage) Err() error {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if r.Lost > 0 {
		add("%d of %d webhooks did not arrive", r.Lost, r.Created)
	}
	if r.InvalidSignatures > 0 {
		add("%d webhooks were not signed well", r.InvalidSignatures)
	}
	switch {
	case r.CircuitOpenedAtS == nil:
		add("the circuit did not open")
	case r.CircuitClosedAtS == nil:
		add("the circuit did not close")
	case r.LiveDuringDrain.Events == 0:
		add("nothing was created since the circuit closed: let the traffic go on for longer")
	case r.LiveDuringDrain.CommitToAckMS.P99 >= load.Milliseconds(liveLimit):
		add("beside the backlog the p99 of live webhooks was %.0f ms, and not under %s", r.LiveDuringDrain.CommitToAckMS.P99, liveLimit)
	}
	return joined(found)
}

func (r Outage) headline() string {
	drained := "not drained"
	if r.DrainedInS != nil {
		drained = fmt.Sprintf("%d drained in %.1f s", r.Drained, *r.DrainedInS)
	}
	return fmt.Sprintf("%d events, %d lost, %d twice; %d attempts while down; %s; live p99 meanwhile %.0f ms; others' p99 %.0f ms",
		r.Created, r.Lost, r.Duplicates, r.Attempts, drained, r.LiveDuringDrain.CommitToAckMS.P99, r.Others.CommitToAckMS.P99)
}

// Plot writes the backlog, the latencies and the circuit over time, as an SVG.
func (r Outage) Plot(w io.Writer) error { return r.figure.Write(w) }

// Print writes the summary for a person to read.
func (r Outage) Print(out io.Writer) {
	moment := func(at *float64) string {
		if at == nil {
			return "never"
		}
		return fmt.Sprintf("at %.1f s", *at)
	}
	fmt.Fprintf(out, "\nThe merchant was down from %.1f s to %.1f s. Its circuit opened %s, %d times in all, and closed %s.\n",
		r.DownAtS, r.UpAtS, moment(r.CircuitOpenedAtS), r.CircuitOpens, moment(r.CircuitClosedAtS))
	fmt.Fprintf(out, "While it was down: %d attempts, at most %d in a second, %d of them since the circuit opened; up to %d events parked.\n",
		r.Attempts, r.AttemptsMostPerS, r.AttemptsSpared, r.ParkedMost)
	if r.DrainedInS != nil {
		fmt.Fprintf(out, "Then %d events drained in %.1f s, at most %d in a second.\n", r.Drained, *r.DrainedInS, r.DrainMostPerS)
	}
	row := func(what string, l Latency) {
		fmt.Fprintf(out, "  %-38s p50 %8.1f ms, p99 %8.1f ms, longest %8.1f ms, of %d\n", what, l.CommitToAckMS.P50, l.CommitToAckMS.P99, l.CommitToAckMS.Max, l.Events)
	}
	fmt.Fprintln(out, "From commit to 2xx:")
	row("its live traffic beside the backlog", r.LiveDuringDrain)
	row("all of its traffic since it was well", r.LiveSinceUp)
	row("the other merchants, while it was down", r.OthersDown)
	row("the other merchants, throughout", r.Others)
	fmt.Fprintf(out, "%d events created, %d delivered, %d lost, %d duplicates (intake %s, kafka %s)\n",
		r.Created, r.Delivered, r.Lost, r.Duplicates, r.Intake, r.Kafka)
}
