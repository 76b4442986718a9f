package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/simulator"
)

// guests are the merchants that a scenario brings along, each with an endpoint at the simulator.
type guests struct {
	merchants []string
	endpoints []uuid.UUID
}

// invite gives the spec's merchant an endpoint at the simulator, which verifies by the spec's secret.
func (g *guests) invite(ctx context.Context, o Options, spec endpoint.Spec) error {
	g.merchants = append(g.merchants, spec.MerchantID)
	spec.URL = "http://" + o.Merchant + "/webhooks/" + spec.MerchantID
	added, _, err := o.Endpoints.Add(ctx, spec)
	if err != nil {
		return fmt.Errorf("adding an endpoint of %s: %w", spec.MerchantID, err)
	}
	g.endpoints = append(g.endpoints, added.ID)
	return nil
}

// dismiss takes the merchants away again. Where something is open still, their endpoints stay, disabled: whoever looks for
// it finds where it was to go.
func (g *guests) dismiss(ctx context.Context, o Options, s session, open bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removing)
	defer cancel()
	var errs []error
	for _, name := range g.merchants {
		errs = append(errs, s.merchant.Behave(ctx, simulator.Behaviour{Merchant: name}))
	}
	for _, id := range g.endpoints {
		var err error
		if open {
			err = o.Endpoints.Disable(ctx, id)
		} else {
			_, err = o.Endpoints.Remove(ctx, id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
