package dispatch

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/circuit"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

// judge says what the ends of requests mean for the circuits of their endpoints, writes it down, and returns the endpoints
// whose circuit has changed. A verdict that the ledger does not take comes again with the next request; that of a probe is
// lost, and another probe is made.
func (d *Dispatcher) judge(ended []exchangeResult) []uuid.UUID {
	var changed []uuid.UUID
	seen := map[uuid.UUID]bool{} // one statement for each endpoint, however many requests say the same
	for _, result := range ended {
		ok, counts := saysOf(result.response)
		e := result.of
		if !counts || e.endpoint.ID == uuid.Nil || e.endpoint.ID == delivery.SvixEndpoint || seen[e.endpoint.ID] {
			continue
		}
		var to delivery.Circuit
		if e.lane.probe && e.endpoint.Circuit == delivery.CircuitHalfOpen {
			to = delivery.CircuitOpen
			if ok {
				to = delivery.CircuitClosed
			}
		} else {
			switch d.circuits.Observe(e.endpoint.ID, circuit.Sample{Since: e.endpoint.CircuitSince, Opens: e.endpoint.CircuitOpens, OK: ok}, time.Now()) {
			case circuit.Open:
				to = delivery.CircuitOpen
			case circuit.Well:
				seen[e.endpoint.ID] = true
				d.forgetOpens(e.endpoint)
				continue
			case circuit.Unchanged:
				continue
			}
		}
		seen[e.endpoint.ID] = true
		if d.change(e.endpoint, to, result.response.RetryAfter) {
			changed = append(changed, e.endpoint.ID)
		}
	}
	return changed
}

// hasStalled reports whether so many of the endpoint's requests have stalled that its circuit has just been opened.
func (d *Dispatcher) hasStalled(e delivery.Endpoint) bool {
	if e.ID == delivery.SvixEndpoint {
		return false
	}
	return d.circuits.Stalled(e.ID, e.CircuitSince, d.exchanges.stalled(e.ID, e.CircuitSince), time.Now()) == circuit.Open &&
		d.change(e, delivery.CircuitOpen, 0)
}

// saysOf reports whether the endpoint is well, by the end of a request, and whether that says anything about it.
func saysOf(response deliver.Response) (ok, counts bool) { //nolint:nonamedreturns // tells the two apart
	return response.Cause == delivery.CauseOK, response.Cause == delivery.CauseOK || response.Cause.OfEndpoint()
}

// change writes a circuit's change down, and reports whether it did change.
func (d *Dispatcher) change(endpoint delivery.Endpoint, to delivery.Circuit, retryAfter time.Duration) bool {
	ctx, cancel := context.WithTimeout(d.lifetime, ledgerPatience)
	defer cancel()
	var did bool
	var err error
	attrs := []slog.Attr{slog.String("endpoint_id", endpoint.ID.String()), slog.String("circuit", string(to))}
	if to == delivery.CircuitOpen {
		wait := time.Duration(float64(circuit.Wait(d.cfg.ProbeAfter, endpoint.CircuitOpens)) * d.jitter())
		wait = max(wait, min(retryAfter, circuit.LongestWait))
		attrs = append(attrs, slog.Duration("probe_in", wait))
		did, err = d.ledger.OpenCircuit(ctx, endpoint.ID, endpoint.CircuitSince, wait)
	} else {
		did, err = d.ledger.CloseCircuit(ctx, endpoint.ID, endpoint.CircuitSince)
	}
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "a circuit waits for the ledger", append(attrs, logging.Error(err))...)
		return false
	}
	d.circuits.Ruled(endpoint.ID, endpoint.CircuitSince)
	if to == delivery.CircuitOpen {
		for _, e := range d.exchanges.spare(endpoint.ID) {
			e.holder.finished(exchangeResult{of: e, claim: e.claim, response: deliver.Response{Cause: delivery.CauseCircuitOpen}})
		}
	}
	if did {
		d.metrics.circuits.WithLabelValues(string(to)).Inc()
		d.log.LogAttrs(ctx, slog.LevelInfo, "a circuit changed", attrs...)
	}
	return did
}

// forgetOpens says that the endpoint is well. Should it be said in vain, the next success says it again.
func (d *Dispatcher) forgetOpens(endpoint delivery.Endpoint) {
	ctx, cancel := context.WithTimeout(d.lifetime, ledgerPatience)
	defer cancel()
	if _, err := d.ledger.ForgetOpens(ctx, endpoint.ID, endpoint.CircuitSince); err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "a circuit waits for the ledger", slog.String("endpoint_id", endpoint.ID.String()), logging.Error(err))
	}
}
