package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

// longestHold bounds how long a request waits for its slot, which is never so far away unless clocks disagree.
const longestHold = 2 * time.Second

// Values of the label why.
const (
	pacedNoSlot = "no_slot" // an attempt was due, and goes to the endpoint's pacer
	pacedLate   = "late"    // it had a slot, and was late for it: it goes there again
	pacedParked = "parked"  // the pacer has no slot for it
)

// slots are those of a list's deliveries; the zero value has none.
type slots struct {
	list delivery.AttemptList
	at   map[delivery.Key]int // its place in the list
}

func slotsOf(list delivery.AttemptList) slots {
	s := slots{list: list}
	if list.SlotUS == 0 {
		return s
	}
	s.at = make(map[delivery.Key]int, len(list.Tickets))
	for i, ticket := range list.Tickets {
		s.at[delivery.Key{EventID: ticket.EventID, EndpointID: list.EndpointID, Generation: ticket.Generation}] = i
	}
	return s
}

// of returns the delivery's slot, and how long before it the request is begun; the zero time where it has none.
func (s slots) of(key delivery.Key) (time.Time, time.Duration) {
	i, found := s.at[key]
	if !found {
		return time.Time{}, 0
	}
	return s.list.Slot(i)
}

// ahead is how long it is to the last slot, at most longestHold.
func (s slots) ahead() time.Duration {
	if s.list.SlotUS == 0 {
		return 0
	}
	last, _ := s.list.Slot(len(s.list.Tickets) - 1)
	return min(max(0, time.Until(last)), longestHold)
}

// outOfTurn is what becomes of a delivery whose endpoint has a rate limit, and which has no slot, or was late for the one
// that it had: the endpoint's pacer finds it one. lead is how long before that its connection has to be begun, as far as that is known.
func outOfTurn(claim delivery.Claim, lead time.Duration) delivery.Outcome {
	return delivery.Outcome{
		Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number, State: delivery.Retrying, Cause: delivery.CausePaced,
		Latency: lead, Next: claim.Number, RetryIn: delivery.PaceWithin,
	}
}

// withLimits marks the lines of deliveries that go to their endpoint's pacer, which has to know the limit, and what they come
// back as.
func withLimits(lines []Line, endpoints map[uuid.UUID]delivery.Endpoint, way lane) []Line {
	for i := range lines {
		if line := &lines[i]; line.Cause == delivery.CausePaced && line.State == delivery.Retrying {
			line.RateLimit = endpoints[line.EndpointID].RateLimit
			line.Backlog, line.Probe = way.backlog && !way.probe, way.probe
		}
	}
	return lines
}

// Park keeps deliveries of a list that the endpoint's pacer has no slot for until the endpoint's drainer pulls them. Its
// error means that they are due when they were to have had their slot.
func (d *Dispatcher) Park(ctx context.Context, endpointID uuid.UUID, tickets []delivery.Ticket) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	if err := d.ledger.Park(ctx, endpointID, tickets, delivery.CausePaced); err != nil {
		return err
	}
	d.metrics.paced.WithLabelValues(pacedParked).Add(float64(len(tickets)))
	return nil
}

var errLate = errors.New("the request is late for its slot")

// postInSlot begins the request a while before its slot, and lets it start in the slot or not at all.
func (d *Dispatcher) postInSlot(e *exchange, claimedAt time.Time) deliver.Response {
	if ahead := time.Until(e.slot); ahead > longestHold {
		d.log.LogAttrs(d.lifetime, slog.LevelWarn, "a slot is far away: the clocks of the workers disagree", slog.Duration("ahead", ahead))
		return deliver.Response{Cause: delivery.CausePaced}
	}
	d.wait(e.slot.Add(-e.lead))
	begun := time.Now()
	if begun.Sub(e.slot) > delivery.PaceLate {
		d.metrics.paced.WithLabelValues(pacedLate).Inc()
		return deliver.Response{Cause: delivery.CausePaced}
	}
	endpoint := e.endpoint
	endpoint.Timeout += max(0, e.slot.Sub(begun)) // what it waits with its connection made is not the endpoint's
	missed := make(chan deliver.Response, 1)      // the guard may be asked once for each connection: the first denies for all
	response := d.poster.Post(d.lifetime, endpoint, e.message, d.exchanges.claimOf(e).Number, func() error {
		connecting := time.Since(begun)
		d.wait(e.slot)
		return d.mayStart(e, claimedAt, func() error {
			if time.Since(e.slot) <= delivery.PaceLate {
				return nil
			}
			miss := deliver.Response{Cause: delivery.CausePaced, Latency: connecting}
			if connecting > delivery.MaxLead {
				miss.Cause = delivery.CauseTimeoutConnect // no lead is long enough: it would go round for ever
			}
			select {
			case missed <- miss:
			default:
			}
			return errLate
		})
	})
	select {
	case miss := <-missed:
		if miss.Cause == delivery.CausePaced {
			d.metrics.paced.WithLabelValues(pacedLate).Inc()
		}
		return miss
	default:
		return response
	}
}

// wait returns at the time, or when the process ends.
func (d *Dispatcher) wait(until time.Time) {
	ahead := time.Until(until)
	if ahead <= 0 {
		return
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.lifetime.Done():
	}
}
