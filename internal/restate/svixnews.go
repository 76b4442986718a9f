package restate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	sdk "github.com/restatedev/sdk-go"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/event"
)

// newsLedger is what follows from Svix's operational webhooks.
type newsLedger interface {
	// LookAtHandedOver has Svix asked what became of a delivery. It writes nothing where Svix does not have it.
	LookAtHandedOver(ctx context.Context, eventID uuid.UUID, generation int64) error
	// Tell keeps an event for payments-api. It reports false where one of the id is there.
	Tell(ctx context.Context, e event.Operational) (bool, error)
}

// newsSpace makes ids of events of the ids of operational webhooks. Drawn once.
var newsSpace = uuid.MustParse("6c5d0d0e-6a0c-4b6f-9f0f-2b1d9c1a7e54")

// hear acts upon an operational webhook of Svix. What it says of a delivery is never written down: Svix is asked, as what comes
// late may be past.
func (c *Callbacks) hear(ctx sdk.Context, r received) (callback.Outcome, error) {
	outcome, err := c.act(ctx, r)
	if err != nil {
		return "", err
	}
	c.count(r.Provider, string(outcome))
	return outcome, nil
}

func (c *Callbacks) act(ctx sdk.Context, r received) (callback.Outcome, error) {
	n := r.News
	switch n.Type {
	case callback.SvixExhausted:
		if n.Message == nil || n.MerchantID == "" {
			return callback.NotOurs, nil
		}
		err := sdk.RunVoid(ctx, func(run sdk.RunContext) error {
			return c.news.LookAtHandedOver(run, n.Message.EventID, n.Message.Generation)
		}, sdk.WithName("look"))
		if err != nil {
			return "", err
		}
		return callback.Looked, nil
	case callback.SvixEndpointDisabled:
		if n.MerchantID == "" {
			return callback.NotOurs, nil
		}
		if n.ByHand { // as with our own: who did it knows
			return callback.NoChange, nil
		}
		return c.tell(ctx, r)
	default:
		return callback.NoChange, nil
	}
}

// tell has the merchant hear of its endpoint at Svix as of one of ours.
func (c *Callbacks) tell(ctx sdk.Context, r received) (callback.Outcome, error) {
	n := r.News
	data := disabledAtSvix{EndpointID: n.EndpointID, Reason: "failing", Detail: "Svix has disabled the endpoint: no webhook has succeeded for too long", DisabledAt: r.At}
	if !n.Failing.IsZero() {
		data.FailingSince = &n.Failing
	}
	text, err := json.Marshal(data)
	if err != nil {
		return "", fmt.Errorf("encoding the news of an endpoint: %w", err)
	}
	// One of the id is there when Svix, or a second execution, says it again.
	id := uuid.NewSHA1(newsSpace, []byte(n.ID))
	outcome, err := sdk.Run(ctx, func(run sdk.RunContext) (callback.Outcome, error) {
		added, err := c.news.Tell(run, event.Operational{ID: id, MerchantID: n.MerchantID, Type: callback.SvixEndpointDisabled, Data: text})
		if err != nil || !added {
			return callback.AlreadyThere, err
		}
		c.log.LogAttrs(run, slog.LevelWarn, "svix disabled an endpoint", slog.String("merchant_id", n.MerchantID), slog.String("svix_endpoint", n.EndpointID))
		return callback.Told, nil
	}, sdk.WithName("tell"))
	if err != nil {
		return "", err
	}
	return outcome, nil
}

// disabledAtSvix is the data of endpoint.disabled, as the catalogue has it.
type disabledAtSvix struct {
	EndpointID   string     `json:"endpoint_id"`
	Reason       string     `json:"reason"`
	Detail       string     `json:"detail"`
	FailingSince *time.Time `json:"failing_since"`
	DisabledAt   time.Time  `json:"disabled_at"`
}
