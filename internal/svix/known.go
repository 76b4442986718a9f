package svix

import (
	"context"
	"sync"

	"github.com/svix/svix-webhooks/go/models"
)

// known are merchants' endpoints that were read; nil knows none.
type known struct {
	mu  sync.Mutex
	all map[string][]models.EndpointOut // by merchant id
}

type knownKey struct{}

// Remember has every Status that is asked with the context read a merchant's endpoints once. It is for questions that are asked
// within seconds: what changes there meanwhile is not seen.
func Remember(ctx context.Context) context.Context {
	return context.WithValue(ctx, knownKey{}, &known{all: map[string][]models.EndpointOut{}})
}

func knownOf(ctx context.Context) *known {
	k, _ := ctx.Value(knownKey{}).(*known)
	return k
}

func (k *known) get(merchantID string) ([]models.EndpointOut, bool) {
	if k == nil {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	all, found := k.all[merchantID]
	return all, found
}

func (k *known) put(merchantID string, all []models.EndpointOut) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all[merchantID] = all
}
