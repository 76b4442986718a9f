package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/messageid"
)

// Svix is how the demo's webhooks go by Svix.
type Svix struct {
	// Client is of the server that the workers hand over to.
	Client *svix.Client
	// Secret is what the merchant simulator verifies by.
	Secret string
}

// clockSlack is how far the clock of Svix may be behind ours.
const clockSlack = time.Minute

// SvixResult is what came of the way by Svix.
type SvixResult struct {
	// Messages is how many of the events' messages Svix has; Replacements of them stand in for one that seemed lost.
	Messages     int `json:"messages"`
	Replacements int `json:"replacements"`
	// Ledger counts the events' deliveries by state, at the end.
	Ledger map[delivery.State]int `json:"ledger"`
	// SettledMS is from the last webhook's arrival until the ledger knew of all of them; absent where it does not.
	SettledMS *float64 `json:"settled_ms,omitempty"`
}

// takeRoute has the merchant's events go by Svix, where it has an endpoint at the simulator, or in-house. It returns what gives
// the merchant the deployment's route.
func (o Options) takeRoute(ctx context.Context) (func() error, error) {
	nothing := func() error { return nil }
	if o.Routes == nil {
		return nothing, nil
	}
	giveBack := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removing)
		defer cancel()
		_, err := o.Routes.Unset(ctx, o.MerchantID)
		return err
	}
	if o.Svix == nil { // a demo by Svix that was killed has left its route
		changed, err := o.Routes.Unset(ctx, o.MerchantID)
		if changed {
			fmt.Fprintf(o.Out, "%s had a route of its own: now its webhooks go by the deployment's\n", o.MerchantID)
		}
		return nothing, err
	}
	target := svix.Target{UID: "merchant-simulator", URL: "http://" + o.Merchant + "/webhooks", Secret: o.Svix.Secret}
	if err := o.Svix.Client.Provision(ctx, o.MerchantID, target); err != nil {
		return nil, err
	}
	if _, err := o.Routes.Set(ctx, o.MerchantID, delivery.RouteSvix); err != nil {
		return nil, errors.Join(err, giveBack())
	}
	fmt.Fprintf(o.Out, "%s has an application at Svix, with an endpoint at %s, and the route svix\n", o.MerchantID, target.URL)
	return giveBack, nil
}

// settle waits until the ledger knows that every webhook arrived, or nothing moves any more.
func (w *watch) settle(ctx context.Context, began time.Time) (*SvixResult, error) {
	events, err := w.db.EventsOfPayments(ctx, w.created())
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(events))
	created := map[uuid.UUID]bool{}
	for i, event := range events {
		ids[i], created[event.ID] = event.ID, true
	}
	out := &SvixResult{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	start, moved := time.Now(), time.Now()
	for {
		states, err := w.db.StatesOfEvents(ctx, ids)
		if err != nil {
			return nil, err
		}
		if !maps.Equal(states, out.Ledger) {
			out.Ledger, moved = states, time.Now()
			fmt.Fprintf(w.Out, "  %s  in the ledger: %s\n", time.Now().Format("15:04:05.000"), statesText(states))
		}
		if states[delivery.Succeeded] == len(ids) {
			out.SettledMS = new(float64(time.Since(start).Milliseconds()))
			break
		}
		if time.Since(moved) >= w.patience {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
	messages, err := w.Svix.Client.Messages(ctx, w.MerchantID, began.Add(-clockSlack))
	if err != nil {
		return nil, err
	}
	messages = slices.DeleteFunc(messages, func(m messageid.Message) bool { return !created[m.EventID] })
	out.Messages = len(messages)
	for _, each := range messages {
		if each.Replacement > 0 {
			out.Replacements++
		}
	}
	return out, nil
}

func statesText(states map[delivery.State]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[state], state))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// err says what the ledger does not know to have arrived.
func (s *SvixResult) err(created int) error {
	if s == nil || s.Ledger[delivery.Succeeded] == created {
		return nil
	}
	return fmt.Errorf("of %d webhooks the ledger has %s", created, statesText(s.Ledger))
}

func (s *SvixResult) print(out io.Writer) {
	if s == nil {
		return
	}
	fmt.Fprintf(out, "by Svix: %d messages there, %d of them in another's place; in the ledger: %s", s.Messages, s.Replacements, statesText(s.Ledger))
	if s.SettledMS != nil {
		fmt.Fprintf(out, ", %.1f s after the last arrived", *s.SettledMS/1000)
	}
	fmt.Fprintln(out)
}
