package svix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/svix/messageid"
)

// Defaults of Options.
const (
	DefaultMaxConns = 64
	// DefaultTimeout is above the 5 s for which Svix makes a request wait whose idempotency key is in use.
	DefaultTimeout = 10 * time.Second
	// DefaultGrace is above what passes until a queued message shows its first attempt: the lag of the queue, the 30 s that
	// the endpoint may take, as attempts are written afterwards, and the 45 s after which Svix takes up what a worker
	// dropped.
	DefaultGrace   = 3 * time.Minute
	DefaultMending = 30 * time.Second
)

// maxReplacements bounds how many messages may stand in for an event's own. Each takes a crash of Svix at one moment.
const maxReplacements = 5

// Options are how Svix is reached. Token is required.
type Options struct {
	// Token is sent as it is, and must be the same after a restart: Svix's idempotency keys count by token.
	Token string
	// BaseURL is where the API is, such as http://svix:8071; a path before /api is kept. Empty means Svix Cloud, in the
	// region that the token names. HTTPS_PROXY and its kind are honoured.
	BaseURL string
	// MaxConns is how many requests may be under way at once; further ones wait. 0 means DefaultMaxConns.
	MaxConns int
	// Timeout bounds a hand-over with all of its requests; 0 means DefaultTimeout.
	Timeout time.Duration
	// Grace is how long a message of unknown fate is taken to be still queued; 0 means DefaultGrace.
	Grace time.Duration
	// Mending is how long an attempt waits after Svix refused the token; 0 means DefaultMending.
	Mending time.Duration
}

// Client hands webhooks over. It is safe for concurrent use.
type Client struct {
	api       *sdk.Svix
	transport *transport
	timeout   time.Duration
	grace     time.Duration
	mending   time.Duration
	// applications are those of merchants seen, by merchant id: a few words for each, kept as long as the process.
	applications sync.Map
}

// New makes a client. It does not connect. The error quotes nothing of the token.
func New(opts Options) (*Client, error) {
	if opts.Token == "" || strings.ContainsFunc(opts.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fault.New(fault.Invalid, "the Svix token must be printable characters without blanks")
	}
	client := &Client{
		transport: newTransport(orDefault(opts.MaxConns, DefaultMaxConns)),
		timeout:   orDefault(opts.Timeout, DefaultTimeout),
		grace:     orDefault(opts.Grace, DefaultGrace),
		mending:   orDefault(opts.Mending, DefaultMending),
	}
	settings := &sdk.SvixOptions{
		HTTPClient: &http.Client{
			Transport: client.transport,
			// A redirect would carry the token to another host, and turn a POST into a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetrySchedule: &[]time.Duration{}, // the default repeats within a millisecond, and heeds no context
	}
	if opts.BaseURL != "" {
		base, err := parseBase(opts.BaseURL)
		if err != nil {
			return nil, err
		}
		settings.ServerUrl = base
	}
	api, err := sdk.New(opts.Token, settings)
	if err != nil {
		return nil, fmt.Errorf("making the Svix client: %w", err)
	}
	client.api = api
	return client, nil
}

func orDefault[T int | time.Duration](value, standard T) T {
	if value == 0 {
		return standard
	}
	return value
}

func parseBase(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/")) // the SDK puts paths behind it as they are
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" ||
		base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fault.New(fault.Invalid, "the address of Svix must be http://host:port or https://host, with nothing behind the path")
	}
	return base, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.transport.pool.CloseIdleConnections() }

// Timeout bounds a hand-over with all of its requests.
func (c *Client) Timeout() time.Duration { return c.timeout }

// ErrRefused is in an error of Check: Svix takes nothing from this deployment until somebody mends token, permissions or
// address.
var ErrRefused = errors.New("SVIX_TOKEN or SVIX_URL is wrong")

// Check asks Svix whether it takes the token, and changes nothing. The error is a fault.Unavailable that says what is wrong; of
// settings that are wrong it is an ErrRefused.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var seen call
	watched, done := seen.watch(ctx)
	defer done()
	_, err := c.api.Application.List(watched, &sdk.ApplicationListOptions{Limit: new(uint64(1))})
	if err == nil {
		return nil
	}
	result := c.failure(ctx, &seen, err)
	text := string(result.Cause)
	if result.StatusCode != 0 {
		text += ", status " + strconv.Itoa(result.StatusCode)
	}
	if result.Detail != "" {
		text += ": " + result.Detail
	}
	if result.Class == Unauthorized {
		return fault.Wrap(ErrRefused, fault.Unavailable, "Svix cannot be used: %s", text)
	}
	return fault.New(fault.Unavailable, "Svix cannot be used: %s", text)
}

// Message is an event's webhook.
type Message struct {
	EventID uuid.UUID
	// Generation is 0, or the replay's id: a replay is a message of its own, as Svix would drop it otherwise.
	Generation int64
	EventType  string
	// Round is above 1 when the event is handed over again: 0 and 1 are the first time. It is in the idempotency key, or Svix
	// would say of a message that it has lost what it said when it took it, for as long as it remembers the key.
	Round int
	// Body is a JSON object. The merchant gets it byte for byte. It should hold the event id: svix-id is Svix's.
	Body []byte
}

// eventID is the message's id to Svix. replacement is 0 for the event's own message.
func (m Message) eventID(replacement int) string {
	return messageid.Message{EventID: m.EventID, Generation: m.Generation, Replacement: replacement}.String()
}

// idempotencyKey is that of the request that creates the message of the id.
func (m Message) idempotencyKey(merchantID, id string) string {
	key := "hookline." + merchantID + "." + id
	if m.Round > 1 {
		key += ".a" + strconv.Itoa(m.Round)
	}
	return key
}

// merchantPattern is Svix's for the uid of an application. The SDK puts ids into paths as they are.
var merchantPattern = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,256}$`)

// Fit returns nil where Svix takes the merchant's id for the uid of an application, and otherwise a fault.Invalid that says
// why not.
func Fit(merchantID string) error {
	if problem := unfit(merchantID); problem != "" {
		return fault.New(fault.Invalid, "%s", problem)
	}
	return nil
}

// unfit says why the merchant cannot be an application's uid; it is empty where it can.
func unfit(merchantID string) string {
	switch {
	case !merchantPattern.MatchString(merchantID), merchantID == ".", merchantID == "..":
		return "Svix takes merchant ids of 1 to 256 letters, digits, dots, dashes and underscores"
	case strings.HasPrefix(merchantID, "app_"):
		return "Svix takes a merchant id that starts with app_ for one of its own"
	default:
		return ""
	}
}

// HandOver makes sure that Svix has the message, within Options.Timeout. It never returns an error: whatever happens is a
// Result. The guard is asked right before each request that creates a message; an error keeps it back. ctx is for the end
// of the process.
func (c *Client) HandOver(ctx context.Context, merchantID string, message Message, guard func() error) Result {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	result := c.handOver(ctx, merchantID, message, guard)
	result.Latency = time.Since(start)
	return result
}

func (c *Client) handOver(ctx context.Context, merchantID string, message Message, guard func() error) Result {
	if problem := unfit(merchantID); problem != "" {
		return Result{Class: Terminal, Cause: delivery.CauseSvixRefused, Detail: problem}
	}
	sent := false
	for replacement := 0; ; replacement++ {
		id := message.eventID(replacement)
		result := c.create(ctx, merchantID, id, message, guard)
		sent = sent || result.Sent
		lost := false
		if result.StatusCode == http.StatusConflict {
			result, lost = c.reconcile(ctx, merchantID, id, message.EventType)
		}
		if !lost || replacement == maxReplacements {
			result.Sent, result.Replacement = sent, replacement
			return result
		}
	}
}

// create creates the message, and the merchant's application where it is missing. A StatusCode of 409 says that there is a
// message of that id.
func (c *Client) create(ctx context.Context, merchantID, id string, message Message, guard func() error) Result {
	app := c.application(merchantID)
	if result, ok := app.ensure(ctx, c); !ok {
		return result
	}
	result, missing := c.post(ctx, merchantID, id, message, guard)
	if !missing {
		return result
	}
	app.forget() // it was deleted since, or Svix lost its database
	if result, ok := app.ensure(ctx, c); !ok {
		return result
	}
	again, missing := c.post(ctx, merchantID, id, message, guard)
	if missing {
		again.Class, again.Cause, again.RetryIn = Retryable, delivery.CauseSvixAnswer, 0
	}
	return again
}

// post makes the one request that can have an effect for the merchant. missing says that there is no application.
func (c *Client) post(ctx context.Context, merchantID, id string, message Message, guard func() error) (result Result, missing bool) { //nolint:nonamedreturns // says what the bool is
	seen := call{guard: guard}
	watched, done := seen.watch(ctx)
	defer done()
	in := sdk.NewMessageInRaw(message.EventType, string(message.Body), nil)
	in.EventId = &id
	out, err := c.api.Message.Create(watched, merchantID, *in, &sdk.MessageCreateOptions{
		WithContent:    new(false), // else the SDK writes into an answer that may not be there
		IdempotencyKey: new(message.idempotencyKey(merchantID, id)),
	})
	switch {
	case err != nil:
		result = c.failure(ctx, &seen, err)
		missing = seen.status == http.StatusNotFound && saysNotFound(err)
	case !names(out, id):
		result = retryable(delivery.CauseSvixAnswer, "the answer names another message")
	default:
		result = Result{Class: Accepted, Cause: delivery.CauseSvixAccepted, MessageID: out.Id}
	}
	result.StatusCode, result.Sent = seen.status, seen.sent && !seen.denied
	return result, missing
}

// names reports whether Svix's answer is about the message of that id.
func names(out *models.MessageOut, id string) bool {
	return out != nil && out.Id != "" && out.EventId != nil && *out.EventId == id
}

// saysNotFound tells Svix's own word from the 404 of whatever else may answer at the address.
func saysNotFound(err error) bool {
	answer, ok := errors.AsType[*sdk.Error](err)
	if !ok {
		return false
	}
	code, _, _ := readProblem(answer.Body())
	return code == "not_found"
}
