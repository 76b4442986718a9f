package dispatch

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
)

// cachedEndpoints bounds the cache; a deployment with more active endpoints reads some of them again.
const cachedEndpoints = 10_000

// endpointCache keeps endpoints by revision. A claim carries the revision that its own statement saw, so what
// the cache returns is never older than the claim, and no time-out is needed.
type endpointCache struct {
	ledger ledger
	mu     sync.Mutex
	byID   map[uuid.UUID]delivery.Endpoint
	svix   delivery.Endpoint // which the ledger does not know
}

func newEndpointCache(l ledger, svix delivery.Endpoint) *endpointCache {
	return &endpointCache{ledger: l, byID: map[uuid.UUID]delivery.Endpoint{}, svix: svix}
}

// get returns the endpoints of the claims; one that does not exist any more is left out.
func (c *endpointCache) get(ctx context.Context, claims []delivery.Claim) (map[uuid.UUID]delivery.Endpoint, error) {
	out := make(map[uuid.UUID]delivery.Endpoint, 16)
	var stale []uuid.UUID
	c.mu.Lock()
	for _, claim := range claims {
		if claim.EndpointID == delivery.SvixEndpoint {
			out[claim.EndpointID] = c.svix
			continue
		}
		if _, seen := out[claim.EndpointID]; seen || claim.EndpointRevision == 0 {
			continue
		}
		endpoint := c.byID[claim.EndpointID]
		if endpoint.Revision < claim.EndpointRevision {
			stale = append(stale, claim.EndpointID)
		}
		out[claim.EndpointID] = endpoint
	}
	c.mu.Unlock()
	if len(stale) == 0 {
		return out, nil
	}
	read, err := c.ledger.Endpoints(ctx, stale)
	if err != nil {
		return nil, err
	}
	for _, id := range stale {
		delete(out, id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byID) > cachedEndpoints {
		clear(c.byID)
	}
	for _, endpoint := range read {
		out[endpoint.ID] = endpoint
		c.byID[endpoint.ID] = endpoint
	}
	return out, nil
}
