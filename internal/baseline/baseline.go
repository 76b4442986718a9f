package baseline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/logging"
)

const (
	// maxBody is of a request.
	maxBody = 64 << 10
	// maxWaiting bounds the memory: beyond it payments are refused.
	maxWaiting = 100_000
	// deliverers is the size of the pool.
	deliverers = 4
)

// retries are the waits between the attempts of a webhook; behind the last one it is given up.
var retries = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

// Options make a Service.
type Options struct {
	// MerchantURL is where every webhook goes.
	MerchantURL string
	// Secret signs, whsec_ and base64.
	Secret string
	Log    *slog.Logger
}

// Service takes payments in and delivers their webhooks, for as long as it lives. It is safe for concurrent use.
type Service struct {
	url     string
	webhook *svix.Webhook
	client  *http.Client
	log     *slog.Logger
	queue   chan webhook

	accepted, delivered, dropped, waiting atomic.Int64
}

// webhook is one in memory, and nowhere else.
type webhook struct {
	id   uuid.UUID
	body []byte
}

// Stats are the counts since the start: like the webhooks, they do not outlive the process.
type Stats struct {
	Accepted  int64 `json:"accepted"` // payments answered 201
	Delivered int64 `json:"delivered"`
	Dropped   int64 `json:"dropped"` // out of attempts
	Waiting   int64 `json:"waiting"` // what a crash would lose now
}

// New makes a Service. Run delivers.
func New(o Options) (*Service, error) {
	signer, err := svix.NewWebhook(o.Secret)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the signing secret is not whsec_ and base64") // the cause quotes from it
	}
	return &Service{
		url: o.MerchantURL, webhook: signer, log: o.Log, queue: make(chan webhook, maxWaiting),
		client: &http.Client{Timeout: 10 * time.Second},
	}, nil
}

// Routes adds POST /payments and GET /stats.
func (s *Service) Routes(r chi.Router) {
	r.Post("/payments", s.create)
	r.Get("/stats", func(w http.ResponseWriter, _ *http.Request) { httpserver.WriteJSON(w, http.StatusOK, s.Stats()) })
}

// Stats returns the counts.
func (s *Service) Stats() Stats {
	return Stats{
		Accepted: s.accepted.Load(), Delivered: s.delivered.Load(), Dropped: s.dropped.Load(), Waiting: s.waiting.Load(),
	}
}

// Run delivers until ctx ends. What waits then is dropped: there is no place to put it.
func (s *Service) Run(ctx context.Context) error {
	var pool sync.WaitGroup
	for range deliverers {
		pool.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case next := <-s.queue:
					s.deliver(ctx, next)
					s.waiting.Add(-1)
				}
			}
		})
	}
	pool.Wait()
	s.client.CloseIdleConnections()
	return nil
}

// document is a payment as the request asks for it and as the answer and the webhook show it.
type document struct {
	ID         uuid.UUID       `json:"id"`
	MerchantID string          `json:"merchant_id"`
	Amount     int64           `json:"amount"`
	Currency   string          `json:"currency"`
	Status     payment.Status  `json:"status"`
	Version    int64           `json:"version"`
	Metadata   json.RawMessage `json:"metadata"`
	CreatedAt  time.Time       `json:"created_at"`
	UpdatedAt  time.Time       `json:"updated_at"`
}

func (s *Service) create(w http.ResponseWriter, r *http.Request) {
	made, err := s.accept(w, r)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	httpserver.WriteJSON(w, http.StatusCreated, made)
}

func (s *Service) accept(w http.ResponseWriter, r *http.Request) (document, error) {
	body, err := httpserver.ReadBody(w, r, maxBody)
	if err != nil {
		return document{}, err
	}
	var asked struct {
		MerchantID string          `json:"merchant_id"`
		Amount     int64           `json:"amount"`
		Currency   string          `json:"currency"`
		Status     payment.Status  `json:"status"`
		Metadata   json.RawMessage `json:"metadata"`
	}
	asked.MerchantID, asked.Status, asked.Metadata = payment.DefaultMerchantID, payment.DefaultStatus, json.RawMessage(`{}`)
	if err := httpserver.DecodeStrict(bytes.NewReader(body), &asked); err != nil {
		return document{}, err
	}
	wrong := map[string]string{}
	if asked.Amount < 1 || asked.Amount > payment.MaxAmount {
		wrong["amount"] = "want minor units of the currency, such as 1000 for 10.00 USD"
	}
	if !payment.ValidCurrency(asked.Currency) {
		wrong["currency"] = "want a currency of ISO 4217 in upper case, such as USD"
	}
	if !payment.ValidMerchantID(asked.MerchantID) {
		wrong["merchant_id"] = "want 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore"
	}
	if !asked.Status.Known() {
		wrong["status"] = "is not known"
	}
	if err := fault.InvalidFields(wrong); err != nil {
		return document{}, err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	made := document{
		ID: uuid.New(), MerchantID: asked.MerchantID, Amount: asked.Amount, Currency: asked.Currency, Status: asked.Status,
		Version: 1, Metadata: asked.Metadata, CreatedAt: now, UpdatedAt: now,
	}
	return made, s.remember(made)
}

// remember is the mistake: the only copy of the webhook is in this process.
func (s *Service) remember(made document) error {
	body, err := json.Marshal(struct {
		EventID       uuid.UUID `json:"event_id"`
		EventType     string    `json:"event_type"`
		ObjectVersion int64     `json:"object_version"`
		OccurredAt    time.Time `json:"occurred_at"`
		Payment       document  `json:"payment"`
		Snapshot      document  `json:"snapshot"`
	}{made.ID, "payment." + string(made.Status), made.Version, made.CreatedAt, made, made})
	if err != nil {
		return fmt.Errorf("rendering a webhook: %w", err)
	}
	s.waiting.Add(1)
	select {
	case s.queue <- webhook{id: made.ID, body: body}:
		s.accepted.Add(1)
		return nil
	default:
		s.waiting.Add(-1)
		return fault.New(fault.Unavailable, "too many webhooks wait")
	}
}

func (s *Service) deliver(ctx context.Context, next webhook) {
	var err error
	for number := 0; ; number++ {
		if err = s.post(ctx, next); err == nil {
			s.delivered.Add(1)
			return
		}
		if number >= len(retries) {
			break
		}
		timer := time.NewTimer(retries[number])
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	s.dropped.Add(1)
	s.log.LogAttrs(ctx, slog.LevelError, "a webhook is given up", slog.String("event_id", next.id.String()), logging.Error(err))
}

func (s *Service) post(ctx context.Context, next webhook) error {
	at := time.Now()
	signature, err := s.webhook.Sign(next.id.String(), at, next.body)
	if err != nil {
		return fmt.Errorf("signing a webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(next.body))
	if err != nil {
		return fmt.Errorf("making a webhook's request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", next.id.String())
	req.Header.Set("Webhook-Timestamp", fmt.Sprint(at.Unix()))
	req.Header.Set("Webhook-Signature", signature)
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("posting a webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("posting a webhook: the merchant answered %d", resp.StatusCode)
	}
	return nil
}
