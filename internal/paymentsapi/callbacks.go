package paymentsapi

import (
	"context"
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
	// forwardTimeout leaves the rest of a request's 15 s to reading it. Providers wait ten seconds and more.
	forwardTimeout = 8 * time.Second
	// callbackRetryAfter is what a provider is asked to wait, in seconds, while its callbacks cannot be kept.
	callbackRetryAfter = 5
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
	outcomeMalformed    outcome = "malformed"
	outcomeTooLarge     outcome = "too_large"
	outcomeUnavailable  outcome = "unavailable"
)

func outcomes() []outcome {
	return []outcome{outcomeAccepted, outcomeBadSignature, outcomeMalformed, outcomeTooLarge, outcomeUnavailable}
}

// errNoCallback is logged of a callback that cannot be read.
var errNoCallback = errors.New("it was signed well, and is no callback of the provider's")

// CallbackRoutes adds the providers' door to r. It asks for no token: the credential of a callback is its signature.
func (s *Server) CallbackRoutes(r chi.Router) {
	r.Post("/callbacks/{provider}", s.handle("/callbacks/{provider}", http.MethodPost, s.takeCallback))
}

// takeCallback is POST /callbacks/{provider}. Its 2xx says that the callback is kept: a provider does not send it again.
func (s *Server) takeCallback(w http.ResponseWriter, r *http.Request) error {
	provider := chi.URLParam(r, "provider")
	if !s.providers.Has(provider) {
		return fault.New(fault.NotFound, "there is no such provider of callbacks here")
	}
	body, err := httpserver.ReadBytes(w, r, maxCallbackBytes)
	if err != nil {
		did := outcomeMalformed
		if fault.ClassOf(err) == fault.TooLarge {
			did = outcomeTooLarge
		}
		s.callbackRefused(r, provider, did, err)
		return err
	}
	if err := s.providers.Verify(provider, r.Header, body, time.Now()); err != nil {
		s.callbackRefused(r, provider, outcomeBadSignature, err)
		httpserver.WriteProblem(w, httpserver.Problem{Status: http.StatusUnauthorized, Detail: err.Error()})
		return nil
	}
	event, err := callback.Parse(provider, r.Header, body)
	if err != nil {
		s.callbackRefused(r, provider, outcomeMalformed, errNoCallback) // err may quote the body
		return err
	}
	about := []slog.Attr{slog.String("event_id", event.ID), slog.String("event_type", event.Type)}

	// It outlives the client: what came whole and signed is to be kept, also for a provider that hung up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), forwardTimeout)
	defer cancel()
	if err := s.forwarder.ForwardCallback(ctx, event, r.Header, body); err != nil {
		s.callbackRefused(r, provider, outcomeUnavailable, err, about...)
		w.Header().Set("Retry-After", strconv.Itoa(callbackRetryAfter))
		httpserver.WriteProblem(w, httpserver.Problem{
			Status: http.StatusServiceUnavailable, Detail: "the callback was not kept: send it again",
		})
		return nil
	}
	s.metrics.callbacks.WithLabelValues(provider, string(outcomeAccepted)).Inc()
	s.log.LogAttrs(ctx, slog.LevelInfo, "callback accepted", append(about, slog.String("provider", provider))...)
	httpserver.WriteJSON(w, http.StatusAccepted, struct {
		Status string `json:"status"`
	}{"accepted"})
	return nil
}

// callbackRefused counts and logs it. What is about the event may be logged only where its signature is good.
func (s *Server) callbackRefused(r *http.Request, provider string, did outcome, err error, about ...slog.Attr) {
	s.metrics.callbacks.WithLabelValues(provider, string(did)).Inc()
	s.log.LogAttrs(r.Context(), slog.LevelWarn, "callback refused",
		append(about, slog.String("provider", provider), slog.String("outcome", string(did)), logging.Error(err))...)
}
