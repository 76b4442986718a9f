package restate

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	sdk "github.com/restatedev/sdk-go"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/drain"
)

// Names under which Restate knows the drainers: one object for each endpoint, by its id. WakeHandler is the other.
const (
	DrainerService = "EndpointDrainer"
	TickHandler    = "Tick"
)

const (
	// soon is how far away the next turn of a drainer may be that need not be woken.
	soon = time.Second
	// lateAfter is how late a turn may be until its drainer is taken for gone: an operator may have killed it.
	lateAfter = 10 * time.Second
)

// drainer takes the turns.
type drainer interface {
	Turn(ctx context.Context, owner string, endpointID uuid.UUID, ramp drain.Ramp) drain.Turn
}

// DrainWake is the input of Wake.
type DrainWake struct {
	// Full says that deliveries found no room at the endpoint.
	Full bool `json:"full,omitempty"`
}

// drainTick is the input of Tick: a turn of a chain. One of another chain is void.
type drainTick struct {
	Chain string `json:"chain"`
}

// drainState is what an object keeps while its drain lasts; Restate's UI shows it.
type drainState struct {
	Chain  string     `json:"chain"`
	NextAt time.Time  `json:"next_at"`
	Ramp   drain.Ramp `json:"ramp"`
}

const stateDrain = "drain"

type drainers struct {
	drainer drainer
}

func (o *drainers) definition(options ...sdk.ServiceDefinitionOption) sdk.ServiceDefinition {
	// A drain has four turns a second: their journals would be most of what Restate keeps.
	options = slices.Concat(options, []sdk.ServiceDefinitionOption{sdk.WithJournalRetention(0), sdk.WithIdempotencyRetention(0)})
	return sdk.NewObject(DrainerService, options...).
		Handler(WakeHandler, sdk.NewObjectHandler(o.wake, sdk.WithDocumentation("Looks whether deliveries are parked at the endpoint that could be attempted."))).
		Handler(TickHandler, sdk.NewObjectHandler(o.tick, sdk.WithIngressPrivate(true), sdk.WithDocumentation("Is a turn of the endpoint's drain.")))
}

// wake has a turn at once, unless the next one is near.
func (o *drainers) wake(ctx sdk.ObjectContext, w DrainWake) (sdk.Void, error) {
	state, err := get[*drainState](ctx, stateDrain)
	if err != nil {
		return sdk.Void{}, err
	}
	if state == nil {
		state = &drainState{}
	}
	if w.Full && state.Chain != "" && !state.Ramp.Full {
		state.Ramp.Full = true
		sdk.Set(ctx, stateDrain, state)
	}
	return sdk.Void{}, o.turn(ctx, *state, true)
}

func (o *drainers) tick(ctx sdk.ObjectContext, t drainTick) (sdk.Void, error) {
	state, err := get[*drainState](ctx, stateDrain)
	if err != nil {
		return sdk.Void{}, err
	}
	if state == nil || state.Chain != t.Chain {
		return sdk.Void{}, nil
	}
	return sdk.Void{}, o.turn(ctx, *state, false)
}

// turn never waits for the attempts that it sends: they need slots, and it would hold one.
func (o *drainers) turn(ctx sdk.ObjectContext, state drainState, woken bool) error {
	id, err := uuid.Parse(sdk.Key(ctx))
	if err != nil {
		return sdk.TerminalErrorf("the key is no endpoint's id: %v", err)
	}
	owner := ctx.Request().ID
	turn, failure := sdk.Run(ctx, func(run sdk.RunContext) (drain.Turn, error) {
		if until := time.Until(state.NextAt); woken && state.Chain != "" && until > -lateAfter && until <= soon {
			return drain.Turn{}, nil // the next turn sees it all
		}
		return o.drainer.Turn(run, owner, id, state.Ramp), nil
	}, sdk.WithName("turn"))
	if failure != nil {
		return failure
	}
	if turn.At.IsZero() { // it was not had
		return nil
	}
	for _, list := range turn.Lists {
		if turn.RateLimit > 0 {
			sdk.ObjectSend(ctx, PacerService, sdk.Key(ctx), BookHandler).Send(delivery.PaceRequest{List: list, Rate: turn.RateLimit})
			continue
		}
		sdk.ServiceSend(ctx, DispatcherService, AttemptHandler).Send(list)
	}
	if turn.Next == 0 {
		sdk.Clear(ctx, stateDrain)
		return nil
	}
	next := drainState{Chain: state.Chain, NextAt: turn.At.Add(turn.Next), Ramp: turn.Ramp}
	if alive := woken && state.Chain != "" && turn.At.Sub(state.NextAt) < lateAfter; alive && !state.NextAt.After(next.NextAt.Add(soon)) {
		next.NextAt = state.NextAt // a Tick of the chain is on its way, and comes early enough
		sdk.Set(ctx, stateDrain, next)
		return nil
	}
	if woken {
		next.Chain = sdk.UUID(ctx).String()
	}
	sdk.Set(ctx, stateDrain, next)
	sdk.ObjectSend(ctx, DrainerService, sdk.Key(ctx), TickHandler).Send(drainTick{Chain: next.Chain}, sdk.WithDelay(turn.Next))
	return nil
}
