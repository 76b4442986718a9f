package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/simulator"
)

// Merchant asks a merchant-simulator what it has received. It is safe for concurrent use.
type Merchant struct{ url string }

// NewMerchant returns the one at addr, host:port.
func NewMerchant(addr string) Merchant { return Merchant{url: "http://" + addr} }

// InvalidSignatures is how many webhooks were not signed well since the merchant's last reset.
func (m Merchant) InvalidSignatures(ctx context.Context) (int, error) {
	stats, err := m.stats(ctx)
	return stats.InvalidSignatures, err
}

// Unique is how many different webhooks were accepted since the merchant's last reset.
func (m Merchant) Unique(ctx context.Context) (int, error) {
	stats, err := m.stats(ctx)
	return stats.Unique, err
}

func (m Merchant) stats(ctx context.Context) (simulator.Stats, error) {
	var stats simulator.Stats
	if err := call(ctx, http.MethodGet, m.url+"/stats?latest=0", "", nil, &stats); err != nil {
		return stats, fmt.Errorf("asking the merchant for its counts: %w", err)
	}
	return stats, nil
}

// Behaviours are the failures that the merchant was told to show, as JSON; empty where there is none.
func (m Merchant) Behaviours(ctx context.Context) ([]json.RawMessage, error) {
	var answer struct {
		Behaviours []json.RawMessage `json:"behaviours"`
	}
	if err := call(ctx, http.MethodGet, m.url+"/behaviour", "", nil, &answer); err != nil {
		return nil, fmt.Errorf("asking the merchant how it behaves: %w", err)
	}
	return answer.Behaviours, nil
}

// Behave tells the simulator how to treat the webhooks of b.Merchant from now on.
func (m Merchant) Behave(ctx context.Context, b simulator.Behaviour) error {
	if err := call(ctx, http.MethodPut, m.url+"/behaviour", "", b, &struct{}{}); err != nil {
		return fmt.Errorf("telling merchant %s how to behave: %w", b.Merchant, err)
	}
	return nil
}

// Acks returns what the merchant knows of those of the events that it has accepted.
func (m Merchant) Acks(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]Ack, error) {
	acks := make(map[uuid.UUID]Ack, len(ids))
	const atOnce = 5000
	for chunk := range slices.Chunk(ids, atOnce) {
		var answer struct {
			Seen []struct {
				ID       uuid.UUID `json:"id"`
				Accepted int       `json:"accepted"`
				FirstAt  time.Time `json:"first_at"`
			} `json:"seen"`
		}
		ask := struct {
			IDs []uuid.UUID `json:"ids"`
		}{chunk}
		if err := call(ctx, http.MethodPost, m.url+"/seen", "", ask, &answer); err != nil {
			return nil, fmt.Errorf("asking the merchant what it has accepted: %w", err)
		}
		for _, seen := range answer.Seen {
			acks[seen.ID] = Ack{Times: seen.Accepted, First: seen.FirstAt}
		}
	}
	return acks, nil
}
