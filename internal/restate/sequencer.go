package restate

import (
	sdk "github.com/restatedev/sdk-go"

	"github.com/hookline/hookline/internal/delivery"
)

// Names under which Restate knows the sequencer: one object for each delivery.Sequence, by its key.
const (
	SequencerService = "ObjectSequencer"
	WakeHandler      = "Wake"
)

// sequencer lets an object's deliveries go one after the other. It keeps no state: the ledger says whose turn it is, so a
// wake too many does nothing, and one is as good as many.
type sequencer struct {
	workflow workflow
}

func (s *sequencer) definition(options ...sdk.ServiceDefinitionOption) sdk.ServiceDefinition {
	return sdk.NewObject(SequencerService, options...).
		Handler(WakeHandler, sdk.NewObjectHandler(s.wake, sdk.WithDocumentation("Sends what waits in the sequence and is in turn.")))
}

func (s *sequencer) wake(ctx sdk.ObjectContext, _ sdk.Void) (sdk.Void, error) {
	sequence, err := delivery.ParseSequence(sdk.Key(ctx))
	if err != nil {
		return sdk.Void{}, sdk.ToTerminalError(err)
	}
	owner := ctx.Request().ID
	lists, failed := sdk.Run(ctx, func(run sdk.RunContext) ([]delivery.AttemptList, error) {
		return s.workflow.Release(run, owner, sequence)
	}, sdk.WithName("release"))
	if failed != nil {
		return sdk.Void{}, failed
	}
	for _, list := range lists {
		sdk.ServiceSend(ctx, DispatcherService, AttemptHandler).Send(list)
	}
	return sdk.Void{}, nil
}

// wake sends what a step's result says to wake.
func wake(ctx sdk.Context, sequences []delivery.Sequence) {
	for _, s := range sequences {
		sdk.ObjectSend(ctx, SequencerService, s.Key(), WakeHandler).Send(sdk.Void{})
	}
}
