package restate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	sdk "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/encoding"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

// Names under which Restate knows the handlers of callbacks.
const (
	RouterService      = "WebhookCallbackRouter"
	StripeEventHandler = "OnStripeEvent"
	EventHandler       = "OnEvent"
	RedriveHandler     = "Redrive"
	TrackerService     = "PaymentTracker"
	ApplyHandler       = "Apply"
	HistoryHandler     = "History"
)

// headerProvider names the provider of an OnEvent. Nobody has to believe it: the signature is the provider's, or it is not.
const headerProvider = "x-hookline-provider"

const (
	// maxCallback is the largest body that is looked at, as at the door. Stripe's events are a few KiB.
	maxCallback = 256 << 10
	// callbackMemory is how long Restate knows the key of an event: longer than the three days for which Stripe tries again.
	callbackMemory = 7 * 24 * time.Hour
	// callbackJournal is how long a callback's body, which is its invocation's input, stays in Restate.
	callbackJournal = time.Hour
	// parkedFor is how long a callback waits for its predecessor, which a provider sends for three days.
	parkedFor = 4 * 24 * time.Hour
	// deadTopic and the provider stand for a topic in the dead records: there is none.
	deadTopic = "callbacks/"
)

// payments is payments-api, by the errors of apiclient.
type payments interface {
	Payment(ctx context.Context, id uuid.UUID) (payment.Payment, error)
	ChangeStatus(ctx context.Context, id uuid.UUID, version int64, status payment.Status) (payment.Payment, error)
}

// burier keeps the callbacks that cannot be applied.
type burier interface {
	Bury(ctx context.Context, record delivery.DeadRecord) error
}

// deadRecords has what was kept.
type deadRecords interface {
	DeadRecord(ctx context.Context, id int64) (delivery.Buried, error)
}

// Callbacks are the handlers of a payment provider's callbacks: the router, which anybody may call who signs, and the
// tracker of each payment, which only the router calls.
type Callbacks struct {
	providers callback.Providers
	payments  payments
	burier    burier
	records   deadRecords
	news      newsLedger
	log       *slog.Logger
	handled   *prometheus.CounterVec
	parkedFor time.Duration
	gate      gate // before payments-api
}

// NewCallbacks makes the handlers of the providers' callbacks. Without providers they refuse every one.
func NewCallbacks(providers callback.Providers, p payments, b burier, d deadRecords, n newsLedger, log *slog.Logger, registry prometheus.Registerer) *Callbacks {
	c := &Callbacks{providers: providers, payments: p, burier: b, records: d, news: n, log: log, parkedFor: parkedFor, handled: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hookline_callbacks_total",
		Help: "Callbacks of payment providers that were decided about, by what became of them.",
	}, []string{"provider", "outcome"})}
	registry.MustRegister(c.handled)
	c.handled.WithLabelValues(strangers, outcomeBadSignature) // so that there is a first one
	for _, provider := range providers.Names() {
		c.handled.WithLabelValues(provider, outcomeBadSignature)
		c.handled.WithLabelValues(provider, outcomeWaiting)
	}
	return c
}

// What the counter knows beside the outcomes of the history.
const (
	outcomeBadSignature = "bad_signature"
	outcomeTooLarge     = "too_large"
	outcomeDead         = "dead"    // kept as a dead record before any payment was looked at
	outcomeWaiting      = "waiting" // not decided about: it comes again, and is counted each time
)

// strangers are providers that are not set up here: anybody may send anything.
const strangers = "unknown"

func (c *Callbacks) definitions(options ...sdk.ServiceDefinitionOption) []sdk.ServiceDefinition {
	body := sdk.WithInputCodec(anyBody{encoding.BinaryCodec})
	return []sdk.ServiceDefinition{
		sdk.NewService(RouterService, slices.Concat(options, []sdk.ServiceDefinitionOption{sdk.WithJournalRetention(callbackJournal), sdk.WithIdempotencyRetention(callbackMemory)})...).
			Handler(StripeEventHandler, sdk.NewServiceHandler(c.onStripeEvent, body, sdk.WithDocumentation("Takes a webhook of Stripe's, with its header Stripe-Signature."))).
			Handler(EventHandler, sdk.NewServiceHandler(c.onEvent, body, sdk.WithDocumentation("Takes a webhook that is signed as Standard Webhooks says, or Svix."))).
			Handler(RedriveHandler, sdk.NewServiceHandler(c.redrive, sdk.WithDocumentation("Drives a dead record again that is a callback."))),
		sdk.NewObject(TrackerService, slices.Concat(options, []sdk.ServiceDefinitionOption{sdk.WithJournalRetention(callbackJournal), sdk.WithIdempotencyRetention(callbackJournal)})...).
			// What comes in here was verified by the router, and nobody else may say what a payment is.
			Handler(ApplyHandler, sdk.NewObjectHandler(c.apply, sdk.WithIngressPrivate(true), sdk.WithDocumentation("Applies a callback to the payment, or parks it until its turn."))).
			Handler(HistoryHandler, sdk.NewObjectSharedHandler(c.history, sdk.WithJournalRetention(0), sdk.WithIdempotencyRetention(0),
				sdk.WithDocumentation("Lists the payment's callbacks, and what became of each."))),
	}
}

// anyBody takes the body as it is, whatever its type: a signature is of bytes.
type anyBody struct{ encoding.Codec }

// ContentType implements encoding.CodecMetadata.
func (anyBody) ContentType() string { return "*/*" }

// JsonSchema implements encoding.CodecMetadata.
func (anyBody) JsonSchema(any) any { return nil } //nolint:revive,staticcheck // the interface's name

// InputRequired implements encoding.CodecInputMetadata: what is empty is refused for want of a signature.
func (anyBody) InputRequired() bool { return false }

// received is a callback that was looked at.
type received struct {
	At time.Time `json:"at"`
	// Provider is whose signature it bears.
	Provider string `json:"provider"`
	// Refused says why it was not taken: the sender hears of it.
	Refused string `json:"refused,omitempty"`
	// Dead is the reason why it cannot be applied; Detail says more.
	Dead   string         `json:"dead,omitempty"`
	Detail string         `json:"detail,omitempty"`
	Event  callback.Event `json:"event"`
	// News is what an operational webhook of Svix says: it is of no payment.
	News *callback.News `json:"news,omitempty"`
}

func (c *Callbacks) onStripeEvent(ctx sdk.Context, body []byte) (sdk.Void, error) {
	return sdk.Void{}, c.route(ctx, []string{callback.Stripe}, body)
}

func (c *Callbacks) onEvent(ctx sdk.Context, body []byte) (sdk.Void, error) {
	if provider := ctx.Request().Headers.Get(headerProvider); provider != "" {
		return sdk.Void{}, c.route(ctx, []string{provider}, body)
	}
	return sdk.Void{}, c.route(ctx, c.providers.Names(), body) // straight from a provider, which does not know its name here
}

func (c *Callbacks) route(ctx sdk.Context, providers []string, body []byte) error {
	headers := signatureHeaders(ctx.Request())
	provider := "" // not known before somebody has signed
	if len(providers) == 1 {
		provider = providers[0]
	}
	if len(body) > maxCallback {
		c.count(provider, outcomeTooLarge)
		return refusal(http.StatusRequestEntityTooLarge, fmt.Sprintf("a callback has at most %d bytes", maxCallback))
	}
	// A step, so that what was decided holds when the secrets are others at a second execution.
	r, err := sdk.Run(ctx, func(sdk.RunContext) (received, error) { return c.receive(providers, headers, body), nil }, sdk.WithName("verify"))
	if err != nil {
		return err
	}
	if r.Refused != "" {
		c.count(provider, outcomeBadSignature)
		return refusal(http.StatusUnauthorized, r.Refused)
	}
	if r.Dead != "" {
		return c.buryRaw(ctx, r, headers, body)
	}
	if r.News != nil {
		_, err := c.hear(ctx, r)
		return err
	}
	if r.Event.Silent {
		c.count(r.Provider, string(callback.NoChange))
		return nil
	}
	sdk.ObjectSend(ctx, TrackerService, r.Event.PaymentID.String(), ApplyHandler).Send(tracked{Event: r.Event, ReceivedAt: r.At})
	return nil
}

// receive looks at a callback that bears the signature of one of the providers, or of none.
func (c *Callbacks) receive(providers []string, headers map[string]string, body []byte) received {
	header := headerOf(headers)
	r := received{At: now(), Refused: "no provider of callbacks is set up here"}
	for _, provider := range providers {
		if err := c.providers.VerifyAnyAge(provider, header, body); err != nil {
			r.Refused = err.Error()
			continue
		}
		r.Provider, r.Refused = provider, ""
		return c.read(r, header, body)
	}
	return r
}

// read says what a callback whose signature was verified is about.
func (*Callbacks) read(r received, header http.Header, body []byte) received {
	if r.Provider == callback.Svix {
		news, err := callback.ParseNews(header, body)
		if err != nil {
			r.Dead, r.Detail = delivery.ReasonCallbackUndecodable, err.Error()
			return r
		}
		r.News = &news
		return r
	}
	e, err := callback.Parse(r.Provider, header, body)
	switch {
	case err != nil:
		r.Dead, r.Detail = delivery.ReasonCallbackUndecodable, err.Error()
	case e.Silent: // whatever payment it names
	case !e.Change.Known():
		r.Dead, r.Detail = delivery.ReasonCallbackUnknownType, fmt.Sprintf("the type %q says nothing about a payment that is known here", e.Type)
	case e.PaymentID == uuid.Nil:
		r.Dead, r.Detail = delivery.ReasonCallbackUnmatched, fmt.Sprintf("event %s of type %s names no payment", e.ID, e.Type)
	}
	r.Event = e
	return r
}

func (c *Callbacks) buryRaw(ctx sdk.Context, r received, headers map[string]string, body []byte) error {
	key, err := json.Marshal(headers)
	if err != nil {
		return fmt.Errorf("encoding a callback's headers: %w", err)
	}
	if err := c.bury(ctx, r.Provider, r.Dead, r.Detail, key, body); err != nil {
		return err
	}
	c.count(r.Provider, outcomeDead)
	return nil
}

// bury keeps a callback, once however often it is buried: the same value is the same record.
func (c *Callbacks) bury(ctx sdk.Context, provider, reason, detail string, key, value []byte) error {
	err := sdk.RunVoid(ctx, func(run sdk.RunContext) error {
		return c.burier.Bury(run, delivery.DeadRecord{
			Topic: deadTopic + provider, Partition: -1, Offset: -1, Reason: reason, Detail: detail, Key: key, Value: value,
		})
	}, sdk.WithName("bury"))
	if err != nil {
		return err
	}
	return nil
}

// RedriveInput names a dead record. What it says is in the ledger, and was verified before it came there: whoever calls can
// say nothing new.
type RedriveInput struct {
	ID int64 `json:"id"`
}

// redrive ends when the tracker has decided again, and fails where that is what it was.
func (c *Callbacks) redrive(ctx sdk.Context, input RedriveInput) (callback.Outcome, error) {
	r, err := sdk.Run(ctx, func(run sdk.RunContext) (received, error) {
		record, err := c.records.DeadRecord(run, input.ID)
		if fault.ClassOf(err) == fault.NotFound {
			return received{Refused: err.Error()}, nil
		}
		if err != nil {
			return received{}, err
		}
		return c.exhume(record), nil
	}, sdk.WithName("read"))
	if err != nil {
		return "", err
	}
	if r.Refused != "" || r.Dead != "" {
		return "", refusal(http.StatusUnprocessableEntity, r.Refused+r.Detail)
	}
	if r.News != nil {
		return c.hear(ctx, r)
	}
	if r.Event.Silent {
		c.count(r.Event.Provider, string(callback.NoChange))
		return callback.NoChange, nil
	}
	outcome, err := sdk.Object[callback.Outcome](ctx, TrackerService, r.Event.PaymentID.String(), ApplyHandler).Request(tracked{Event: r.Event, ReceivedAt: r.At})
	if err != nil {
		return "", err
	}
	switch outcome {
	case callback.UnknownPayment:
		return "", refusal(http.StatusUnprocessableEntity, fmt.Sprintf("there still is no payment %s", r.Event.PaymentID))
	case callback.Contradicts:
		return "", refusal(http.StatusUnprocessableEntity, fmt.Sprintf("it still contradicts payment %s", r.Event.PaymentID))
	default:
		return outcome, nil
	}
}

// exhume reads a callback from its dead record, by what the present code knows.
func (c *Callbacks) exhume(record delivery.Buried) received {
	r := received{At: now(), Provider: strings.TrimPrefix(record.Topic, deadTopic)}
	switch record.Reason {
	case delivery.ReasonCallbackUndecodable, delivery.ReasonCallbackUnknownType, delivery.ReasonCallbackUnmatched:
		headers := map[string]string{}
		if err := json.Unmarshal(record.Key, &headers); err != nil {
			r.Refused = "the record's headers cannot be read"
			return r
		}
		return c.read(r, headerOf(headers), record.Value)
	case delivery.ReasonCallbackUnknownPayment, delivery.ReasonCallbackContradicts, delivery.ReasonCallbackEarly:
		if err := json.Unmarshal(record.Value, &r.Event); err != nil || r.Event.PaymentID == uuid.Nil {
			r.Refused = "the record's event cannot be read"
		}
		r.Event = r.Event.Again()
	default:
		r.Refused = "the record is no callback"
	}
	return r
}

// signatureHeaders are those of the request that prove who sent the body, and name the event.
func signatureHeaders(request *sdk.Request) map[string]string {
	wanted := map[string]bool{}
	for _, name := range callback.SignatureHeaders() {
		wanted[name] = true
	}
	headers := map[string]string{}
	for name, value := range request.Headers.Iter() {
		if name = http.CanonicalHeaderKey(name); wanted[name] {
			headers[name] = value
		}
	}
	return headers
}

func headerOf(headers map[string]string) http.Header {
	header := http.Header{}
	for name, value := range headers {
		header.Set(name, value)
	}
	return header
}

// refusal ends an invocation.
func refusal(code sdk.Code, text string) sdk.TerminalError {
	return sdk.ToTerminalError(errors.New(text), sdk.WithErrorCode(code))
}

// count is called at the end of an invocation, which a second execution seldom reaches.
func (c *Callbacks) count(provider, outcome string) {
	if !c.providers.Has(provider) {
		provider = strangers
	}
	c.handled.WithLabelValues(provider, outcome).Inc()
}

// now is as precise as people read it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
