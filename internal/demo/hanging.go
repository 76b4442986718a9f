package demo

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/plot"
	"github.com/hookline/hookline/internal/simulator"
)

const (
	// What the other merchants' 99th percentile may be while some hang: so many milliseconds, or so many times what it was
	// before, on a slow machine.
	hangingLimit = 250 * time.Millisecond
	hangingTimes = 2
)

// hangs is a fifth of the merchants that take webhooks and never answer, for 30 s.
func hangs() troubles {
	return troubles{
		ill: 2, well: 8, perS: 10, behaviour: simulator.Behaviour{Hang: true}, timeout: 5 * time.Second,
		from: 15 * time.Second, to: 45 * time.Second, least: 60 * time.Second,
	}
}

// Hanging is what came of the scenario of that name. It counts events by id; seconds count from its beginning.
type Hanging struct {
	Scenario          string  `json:"scenario"`
	Created           int     `json:"created"`
	Delivered         int     `json:"delivered"` // of the created: accepted at least once
	Lost              int     `json:"lost"`      // of the created: not accepted by the end
	Duplicates        int     `json:"duplicates"`
	InvalidSignatures int     `json:"invalid_signatures"`
	Merchants         int     `json:"merchants"`
	PerS              float64 `json:"per_s"` // payments, of each merchant
	HangAtS           float64 `json:"hang_at_s"`
	WellAtS           float64 `json:"well_at_s"`
	TimeoutS          float64 `json:"timeout_s"` // of the endpoints that hang
	// Healthy are the others: before some hang, while they do, and after.
	HealthyBefore Latency           `json:"healthy_before"`
	HealthyWhile  Latency           `json:"healthy_while"`
	HealthyAfter  Latency           `json:"healthy_after"`
	Hanging       []HangingMerchant `json:"hanging"`
	Intake        string            `json:"intake"`
	Kafka         string            `json:"kafka"`

	figure plot.Figure
}

// HangingMerchant is one that hung.
type HangingMerchant struct {
	Merchant string `json:"merchant"`
	// CircuitOpenedAtS is of the first time, CircuitClosedAtS of the last; null where it did not.
	CircuitOpenedAtS *float64 `json:"circuit_opened_at_s"`
	CircuitClosedAtS *float64 `json:"circuit_closed_at_s"`
	CircuitOpens     int      `json:"circuit_opens"`
	// Attempts are the ledger's, of the time in which it hung.
	Attempts           int `json:"attempts"`
	AttemptsMostPerS   int `json:"attempts_most_per_s"`
	AttemptsMostAtOnce int `json:"attempts_most_at_once"`
	ParkedMost         int `json:"parked_most"`
}

func runHanging(ctx context.Context, o Options) (Outcome, error) { return hangs().hanging(ctx, o) }

func (t troubles) hanging(ctx context.Context, o Options) (Outcome, error) {
	fmt.Fprintf(o.Out, "\n%d merchants, %g payments/s each; %d of them never answer from %.0f s to %.0f s.\n\n", t.ill+t.well, t.perS, t.ill, t.from.Seconds(), t.to.Seconds())
	d, fates, err := t.endure(ctx, o)
	if err != nil {
		return nil, err
	}
	all, healthy := total(fates), eventsOf(fates[t.ill:])
	r := Hanging{
		Scenario: "hanging", Created: all.Created, Delivered: all.Delivered, Lost: all.Lost, Duplicates: all.Duplicates,
		Merchants: len(fates), PerS: t.perS, HangAtS: seconds(d.fell), WellAtS: seconds(d.recovered), TimeoutS: t.timeout.Seconds(),
		HealthyBefore: between(healthy, 0, d.fell), HealthyWhile: between(healthy, d.fell, d.recovered),
		HealthyAfter: between(healthy, d.recovered, forever), Intake: d.worker.Intake, Kafka: o.Kafka,
	}
	if r.InvalidSignatures, err = d.invalidSince(ctx); err != nil {
		return nil, err
	}
	for i, merchant := range d.merchants[:t.ill] {
		while := d.tried(fates[i].attempts, d.fell, d.recovered)
		m := HangingMerchant{
			Merchant: merchant, ParkedMost: d.mostParked(i), Attempts: while.total, AttemptsMostPerS: while.perS, AttemptsMostAtOnce: while.atOnce,
		}
		m.CircuitOpenedAtS, m.CircuitClosedAtS, m.CircuitOpens = circuitOf(d.phases(i))
		r.Hanging = append(r.Hanging, m)
	}
	r.figure = d.figure(fmt.Sprintf("%d of %d merchants never answer for %.0f s", t.ill, len(fates), r.WellAtS-r.HangAtS), r.headline(), "never answer", fates)
	return r, nil
}

// Err says what was lost, and whether the healthy merchants were hurt.
func (r Hanging) Err() error {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if r.Lost > 0 {
		add("%d of %d webhooks did not arrive", r.Lost, r.Created)
	}
	if r.InvalidSignatures > 0 {
		add("%d webhooks were not signed well", r.InvalidSignatures)
	}
	before, while := r.HealthyBefore.CommitToAckMS.P99, r.HealthyWhile.CommitToAckMS.P99
	if limit := max(load.Milliseconds(hangingLimit), hangingTimes*before); while > limit {
		add("while some hung, the p99 of the others was %.0f ms, before it was %.0f ms", while, before)
	}
	for _, m := range r.Hanging {
		if m.CircuitOpenedAtS == nil {
			add("the circuit of %s did not open", m.Merchant)
		}
	}
	return joined(found)
}

func (r Hanging) headline() string {
	attempts := 0
	for _, m := range r.Hanging {
		attempts += m.Attempts
	}
	return fmt.Sprintf("%d events, %d lost, %d twice; %d attempts at those that hung; the others' p99: %.0f ms before, %.0f ms while, %.0f ms after",
		r.Created, r.Lost, r.Duplicates, attempts, r.HealthyBefore.CommitToAckMS.P99, r.HealthyWhile.CommitToAckMS.P99, r.HealthyAfter.CommitToAckMS.P99)
}

// Plot writes the backlog, the latencies and the circuits over time, as an SVG.
func (r Hanging) Plot(w io.Writer) error { return r.figure.Write(w) }

// Print writes the summary for a person to read.
func (r Hanging) Print(out io.Writer) {
	fmt.Fprintf(out, "\n%d of %d merchants hung from %.1f s to %.1f s; their endpoints' time-out is %g s.\n\n", len(r.Hanging), r.Merchants, r.HangAtS, r.WellAtS, r.TimeoutS)
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "merchant\tcircuit opened\topened in all\tclosed\tattempts meanwhile\tin a second\tat once\tparked")
	moment := func(at *float64) string {
		if at == nil {
			return "never"
		}
		return fmt.Sprintf("%.1f s", *at)
	}
	for _, m := range r.Hanging {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\n", m.Merchant, moment(m.CircuitOpenedAtS), m.CircuitOpens, moment(m.CircuitClosedAtS),
			m.Attempts, m.AttemptsMostPerS, m.AttemptsMostAtOnce, m.ParkedMost)
	}
	fmt.Fprintln(tw, "\nthe others, commit to 2xx\tp50\tp99\tlongest\tevents")
	for _, each := range []struct {
		when string
		Latency
	}{{"before", r.HealthyBefore}, {"while some hung", r.HealthyWhile}, {"after", r.HealthyAfter}} {
		fmt.Fprintf(tw, "%s\t%.1f ms\t%.1f ms\t%.1f ms\t%d\n", each.when, each.CommitToAckMS.P50, each.CommitToAckMS.P99, each.CommitToAckMS.Max, each.Events)
	}
	tw.Flush()
	fmt.Fprintf(out, "\n%d events created, %d delivered, %d lost, %d duplicates (intake %s, kafka %s)\n",
		r.Created, r.Delivered, r.Lost, r.Duplicates, r.Intake, r.Kafka)
}
