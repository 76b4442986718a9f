package restate

import (
	"log/slog"
	"time"

	sdk "github.com/restatedev/sdk-go"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

// Names under which Restate knows the pacers: one object for each endpoint that has a rate limit, by its id.
const (
	PacerService = "EndpointPacer"
	BookHandler  = "Book"
)

// statePace is the name of a pacer's state, which Restate's UI shows.
const statePace = "pace"

// pacer hands out the slots of an endpoint. As Restate runs one Book of an endpoint at a time, wherever the workers are,
// no slot is handed out twice.
type pacer struct {
	workflow workflow
	log      *slog.Logger
}

func (p *pacer) definition(options ...sdk.ServiceDefinitionOption) sdk.ServiceDefinition {
	return sdk.NewObject(PacerService, options...).
		Handler(BookHandler, sdk.NewObjectHandler(p.book, sdk.WithDocumentation("Gives deliveries of an endpoint with a rate limit the next free slots.")))
}

// book sends the deliveries of the request to Attempt, each with its slot, and parks those that find none soon.
func (p *pacer) book(ctx sdk.ObjectContext, request delivery.PaceRequest) (sdk.Void, error) {
	pace, err := get[delivery.Pace](ctx, statePace)
	if err != nil {
		return sdk.Void{}, err
	}
	at, err := sdk.Run(ctx, func(sdk.RunContext) (time.Time, error) { return now(), nil }, sdk.WithName("now"))
	if err != nil {
		return sdk.Void{}, err
	}
	booked, left := pace.Book(request, at)
	sdk.Set(ctx, statePace, pace)
	for _, next := range booked {
		sdk.ServiceSend(ctx, DispatcherService, AttemptHandler).Send(next.List, sdk.WithDelay(next.Delay))
	}
	if len(left) == 0 {
		return sdk.Void{}, nil
	}
	if err := sdk.RunVoid(ctx, func(run sdk.RunContext) error {
		if err := p.workflow.Park(run, request.List.EndpointID, left); err != nil {
			// Not tried again: all that wants a slot of the endpoint's would wait for it. They are overdue before long, and the
			// reconciler takes them over.
			p.log.LogAttrs(run, slog.LevelWarn, "deliveries without a slot are not parked", slog.Int("deliveries", len(left)),
				slog.String("endpoint_id", request.List.EndpointID.String()), logging.Error(err))
		}
		return nil
	}, sdk.WithName("park")); err != nil {
		return sdk.Void{}, err
	}
	sdk.ObjectSend(ctx, DrainerService, request.List.EndpointID.String(), WakeHandler).Send(DrainWake{Full: true})
	return sdk.Void{}, nil
}
