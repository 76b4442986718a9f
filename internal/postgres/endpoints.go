package postgres

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/fault"
)

// EndpointStore manages merchants' endpoints in the ledger. Its pool needs a role that may write them, which
// the worker's may not. It is safe for concurrent use.
type EndpointStore struct {
	pool *pgxpool.Pool
}

// NewEndpointStore makes a store upon the pool, which stays the caller's to close.
func NewEndpointStore(pool *pgxpool.Pool) *EndpointStore { return &EndpointStore{pool: pool} }

// NewEndpoint is an endpoint that is to be.
type NewEndpoint struct {
	ID          uuid.UUID // Nil draws one
	MerchantID  string
	URL         string
	Description string
	EventTypes  []string // empty is every type
	Secret      string   // whsec_ and base64; empty draws one
}

// Endpoint is an endpoint as it stands, without its secrets.
type Endpoint struct {
	ID          uuid.UUID `json:"id"`
	MerchantID  string    `json:"merchant_id"`
	URL         string    `json:"url"`
	Description string    `json:"description"`
	EventTypes  []string  `json:"event_types"`
	Enabled     bool      `json:"enabled"`
	CreatedAt   time.Time `json:"created_at"`
}

const (
	secretPrefix = "whsec_"
	// What Standard Webhooks allows.
	minSecretBytes, maxSecretBytes = 24, 64
	maxURLBytes                    = 2048
	maxMerchantIDBytes             = 255
)

// validate names every field that is wrong, not just the first.
func (e NewEndpoint) validate() error {
	problems := map[string]string{}
	if e.MerchantID == "" || len(e.MerchantID) > maxMerchantIDBytes {
		problems["merchant_id"] = fmt.Sprintf("want 1 to %d bytes", maxMerchantIDBytes)
	}
	switch u, err := url.Parse(e.URL); {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		problems["url"] = "want an absolute http or https URL"
	case len(e.URL) > maxURLBytes:
		problems["url"] = fmt.Sprintf("want at most %d bytes", maxURLBytes)
	case u.User != nil:
		problems["url"] = "must not hold a user or password: webhooks are authenticated by their signature"
	case u.Fragment != "":
		problems["url"] = "must not hold a fragment"
	}
	if e.Secret != "" {
		raw, found := strings.CutPrefix(e.Secret, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(raw)
		if !found || err != nil || len(key) < minSecretBytes || len(key) > maxSecretBytes {
			problems["secret"] = fmt.Sprintf("want %s and the base64 of %d to %d bytes", secretPrefix, minSecretBytes, maxSecretBytes)
		}
	}
	for _, each := range e.EventTypes {
		if each == "" {
			problems["event_types"] = "an event type must not be empty"
		}
	}
	return fault.InvalidFields(problems)
}

// A conflict is only possible on an id that the caller chose: then the endpoint becomes what is asked for.
// Nothing is written where nothing changes: a new revision makes every worker read the endpoint again.
const upsertEndpoint = `
insert into delivery.endpoints as e (id, merchant_id, url, description, event_types)
values ($1, $2, $3, $4, $5)
    on conflict (id) do update
   set merchant_id = excluded.merchant_id, url = excluded.url, description = excluded.description, event_types = excluded.event_types
 where (e.merchant_id, e.url, e.description, e.event_types) is distinct from
       (excluded.merchant_id, excluded.url, excluded.description, excluded.event_types)`

const replaceSecrets = `
with gone as (
     delete from delivery.endpoint_secrets where endpoint_id = $1 and secret <> $2)
insert into delivery.endpoint_secrets (endpoint_id, secret)
select $1, $2
 where not exists (select from delivery.endpoint_secrets where endpoint_id = $1 and secret = $2)`

// Put adds the endpoint, or where one has its ID makes that one like it, with the secret as the only one. It
// returns the secret, which is shown nowhere else. What is wrong with the endpoint is a fault.Invalid.
func (s *EndpointStore) Put(ctx context.Context, e NewEndpoint) (string, error) {
	_, secret, err := s.put(ctx, e)
	return secret, err
}

// Add adds the endpoint, and returns it with its secret, which is shown nowhere else.
func (s *EndpointStore) Add(ctx context.Context, e NewEndpoint) (Endpoint, string, error) {
	e.ID = uuid.Nil
	return s.put(ctx, e)
}

func (s *EndpointStore) put(ctx context.Context, e NewEndpoint) (Endpoint, string, error) {
	if err := e.validate(); err != nil {
		return Endpoint{}, "", err
	}
	if e.ID == uuid.Nil {
		id, err := uuid.NewV7()
		if err != nil {
			return Endpoint{}, "", fmt.Errorf("drawing an endpoint's id: %w", err)
		}
		e.ID = id
	}
	if e.Secret == "" {
		e.Secret = newSecret()
	}
	if e.EventTypes == nil {
		e.EventTypes = []string{}
	}
	var stored Endpoint
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, upsertEndpoint, [16]byte(e.ID), e.MerchantID, e.URL, e.Description, e.EventTypes); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, replaceSecrets, [16]byte(e.ID), e.Secret); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, selectEndpoints+" where id = $1", [16]byte(e.ID))
		if err != nil {
			return err
		}
		stored, err = pgx.CollectExactlyOneRow(rows, scanEndpoint)
		return err
	})
	if err != nil {
		return Endpoint{}, "", fmt.Errorf("storing an endpoint of %s: %w", e.MerchantID, err)
	}
	return stored, e.Secret, nil
}

const selectEndpoints = `
select id, merchant_id, url, description, event_types, enabled, created_at from delivery.endpoints`

// List returns every endpoint, or those of one merchant, in the order of their making.
func (s *EndpointStore) List(ctx context.Context, merchantID string) ([]Endpoint, error) {
	rows, err := s.pool.Query(ctx, selectEndpoints+" where $1 in ('', merchant_id) order by created_at, id", merchantID)
	if err != nil {
		return nil, fmt.Errorf("listing endpoints: %w", err)
	}
	endpoints, err := pgx.CollectRows(rows, scanEndpoint)
	if err != nil {
		return nil, fmt.Errorf("listing endpoints: %w", err)
	}
	return endpoints, nil
}

func scanEndpoint(row pgx.CollectableRow) (Endpoint, error) {
	var e Endpoint
	err := row.Scan((*[16]byte)(&e.ID), &e.MerchantID, &e.URL, &e.Description, &e.EventTypes, &e.Enabled, &e.CreatedAt)
	return e, err
}

func newSecret() string {
	key := make([]byte, 32)
	rand.Read(key) // never fails: see its documentation
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}
