package paymentsapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

// maxBodyBytes bounds a request's body. It is above the largest event.
const maxBodyBytes = 128 << 10

// store is what the API keeps payments in. A method that returns nil has committed.
type store interface {
	Create(ctx context.Context, draft payment.Draft, origin payment.Origin) (payment.Answer, error)
	Get(ctx context.Context, id uuid.UUID) (json.RawMessage, error)
	ChangeStatus(ctx context.Context, id uuid.UUID, version int64, next payment.Status, traceparent string) (json.RawMessage, error)
	AppendEvent(ctx context.Context, eventType, merchantID string, data json.RawMessage, origin payment.Origin) (payment.Answer, error)
}

// Options say what a server works with. All but the Providers are required.
type Options struct {
	Store     store
	Forwarder forwarder
	// Providers are who may send callbacks; the zero value is nobody.
	Providers callback.Providers
	Log       *slog.Logger
	Registry  *prometheus.Registry
	// Timeout bounds what one request may wait for the database, its wait for a connection included.
	Timeout time.Duration
	// MerchantRate is how many creations a second a merchant has that creates far more than the others; 0 lets everybody
	// through.
	MerchantRate int
}

// Server answers the API's requests. It is safe for concurrent use.
type Server struct {
	store     store
	forwarder forwarder
	providers callback.Providers
	log       *slog.Logger
	timeout   time.Duration
	metrics   metrics
	turns     *turns
	reading   chan struct{} // has one for each callback's body that is being read
}

// New makes a server and registers its metrics.
func New(opts Options) *Server {
	return &Server{
		store: opts.Store, forwarder: opts.Forwarder, providers: opts.Providers, log: opts.Log, timeout: opts.Timeout,
		metrics: newMetrics(opts.Registry, opts.Providers.Names()), reading: make(chan struct{}, maxReading),
		turns: newTurns(opts.MerchantRate),
	}
}

// Routes adds the API's routes to r, but for the providers' door: see CallbackRoutes.
func (s *Server) Routes(r chi.Router) {
	r.Post("/payments", s.handle("/payments", http.MethodPost, s.createPayment))
	r.Get("/payments/{id}", s.handle("/payments/{id}", http.MethodGet, s.getPayment))
	r.Get("/payments/{id}/history", s.handle("/payments/{id}/history", http.MethodGet, s.getHistory))
	r.Patch("/payments/{id}", s.handle("/payments/{id}", http.MethodPatch, s.updatePayment))
	r.Post("/events", s.handle("/events", http.MethodPost, s.createEvent))
}

// handle makes an http.Handler of a function that returns an error where it did not answer, gives it its
// deadline, and counts.
func (s *Server) handle(route, method string, serveFunc func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	requests := s.metrics.requests.MustCurryWith(prometheus.Labels{"route": route, "method": method})
	duration := s.metrics.duration.WithLabelValues(route)
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := statusRecorder{ResponseWriter: w, status: http.StatusInternalServerError} // what a panic becomes
		defer func() {
			requests.WithLabelValues(strconv.Itoa(recorder.status)).Inc()
			duration.Observe(time.Since(start).Seconds())
		}()
		if err := serveFunc(&recorder, r); err != nil {
			httpserver.WriteError(&recorder, r, s.log, err)
		}
	}
}

// databaseContext outlives the client: a statement cut in the middle would cost its connection, and what
// was sent completely is meant.
func (s *Server) databaseContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), s.timeout)
}

// statusRecorder remembers the status for the metrics.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// writeDocument answers with JSON as the database wrote it.
func writeDocument(w http.ResponseWriter, status int, document json.RawMessage) {
	document = append(document, '\n')
	header := w.Header()
	header["Content-Type"] = jsonContentType
	header.Set("Content-Length", strconv.Itoa(len(document)))
	w.WriteHeader(status)
	w.Write(document) // where it fails the client is gone; what it asked for is stored
}

var jsonContentType = []string{"application/json"}
