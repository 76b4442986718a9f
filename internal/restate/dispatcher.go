package restate

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	sdk "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/encoding"
	"github.com/restatedev/sdk-go/server"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

// Names under which Restate knows the handlers.
const (
	DispatcherService = "WebhookDispatcher"
	ProcessHandler    = "Process"
	AttemptHandler    = "Attempt"
)

// headerSubscription is set on invocations that Restate's own Kafka subscription makes; the record's origin is in
// the kafka ones. The record's own headers never arrive.
const (
	headerSubscription = "restate.subscription.id"
	headerTopic        = "kafka.topic"
	headerPartition    = "kafka.partition"
	headerOffset       = "kafka.offset"
	headerKey          = "kafka.key" // URL-safe base64
)

// workflow is what the handlers journal.
type workflow interface {
	Process(ctx context.Context, owner string, refs []event.Ref) (dispatch.Result, error)
	Attempt(ctx context.Context, owner string, list delivery.AttemptList) (dispatch.Result, error)
	Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.AttemptList, error)
	Record(ctx context.Context, owner string, result dispatch.Result) error
	Bury(ctx context.Context, record delivery.DeadRecord) error
	Park(ctx context.Context, endpointID uuid.UUID, tickets []delivery.Ticket) error
}

// Batch is the input of Process: pointers to events, nothing of what they say.
type Batch struct {
	Events []event.Ref `json:"events"`
}

// HandlerConfig are the settings of the handlers.
type HandlerConfig struct {
	// Retention is how long a finished invocation's journal, and the idempotency key of its call, are kept.
	// One value serves both: the key's caps the journal's.
	Retention time.Duration `env:"JOURNAL_RETENTION" envDefault:"24h" desc:"how long Restate keeps the journal of a finished invocation for its UI; minutes are enough in production"`
	// IdentityKeys are Restate's public keys, several while it changes its own.
	IdentityKeys []string `env:"RESTATE_IDENTITY_KEYS" unit:"comma-separated publickeyv1_..." desc:"the keys with which Restate signs its requests to this worker; none takes requests of anybody"`
}

// Handler returns the HTTP handler that Restate calls. It wants HTTP/2 without TLS, and no time-outs of its own.
func Handler(w workflow, c *Callbacks, dr drainer, cfg HandlerConfig, log *slog.Logger) (http.Handler, error) {
	d := &dispatcher{workflow: w}
	// An invocation is retried for ever and at most 2 s apart: an outage of the ledger must not leave work
	// waiting for long after it, and a paused invocation waits until somebody looks. The number of attempts
	// is left to the server's default, which `hookline` and docker-compose.yml set to unlimited.
	retry := sdk.WithInvocationRetryPolicy(
		sdk.WithInitialRetryInterval(100*time.Millisecond), sdk.WithRetryIntervalFactor(2), sdk.WithMaxRetryInterval(2*time.Second))
	options := []sdk.ServiceDefinitionOption{
		retry,
		// A step takes at most its budget plus a few statements, each under 5 s.
		sdk.WithInactivityTimeout(time.Minute),
		sdk.WithAbortTimeout(time.Minute),
	}
	retention := []sdk.ServiceDefinitionOption{sdk.WithJournalRetention(cfg.Retention), sdk.WithIdempotencyRetention(cfg.Retention)}
	definition := sdk.NewService(DispatcherService, slices.Concat(options, retention)...).
		// Raw bytes: input that the SDK cannot decode is a terminal error, and behind a Kafka subscription
		// nobody would ever hear of it.
		Handler(ProcessHandler, sdk.NewServiceHandler(d.process, sdk.WithInputCodec(encoding.BinaryCodec), sdk.WithDocumentation("Plans a batch of events and makes their first attempts."))).
		Handler(AttemptHandler, sdk.NewServiceHandler(d.attempt, sdk.WithDocumentation("Makes the attempts of a list that are due.")))
	restateServer := server.NewRestate().WithLogger(warnings{log.Handler()}, true).WithIdentityV1(cfg.IdentityKeys...).Bind(definition)
	restateServer.Bind((&sequencer{workflow: w}).definition(slices.Concat(options, retention)...))
	restateServer.Bind((&pacer{workflow: w, log: log}).definition(slices.Concat(options, retention)...))
	restateServer.Bind((&drainers{drainer: dr}).definition(options...))
	for _, each := range c.definitions(options...) {
		restateServer.Bind(each)
	}
	handler, err := restateServer.Handler()
	if err != nil {
		return nil, fmt.Errorf("building the Restate handlers: %w", err)
	}
	return handler, warm(definition)
}

// warm makes the SDK compile its WebAssembly core, which it otherwise does at the first invocation, before the worker
// says that it is ready: the first webhook would wait for it by half a second and more. The request is none that Restate
// would make, so it ends there.
func warm(definition sdk.ServiceDefinition) error {
	handler, err := server.NewRestate().WithLogger(slog.DiscardHandler, true).Bind(definition).Handler()
	if err != nil {
		return fmt.Errorf("building the Restate handlers: %w", err)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "/invoke/"+DispatcherService+"/"+ProcessHandler, http.NoBody) //nolint:forbidigo // belongs to the start of the process
	if err != nil {
		return fmt.Errorf("warming up the handlers: %w", err)
	}
	request.RequestURI, request.ProtoMajor = request.URL.Path, 2 // what a server would have set
	request.Header.Set("Content-Type", "application/vnd.restate.invocation.v6")
	handler(nowhere{}, request)
	return nil
}

// nowhere is an http.ResponseWriter for an answer that nobody reads.
type nowhere struct{}

// Header implements http.ResponseWriter.
func (nowhere) Header() http.Header { return http.Header{} }

// Write implements http.ResponseWriter.
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements http.ResponseWriter.
func (nowhere) WriteHeader(int) {}

// warnings keeps the SDK from logging two lines per invocation.
type warnings struct{ slog.Handler }

// Enabled implements slog.Handler.
func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler: what it returns is as quiet.
func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }

type dispatcher struct {
	workflow workflow
}

func (d *dispatcher) process(ctx sdk.Context, input []byte) (sdk.Void, error) {
	request := ctx.Request()
	var refs []event.Ref
	if request.Headers.Get(headerSubscription) != "" {
		ref, err := event.DecodeRecord(input)
		if err != nil {
			return sdk.Void{}, d.bury(ctx, recordOf(request, input, err))
		}
		refs = []event.Ref{ref}
	} else {
		var batch Batch
		if err := json.Unmarshal(input, &batch); err != nil {
			return sdk.Void{}, sdk.TerminalErrorf("the input is not a batch: %v", err)
		}
		refs = batch.Events
	}
	return sdk.Void{}, d.step(ctx, func(run context.Context, owner string) (dispatch.Result, error) {
		return d.workflow.Process(run, owner, refs)
	})
}

func (d *dispatcher) attempt(ctx sdk.Context, list delivery.AttemptList) (sdk.Void, error) {
	return sdk.Void{}, d.step(ctx, func(run context.Context, owner string) (dispatch.Result, error) {
		return d.workflow.Attempt(run, owner, list)
	})
}

// step is the one journaled step and what follows from its result.
func (d *dispatcher) step(ctx sdk.Context, do func(context.Context, string) (dispatch.Result, error)) error {
	owner := ctx.Request().ID
	result, err := sdk.Run(ctx, func(run sdk.RunContext) (dispatch.Result, error) {
		return do(run, owner)
	}, sdk.WithName("deliver"))
	if err != nil {
		return err
	}
	if result.Unrecorded() {
		if err := sdk.RunVoid(ctx, func(run sdk.RunContext) error {
			return d.workflow.Record(run, owner, result)
		}, sdk.WithName("record")); err != nil {
			return err
		}
	}
	for _, next := range result.FollowUps() {
		sdk.ServiceSend(ctx, DispatcherService, AttemptHandler).Send(next.List, sdk.WithDelay(next.Delay))
	}
	wake(ctx, result.Wake)
	for _, request := range result.Pace() {
		sdk.ObjectSend(ctx, PacerService, request.List.EndpointID.String(), BookHandler).Send(request)
	}
	for _, each := range result.Drain {
		sdk.ObjectSend(ctx, DrainerService, each.EndpointID.String(), WakeHandler).Send(DrainWake{Full: each.Full})
	}
	return nil
}

func (d *dispatcher) bury(ctx sdk.Context, record delivery.DeadRecord) error {
	err := sdk.RunVoid(ctx, func(run sdk.RunContext) error {
		return d.workflow.Bury(run, record)
	}, sdk.WithName("bury"))
	if err != nil {
		return err
	}
	return nil
}

func recordOf(request *sdk.Request, value []byte, cause error) delivery.DeadRecord {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(request.Headers.Get(name), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	key, err := base64.URLEncoding.DecodeString(request.Headers.Get(headerKey))
	if err != nil {
		key, _ = base64.RawURLEncoding.DecodeString(request.Headers.Get(headerKey))
	}
	return delivery.DeadRecord{
		Topic: request.Headers.Get(headerTopic), Partition: int32(number(headerPartition)), Offset: number(headerOffset), //nolint:gosec // a Kafka partition is an int32
		Reason: delivery.ReasonUndecodable, Detail: cause.Error(), Key: key, Value: value,
	}
}
