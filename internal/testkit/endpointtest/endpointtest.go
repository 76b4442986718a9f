// Package endpointtest gives tests endpoints in a ledger.
package endpointtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
)

// Secret is what every endpoint of Add signs with.
var Secret = "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))

// KeyText is the setting that makes Keys.
var KeyText = "test:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("t"), 32))

// Keys seal what tests keep. They are the same in every process of a test.
func Keys(t testing.TB) seal.Keyring {
	t.Helper()
	var keys seal.Keyring
	require.NoError(t, keys.UnmarshalText([]byte(KeyText)))
	return keys
}

// Rules let everything through.
func Rules() endpoint.Rules {
	return endpoint.Rules{
		URL:    func(context.Context, string) error { return nil },
		Filter: func(string) error { return nil },
		Header: func(string, string) error { return nil },
	}
}

// NewManager makes a manager without rules upon the pool, which must be a superuser's.
func NewManager(t testing.TB, pool *pgxpool.Pool) *endpoint.Manager {
	t.Helper()
	return endpoint.NewManager(postgres.NewEndpointStore(pool), Keys(t), Rules())
}

// Add adds an endpoint of the merchant, which change may alter.
func Add(t testing.TB, pool *pgxpool.Pool, merchant string, change func(*endpoint.Spec)) uuid.UUID {
	t.Helper()
	spec := endpoint.Spec{MerchantID: merchant, URL: "http://127.0.0.1:1/webhooks", Secret: Secret}
	if change != nil {
		change(&spec)
	}
	added, _, err := NewManager(t, pool).Add(t.Context(), spec)
	require.NoError(t, err)
	return added.ID
}
