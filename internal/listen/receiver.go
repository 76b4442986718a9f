package listen

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
)

const (
	maxBody = 1 << 20 // bytes of a webhook: Hookline sends no larger one
	// forwardTimeout is shorter than the endpoint's own, so that it is us who say what happened.
	forwardTimeout = 8 * time.Second
	// maxAnswer is in bytes, as much as Hookline itself reads; answerPatience bounds the reading of it.
	maxAnswer      = 16 << 10
	answerPatience = 200 * time.Millisecond
	// What of the connections to the local server is kept open between webhooks, and for how long.
	idleConnections = 64
	idleTimeout     = 30 * time.Second
)

// errSlow is why the forwarding of a webhook ended when it took too long.
var errSlow = errors.New("forwarding took too long")

// Webhook is one request as the receiver saw it, and what Hookline was answered.
type Webhook struct {
	At time.Time `json:"at"` // when it had arrived
	// EventID and all that describes the event are a stranger's claims where the signature is not good.
	EventID   string `json:"event_id,omitempty"`
	EventType string `json:"event_type,omitempty"`
	// ObjectType is payment or empty; ObjectID is the payment's id, or the id that the event's data have, where they have one.
	ObjectType string `json:"object_type,omitempty"`
	ObjectID   string `json:"object_id,omitempty"`
	Attempt    int    `json:"attempt,omitempty"`
	Status     int    `json:"status"`
	// Forwarded says that the local server was asked; LatencyMS is how long its answer took to begin.
	Forwarded bool    `json:"forwarded"`
	LatencyMS float64 `json:"latency_ms,omitempty"`
	// Problem is what a person should know beside the status; empty where all is well.
	Problem string `json:"problem,omitempty"`
	Body    []byte `json:"-"` // of what was signed well
}

// ParseForwardTo reads where webhooks are forwarded to. The error is a fault.Invalid.
func ParseForwardTo(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, fault.New(fault.Invalid, "want an http or https URL such as http://localhost:8000/hook")
	}
	if u.Fragment != "" {
		return nil, fault.New(fault.Invalid, "must not hold a fragment: no server ever sees it")
	}
	return u, nil
}

// Receiver is where the temporary endpoint points to. It is safe for concurrent use.
type Receiver struct {
	verifier  signing.Verifier
	forwardTo *url.URL // nil answers 200
	report    func(Webhook)
	transport *http.Transport // not an http.Client: that one reads Location, and follows it
}

// NewReceiver makes a receiver of what the verifier finds signed well. report gets every request once it is answered, several
// at a time. Close the receiver after its server.
func NewReceiver(verifier signing.Verifier, forwardTo *url.URL, report func(Webhook)) *Receiver {
	return &Receiver{verifier: verifier, forwardTo: forwardTo, report: report, transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: forwardTimeout}).DialContext,
		MaxIdleConnsPerHost: idleConnections,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // what was not asked for by Hookline is not asked for here
	}}
}

// Close closes idle connections.
func (r *Receiver) Close() { r.transport.CloseIdleConnections() }

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	hook := Webhook{At: time.Now(), EventID: signing.ID(req.Header)}
	if attempt, err := strconv.Atoi(req.Header.Get("Webhook-Attempt")); err == nil {
		hook.Attempt = attempt
	}
	var answered answer
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		answered = refusal(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", maxBody))
	} else if err != nil {
		answered = refusal(http.StatusBadRequest, "the body broke off")
	} else if err := r.verifier.Verify(req.Header, body, hook.At); err != nil {
		answered = refusal(http.StatusUnauthorized, err.Error())
	} else {
		hook.describe(body)
		answered = answer{status: http.StatusOK}
		if r.forwardTo != nil {
			answered = r.forward(req, body)
		}
	}
	answered.write(w)
	hook.Status, hook.Forwarded, hook.Problem = answered.status, answered.forwarded, answered.problem
	hook.LatencyMS = float64(answered.latency.Microseconds()) / 1000
	r.report(hook)
}

// describe reads what a person looks for from a body, which need have none of it.
func (w *Webhook) describe(body []byte) {
	w.Body = body
	var doc struct {
		EventType string          `json:"event_type"`
		Payment   json.RawMessage `json:"payment"`
		Snapshot  json.RawMessage `json:"snapshot"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return
	}
	w.EventType = doc.EventType
	object := doc.Snapshot
	if doc.Payment != nil {
		w.ObjectType, object = "payment", doc.Payment
	}
	var named struct {
		ID any `json:"id"`
	}
	if json.Unmarshal(object, &named) == nil {
		w.ObjectID, _ = named.ID.(string)
	}
}

// answer is what Hookline gets.
type answer struct {
	status                  int
	contentType, retryAfter string
	body                    []byte

	forwarded bool
	latency   time.Duration
	problem   string
}

// refusal is an answer of our own.
func refusal(status int, problem string) answer {
	return answer{status: status, contentType: "text/plain; charset=utf-8", body: []byte("hookline listen: " + problem + "\n"), problem: problem}
}

func (a answer) write(w http.ResponseWriter) {
	for name, value := range map[string]string{"Content-Type": a.contentType, "Retry-After": a.retryAfter} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// forward sends the webhook on, byte for byte, and returns the local server's answer, or ours where it gave none.
func (r *Receiver) forward(req *http.Request, body []byte) answer {
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	deadline := time.AfterFunc(forwardTimeout, func() { cancel(errSlow) })
	defer deadline.Stop()
	target := *r.forwardTo
	target.User = nil
	out, err := http.NewRequestWithContext(ctx, req.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return refusal(http.StatusBadGateway, "the local server's URL cannot be used")
	}
	out.Header = r.header(req.Header)
	start := time.Now()
	response, err := r.transport.RoundTrip(out)
	latency := time.Since(start)
	if err != nil {
		status, problem := http.StatusBadGateway, "the local server gave no answer: "+err.Error()
		switch {
		case errors.Is(context.Cause(ctx), errSlow):
			status, problem = http.StatusGatewayTimeout, fmt.Sprintf("the local server gave no answer within %s", forwardTimeout)
		case req.Context().Err() != nil:
			problem = "the webhook was given up before the local server had answered"
		}
		refused := refusal(status, problem)
		refused.forwarded, refused.latency = true, latency
		return refused
	}
	defer response.Body.Close()
	if response.StatusCode < http.StatusOK { // nobody asked it to switch protocols, and there is no 0
		refused := refusal(http.StatusBadGateway, fmt.Sprintf("the local server answered %d, which ends no request", response.StatusCode))
		refused.forwarded, refused.latency = true, latency
		return refused
	}
	patience := time.AfterFunc(answerPatience, func() { cancel(nil) })
	defer patience.Stop()
	content, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the status is what counts
	return answer{
		status: response.StatusCode, contentType: response.Header.Get("Content-Type"), retryAfter: response.Header.Get("Retry-After"), body: content,
		forwarded: true, latency: latency, problem: consequence(response.StatusCode),
	}
}

// header returns what of the webhook's headers is the webhook's, and not the connection's.
func (r *Receiver) header(webhook http.Header) http.Header {
	out := http.Header{}
	for name, values := range webhook {
		if strings.HasPrefix(name, "Webhook-") || name == "Content-Type" || name == "User-Agent" {
			out[name] = values
		}
	}
	if user := r.forwardTo.User; user != nil {
		password, _ := user.Password()
		out.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	return out
}

// consequence says what Hookline makes of a status, where that may surprise.
func consequence(status int) string {
	switch {
	case status == http.StatusGone:
		return "a 410 disables the endpoint: nothing more comes until hookline listen is started again"
	case status >= http.StatusMultipleChoices && status < http.StatusBadRequest:
		return "a redirect is a failed attempt: it is not followed"
	}
	return ""
}
