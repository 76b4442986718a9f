package paymentsapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/logging"
)

const (
	// maxCallbackBytes is ten times what Stripe's largest events have.
	maxCallbackBytes = 256 << 10
	// maxReading bounds how many bodies are read at once, and with it the memory that those take who have no secret: a body and
	// what growing it left behind are less than 1 MiB. Reading one takes a provider milliseconds.
	maxReading = 64
	// readTimeout bounds how long a body may keep one of the places.
	readTimeout = 5 * time.Second
	// forwardTimeout and readTimeout are less than the server has for a request, 15 s. Providers wait ten seconds and more.
	forwardTimeout = 8 * time.Second
	// callbackRetryAfter is what a provider is asked to wait, in seconds, while its callbacks cannot be kept.
	callbackRetryAfter = 5
	// busyRetryAfter is what it is asked to wait where maxReading others are read.
	busyRetryAfter = 1
)

// forwarder hands callbacks over, and knows what came of those before.
type forwarder interface {
	// ForwardCallback returns nil once the callback cannot be lost any more.
	ForwardCallback(ctx context.Context, e callback.Event, header http.Header, body []byte) error
	// PaymentHistory returns a payment's callbacks in the order in which they came.
	PaymentHistory(ctx context.Context, paymentID uuid.UUID) ([]callback.Entry, error)
}

// outcome is what the door did with a callback, for the metrics.
type outcome string

const (
	outcomeAccepted     outcome = "accepted"
	outcomeBadSignature outcome = "bad_signature"
	outcomeIncomplete   outcome = "incomplete" // its body ended early, or took too long
	outcomeBusy         outcome = "busy"
	outcomeTooLarge     outcome = "too_large"
	outcomeUnavailable  outcome = "unavailable"
)

func outcomes() []outcome {
	return []outcome{outcomeAccepted, outcomeBadSignature, outcomeBusy, outcomeIncomplete, outcomeTooLarge, outcomeUnavailable}
}

var (
	errUnsigned = errors.New("the headers of the provider's signature are required")
	errBusy     = errors.New("too many callbacks are being read")
)

// CallbackRoutes adds the providers' door to r. It asks for no token: the credential of a callback is its signature.
func (s *Server) CallbackRoutes(r chi.Router) {
	r.Post("/callbacks/{provider}", s.handle("/callbacks/{provider}", http.MethodPost, s.takeCallback))
}

// takeCallback is POST /callbacks/{provider}. Its 2xx says that the callback is kept: a provider does not send it again. All
// that is signed is kept, also what cannot be read: the handler makes a dead record of it.
func (s *Server) takeCallback(w http.ResponseWriter, r *http.Request) error {
	provider := chi.URLParam(r, "provider")
	if !s.providers.Has(provider) {
		return fault.New(fault.NotFound, "there is no such provider of callbacks here")
	}
	if !bearsSignature(provider, r.Header) {
		s.refused(r, provider, outcomeBadSignature, errUnsigned)
		refuseUnread(w, httpserver.Problem{Status: http.StatusUnauthorized, Detail: errUnsigned.Error()})
		return nil
	}
	body, err := s.readCallback(w, r)
	if errors.Is(err, errBusy) {
		s.refused(r, provider, outcomeBusy, err)
		w.Header().Set("Retry-After", strconv.Itoa(busyRetryAfter))
		refuseUnread(w, httpserver.Problem{Status: http.StatusServiceUnavailable, Detail: "too many callbacks at once: send it again"})
		return nil
	}
	if err != nil {
		did := outcomeIncomplete
		if fault.ClassOf(err) == fault.TooLarge {
			did = outcomeTooLarge
		}
		s.refused(r, provider, did, err)
		return err
	}
	if err := s.providers.Verify(provider, r.Header, body, time.Now()); err != nil {
		s.refused(r, provider, outcomeBadSignature, err)
		httpserver.WriteProblem(w, httpserver.Problem{Status: http.StatusUnauthorized, Detail: err.Error()})
		return nil
	}

	event, unread := callback.Parse(provider, r.Header, body)
	if unread != nil { // not logged: it may quote the body
		hash := sha256.Sum256(body)
		event = callback.Event{Provider: provider, ID: "sha256:" + hex.EncodeToString(hash[:])}
	}
	log := s.log.With(slog.String("provider", provider), slog.String("event_id", event.ID), slog.String("event_type", event.Type))

	// It outlives the client: what came whole and signed is to be kept, also for a provider that hung up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), forwardTimeout)
	defer cancel()
	if err := s.forwarder.ForwardCallback(ctx, event, r.Header, body); err != nil {
		s.metrics.callbacks.WithLabelValues(provider, string(outcomeUnavailable)).Inc()
		log.LogAttrs(ctx, slog.LevelWarn, "callback not kept", logging.Error(err))
		w.Header().Set("Retry-After", strconv.Itoa(callbackRetryAfter))
		httpserver.WriteProblem(w, httpserver.Problem{
			Status: http.StatusServiceUnavailable, Detail: "the callback was not kept: send it again",
		})
		return nil
	}
	s.metrics.callbacks.WithLabelValues(provider, string(outcomeAccepted)).Inc()
	if unread != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "callback accepted that cannot be read: it becomes a dead record")
	} else {
		log.LogAttrs(ctx, slog.LevelInfo, "callback accepted")
	}
	httpserver.WriteJSON(w, http.StatusAccepted, struct {
		Status string `json:"status"`
	}{"accepted"})
	return nil
}

// bearsSignature reports whether there is something to verify.
func bearsSignature(provider string, header http.Header) bool {
	if provider == callback.Stripe {
		return header.Get("Stripe-Signature") != ""
	}
	return header.Get("Webhook-Signature") != "" || header.Get("Svix-Signature") != ""
}

// readCallback reads a body whose sender has proved nothing yet. It returns errBusy where maxReading others are being read.
func (s *Server) readCallback(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	default:
		return nil, errBusy
	}
	setReadDeadline(w, time.Now().Add(readTimeout))
	body, err := httpserver.ReadBytes(w, r, maxCallbackBytes)
	if err == nil {
		setReadDeadline(w, time.Time{})
	}
	return body, err
}

// setReadDeadline bounds the reading of the request, where it comes over a connection.
func setReadDeadline(w http.ResponseWriter, at time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// refuseUnread answers without the wait for the rest of the body that keeping the connection would take.
func refuseUnread(w http.ResponseWriter, p httpserver.Problem) {
	setReadDeadline(w, time.Now().Add(readTimeout)) // of what comes behind the answer
	w.Header().Set("Connection", "close")
	httpserver.WriteProblem(w, p)
}

// refused counts a callback that was refused. Anybody can send such ones, so that the log has them only where it is asked to,
// and nothing that the sender chose.
func (s *Server) refused(r *http.Request, provider string, did outcome, err error) {
	s.metrics.callbacks.WithLabelValues(provider, string(did)).Inc()
	s.log.LogAttrs(r.Context(), slog.LevelDebug, "callback refused",
		slog.String("provider", provider), slog.String("outcome", string(did)), logging.Error(err))
}
