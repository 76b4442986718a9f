package simulator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/signing"
)

const (
	maxBody        = 1 << 20 // bytes of a webhook
	maxHeader      = 128     // bytes kept of a header that a stranger may have written
	defaultLatest  = 20
	maxLookUp      = 10_000    // ids in one look-up
	maxControlBody = 512 << 10 // bytes of a request to the simulator itself
)

// Options make a Simulator.
type Options struct {
	// Secrets are what signing.ParseVerifier reads, whsec_ or whpk_ and base64. A signature that is good by any of them
	// is good.
	Secrets []string
	// ReceiptsFile is where receipts are appended; it is read back at the start. Empty keeps them in memory only.
	ReceiptsFile string
	Log          *slog.Logger
	Registry     prometheus.Registerer
}

// Simulator is the merchant. It is safe for concurrent use.
type Simulator struct {
	verifiers  []signing.Verifier
	book       *book
	behaviours *behaviours
	log        *slog.Logger
	outcomes   *prometheus.CounterVec
	released   chan struct{}
	release    sync.Once
}

// New reads the receipts file back and returns a merchant that goes on from there. Close it after its server.
func New(ctx context.Context, o Options) (*Simulator, error) {
	verifiers, err := parse(o.Secrets)
	if err != nil {
		return nil, err
	}
	s := &Simulator{
		verifiers: verifiers, behaviours: newBehaviours(), log: o.Log, released: make(chan struct{}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_merchant_webhooks_total",
			Help: "Webhooks that reached the merchant, by what became of them.",
		}, []string{"outcome"}),
	}
	if err := o.Registry.Register(s.outcomes); err != nil {
		return nil, fmt.Errorf("registering the metrics: %w", err)
	}
	var unreadable int
	s.book, unreadable, err = openBook(o.ReceiptsFile)
	if err != nil {
		return nil, err
	}
	read := s.book.read(0)
	if read.Total+read.FailedOnPurpose+read.InvalidSignatures+unreadable > 0 {
		s.log.LogAttrs(ctx, slog.LevelInfo, "read the receipts back", slog.Int("total", read.Total),
			slog.Int("unique", read.Unique), slog.Int("unreadable_lines", unreadable))
	}
	return s, nil
}

// CheckSecrets says what is wrong with the secrets of Options, without a word of them.
func CheckSecrets(secrets []string) error {
	_, err := parse(secrets)
	return err
}

func parse(secrets []string) ([]signing.Verifier, error) {
	if len(secrets) == 0 {
		return nil, errors.New("at least one signing secret is required")
	}
	verifiers := make([]signing.Verifier, len(secrets))
	for i, secret := range secrets {
		var err error
		if verifiers[i], err = signing.ParseVerifier(secret); err != nil {
			return nil, fmt.Errorf("signing secret %d of %d: %w", i+1, len(secrets), err)
		}
	}
	return verifiers, nil
}

// Routes adds the merchant's routes.
func (s *Simulator) Routes(r chi.Router) {
	r.Post("/webhooks", s.receive)
	r.Post("/webhooks/*", s.receive)
	r.Get("/stats", s.stats)
	r.Post("/seen", s.seen)
	r.Post("/reset", s.reset)
	r.Get("/behaviour", s.getBehaviour)
	r.Put("/behaviour", s.putBehaviour)
}

// Release ends every request that hangs or is delayed, by dropping its connection. Call it when the server starts to
// stop, which otherwise waits for them. It may be called more than once.
func (s *Simulator) Release() { s.release.Do(func() { close(s.released) }) }

// Close closes the receipts file.
func (s *Simulator) Close() error { return s.book.close() }

// document is what the merchant reads of a webhook's body. Whatever is signed is accepted, also where it has none of it.
type document struct {
	EventID       string `json:"event_id"`
	EventType     string `json:"event_type"`
	ObjectVersion int64  `json:"object_version"`
	OccurredAt    string `json:"occurred_at"`
	Payment       struct {
		ID         string `json:"id"`
		MerchantID string `json:"merchant_id"`
	} `json:"payment"`
}

func (s *Simulator) receive(w http.ResponseWriter, r *http.Request) {
	body, err := readWebhook(w, r)
	if err != nil {
		s.outcomes.WithLabelValues("unreadable").Inc()
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	sum := sha256.Sum256(body)
	receipt := Receipt{
		ID: head(signing.ID(r.Header)), Path: head(r.URL.Path), BodySHA256: hex.EncodeToString(sum[:]),
		Attempt: head(r.Header.Get("Webhook-Attempt")),
	}
	if status, err := s.verify(body, r.Header); err != nil {
		receipt.Outcome, receipt.Status = InvalidSignature, status
		if s.record(w, r, &receipt, "") {
			httpserver.WriteProblem(w, httpserver.Problem{Status: status, Detail: "the signature is not good: " + err.Error()})
		}
		return
	}

	var doc document
	occurred, merchant := doc.read(body, &receipt), chi.URLParam(r, "*")
	if signing.BySvix(r.Header) {
		receipt.SvixID = receipt.ID
		if doc.EventID != "" {
			receipt.ID = head(doc.EventID)
		}
	}
	if merchant == "" {
		merchant = doc.Payment.MerchantID
	}
	verdict := s.behaviours.judge(merchant, receipt.ID)
	if verdict.delay > 0 && !s.wait(w, r, verdict.delay) {
		verdict = verdict.dropped()
	}
	receipt.Outcome, receipt.Status = Accepted, verdict.status
	if verdict.fails() {
		receipt.Outcome = FailedOnPurpose
	}
	if verdict.hang || verdict.drop {
		receipt.Status = 0
	}
	if !s.record(w, r, &receipt, occurred) {
		return
	}
	if verdict.hang {
		s.wait(w, r, -1)
	}
	if verdict.hang || verdict.drop {
		panic(http.ErrAbortHandler) // net/http then closes the connection without an answer
	}
	if verdict.retryAfter != "" {
		w.Header().Set("Retry-After", verdict.retryAfter)
	}
	switch {
	case verdict.answer != "":
		w.Header().Set("Content-Type", verdict.contentType)
		w.WriteHeader(verdict.status)
		w.Write([]byte(verdict.answer))
	case receipt.Outcome == FailedOnPurpose:
		httpserver.WriteProblem(w, httpserver.Problem{Status: verdict.status, Detail: "the merchant was told to fail"})
	default:
		w.WriteHeader(verdict.status)
	}
}

func (v verdict) dropped() verdict {
	v.hang, v.drop = false, true
	return v
}

// record completes the receipt, makes it durable and counts it, all before any answer. Where it cannot, it answers 500
// itself and returns false: without a receipt there is no 2xx.
func (s *Simulator) record(w http.ResponseWriter, r *http.Request, receipt *Receipt, occurredAt string) bool {
	receipt.ReceivedAt = time.Now().UTC().Truncate(time.Microsecond)
	if occurred, err := time.Parse(time.RFC3339Nano, occurredAt); err == nil {
		ms := float64(receipt.ReceivedAt.Sub(occurred).Microseconds()) / 1000
		receipt.LatencyMS = &ms
	}
	again, err := s.book.add(*receipt)
	if err != nil {
		s.outcomes.WithLabelValues("receipt_failed").Inc()
		httpserver.WriteError(w, r, s.log, err)
		return false
	}
	outcome := string(receipt.Outcome)
	if again {
		outcome = "duplicate"
	}
	s.outcomes.WithLabelValues(outcome).Inc()
	s.log.LogAttrs(r.Context(), slog.LevelDebug, "webhook", slog.String("event_id", receipt.ID),
		slog.String("outcome", outcome), slog.Int("status", receipt.Status))
	return true
}

// wait waits for d, negative for ever. It returns false when the sender left or Release ended it.
func (s *Simulator) wait(w http.ResponseWriter, r *http.Request, d time.Duration) bool {
	// The server's deadlines would end the wait. What is served without any, as in a test, has none to lift.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	var over <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
		return true
	case <-r.Context().Done():
	case <-s.released:
	}
	return false
}

// verify returns nil where one of the secrets signed the body within the last five minutes, and otherwise the status to
// answer: 400 where there is no signature to speak of, 401 where it is not good.
func (s *Simulator) verify(body []byte, header http.Header) (int, error) {
	var err error
	now := time.Now()
	for _, verifier := range s.verifiers {
		if err = verifier.Verify(header, body, now); err == nil {
			return 0, nil
		}
	}
	if errors.Is(err, signing.ErrUnsigned) {
		return http.StatusBadRequest, err
	}
	return http.StatusUnauthorized, err
}

// read fills in the receipt from the body and returns the body's occurred_at.
func (d *document) read(body []byte, receipt *Receipt) string {
	if json.Unmarshal(body, d) != nil {
		return "" // signed, so accepted: what it says is between the sender and the merchant's business
	}
	receipt.EventType, receipt.ObjectVersion = d.EventType, d.ObjectVersion
	receipt.ObjectID = d.Payment.ID
	if receipt.ObjectID == "" { // an event that is not about a payment is its own object
		receipt.ObjectID = d.EventID
	}
	return d.OccurredAt
}

func head(text string) string { return text[:min(len(text), maxHeader)] }

func (s *Simulator) stats(w http.ResponseWriter, r *http.Request) {
	n := defaultLatest
	if text := r.URL.Query().Get("latest"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 0 || n > keptLatest {
			httpserver.WriteError(w, r, s.log, fault.New(fault.Invalid, "latest is 0 to %d", keptLatest))
			return
		}
	}
	httpserver.WriteJSON(w, http.StatusOK, s.book.read(n))
}

// SeenRequest asks about webhook-ids, at most 10,000 at once.
type SeenRequest struct {
	IDs []string `json:"ids"`
}

// SeenAnswer tells of those that were accepted.
type SeenAnswer struct {
	Seen []Seen `json:"seen"`
}

func (s *Simulator) seen(w http.ResponseWriter, r *http.Request) {
	var ask SeenRequest
	if err := decode(w, r, &ask); err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	if len(ask.IDs) > maxLookUp {
		httpserver.WriteError(w, r, s.log, fault.New(fault.Invalid, "at most %d ids at once", maxLookUp))
		return
	}
	httpserver.WriteJSON(w, http.StatusOK, SeenAnswer{Seen: s.book.lookUp(ask.IDs)})
}

// reset makes the merchant a new one: no counts, no receipts, in memory and in the file, and no behaviour.
func (s *Simulator) reset(w http.ResponseWriter, r *http.Request) {
	if err := s.book.reset(); err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	s.behaviours.clear()
	s.log.LogAttrs(r.Context(), slog.LevelInfo, "reset")
	httpserver.WriteJSON(w, http.StatusOK, s.book.read(0))
}

type behaviourAnswer struct {
	Behaviours []Behaviour `json:"behaviours"`
}

func (s *Simulator) getBehaviour(w http.ResponseWriter, _ *http.Request) {
	httpserver.WriteJSON(w, http.StatusOK, behaviourAnswer{s.behaviours.list()})
}

func (s *Simulator) putBehaviour(w http.ResponseWriter, r *http.Request) {
	var next Behaviour
	err := decode(w, r, &next)
	if err == nil {
		err = next.validate()
	}
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	s.behaviours.set(next)
	s.log.LogAttrs(r.Context(), slog.LevelInfo, "behaviour set", slog.Any("behaviour", next))
	httpserver.WriteJSON(w, http.StatusOK, behaviourAnswer{s.behaviours.list()})
}

func decode(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := httpserver.ReadBody(w, r, maxControlBody)
	if err != nil {
		return err
	}
	return httpserver.DecodeStrict(bytes.NewReader(body), v)
}

// readWebhook reads the body whatever its media type: the signature is what counts.
func readWebhook(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	limited := http.MaxBytesReader(w, r.Body, maxBody)
	var body []byte
	var err error
	if n := r.ContentLength; n >= 0 && n <= maxBody { // what is said beforehand is read into one piece
		body = make([]byte, n)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fault.New(fault.TooLarge, "the body is larger than %d bytes", maxBody)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "the body could not be read")
	}
	return body, nil
}
