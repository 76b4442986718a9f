package dispatch

import (
	"context"
	"log/slog"
	"time"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/svix"
)

// svixClient hands webhooks over to Svix.
type svixClient interface {
	HandOver(ctx context.Context, merchantID string, message svix.Message, guard func() error) svix.Result
	// Timeout bounds a hand-over.
	Timeout() time.Duration
}

const (
	// firstLook is how long after a hand-over somebody looks what became of it: most merchants have answered by then.
	firstLook = 5 * time.Second
	// svixOffWait is how long what is Svix's waits in a worker that has no settings for it.
	svixOffWait = 30 * time.Second
	// svixRoomIn is how many seconds what finds too many hand-overs open waits at most.
	svixRoomIn = 5
)

// svixEndpoint stands for Svix as the endpoint of a delivery. It has the deployment's schedule.
func svixEndpoint(client svixClient) delivery.Endpoint {
	endpoint := delivery.Endpoint{ID: delivery.SvixEndpoint, Enabled: true, Circuit: delivery.CircuitClosed}
	if client != nil {
		endpoint.Timeout = client.Timeout()
	}
	return endpoint
}

// handOver is the exchange with Svix. All that is said of an exchange holds for it: only what an answer means is different.
func (d *Dispatcher) handOver(e *exchange, guard deliver.Guard) deliver.Response {
	claim := d.exchanges.claimOf(e)
	result := d.cfg.Svix.HandOver(d.lifetime, claim.Object.MerchantID, svix.Message{
		EventID: claim.EventID, Generation: claim.Generation, EventType: claim.EventType, Round: claim.Number, Body: e.message.Body,
	}, guard)
	response := deliver.Response{
		Cause: result.Cause, StatusCode: result.StatusCode, Latency: result.Latency, RetryAfter: result.RetryIn, Sent: result.Sent,
		Answer: []byte(result.Detail),
	}
	if result.Class == svix.Accepted {
		response.Answer = []byte(result.MessageID)
		if result.Replacement > 0 {
			d.metrics.replaced.Inc()
		}
	}
	return response
}

// handedOver says what an exchange with Svix means for its delivery. Causes tell the classes of a svix.Result apart.
func (d *Dispatcher) handedOver(outcome *delivery.Outcome, endpoint delivery.Endpoint, retryIn time.Duration, jitter float64) {
	switch outcome.Cause {
	case delivery.CauseSvixAccepted:
		outcome.State, outcome.RetryIn = delivery.HandedOver, firstLook
	case delivery.CauseSvixUnauthorized, delivery.CauseSvixAddress, delivery.CauseSvixUnconfirmed:
		// A wait for somebody to mend a setting, or for a message to show itself: no attempt is used up.
		outcome.Attempted = false
		outcome.State, outcome.Next, outcome.RetryIn = delivery.Retrying, outcome.Number, time.Duration(float64(retryIn)*max(1, jitter))
	case delivery.CauseSvixRefused, delivery.CauseSvixTooLarge, delivery.CauseSvixConflict:
		outcome.State = delivery.Dead
	default:
		d.reschedule(outcome, endpoint, retryIn, jitter)
	}
}

// warnOfSvix says once for all claims that a worker without settings for Svix got some of its.
func (d *Dispatcher) warnOfSvix(ctx context.Context, claims []delivery.Claim) {
	if d.cfg.Svix != nil {
		return
	}
	n := 0
	for _, claim := range claims {
		if claim.EndpointID == delivery.SvixEndpoint {
			n++
		}
	}
	if n > 0 {
		d.log.LogAttrs(ctx, slog.LevelError, "deliveries of route svix wait, as this worker has no SVIX_TOKEN", slog.Int("deliveries", n))
	}
}
