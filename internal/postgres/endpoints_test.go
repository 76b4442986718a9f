package postgres_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func whsec(n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", n)))
}

func TestAddedEndpointIsListedWithoutItsSecret(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	store := postgres.NewEndpointStore(pool)

	added, secret, err := store.Add(t.Context(), postgres.NewEndpoint{MerchantID: "m", URL: "https://shop.example/hooks?a=b", Description: "d"})
	require.NoError(t, err)
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	require.NoError(t, err)
	require.Len(t, key, 32)
	require.True(t, added.Enabled)

	given, secret, err := store.Add(t.Context(), postgres.NewEndpoint{MerchantID: "n", URL: "http://127.0.0.1:1/", Secret: whsec(24), EventTypes: []string{"payment.*"}})
	require.NoError(t, err)
	require.Equal(t, whsec(24), secret)

	all, err := store.List(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []postgres.Endpoint{added, given}, all)
	of, err := store.List(t.Context(), "n")
	require.NoError(t, err)
	require.Equal(t, []postgres.Endpoint{given}, of)
	none, err := store.List(t.Context(), "o")
	require.NoError(t, err)
	require.Empty(t, none)

	var stored string
	require.NoError(t, pool.QueryRow(t.Context(), "select secret from delivery.endpoint_secrets where endpoint_id = $1", [16]byte(given.ID)).Scan(&stored))
	require.Equal(t, whsec(24), stored)
}

func TestPutMakesTheEndpointWhatIsAskedForAndTouchesNothingOtherwise(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	store := postgres.NewEndpointStore(pool)
	want := postgres.NewEndpoint{ID: uuid.New(), MerchantID: "m", URL: "http://127.0.0.1:4001/webhooks", Secret: whsec(32)}
	revision := func() int64 {
		var n int64
		require.NoError(t, pool.QueryRow(t.Context(), "select revision from delivery.endpoints where id = $1", [16]byte(want.ID)).Scan(&n))
		return n
	}
	_, err := store.Put(t.Context(), want)
	require.NoError(t, err)
	first := revision()
	_, err = store.Put(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, first, revision(), "nothing changed")

	want.URL, want.Secret = "http://127.0.0.1:5001/webhooks", whsec(40)
	_, err = store.Put(t.Context(), want)
	require.NoError(t, err)
	require.Greater(t, revision(), first)
	all, err := store.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, want.URL, all[0].URL)
	var secrets []string
	require.NoError(t, pool.QueryRow(t.Context(), "select array_agg(secret) from delivery.endpoint_secrets").Scan(&secrets))
	require.Equal(t, []string{want.Secret}, secrets)
}

func TestBadEndpointsAreRefusedFieldByField(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	store := postgres.NewEndpointStore(pool)
	good := postgres.NewEndpoint{MerchantID: "m", URL: "https://shop.example/"}
	for name, spoil := range map[string]func(e *postgres.NewEndpoint){
		"merchant_id: empty":      func(e *postgres.NewEndpoint) { e.MerchantID = "" },
		"merchant_id: long":       func(e *postgres.NewEndpoint) { e.MerchantID = strings.Repeat("m", 256) },
		"url: empty":              func(e *postgres.NewEndpoint) { e.URL = "" },
		"url: relative":           func(e *postgres.NewEndpoint) { e.URL = "/hooks" },
		"url: another scheme":     func(e *postgres.NewEndpoint) { e.URL = "ftp://shop.example/" },
		"url: no host":            func(e *postgres.NewEndpoint) { e.URL = "https:///hooks" },
		"url: with a password":    func(e *postgres.NewEndpoint) { e.URL = "https://a:b@shop.example/" },
		"url: with a fragment":    func(e *postgres.NewEndpoint) { e.URL = "https://shop.example/#x" },
		"url: long":               func(e *postgres.NewEndpoint) { e.URL += strings.Repeat("x", 2048) },
		"secret: without whsec_":  func(e *postgres.NewEndpoint) { e.Secret = strings.TrimPrefix(whsec(24), "whsec_") },
		"secret: short":           func(e *postgres.NewEndpoint) { e.Secret = whsec(23) },
		"secret: long":            func(e *postgres.NewEndpoint) { e.Secret = whsec(65) },
		"secret: not base64":      func(e *postgres.NewEndpoint) { e.Secret = "whsec_???" },
		"event_types: empty type": func(e *postgres.NewEndpoint) { e.EventTypes = []string{""} },
	} {
		bad := good
		spoil(&bad)
		_, _, err := store.Add(t.Context(), bad)
		require.Equal(t, fault.Invalid, fault.ClassOf(err), name)
		field, _, _ := strings.Cut(name, ":")
		require.ErrorContains(t, err, field+": ", name)
	}
	all, err := store.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestWorkerCannotAddEndpoints(t *testing.T) {
	t.Parallel()
	store := postgres.NewEndpointStore(pgtest.New(t).Pool(t, migrations.RoleWorker))
	_, _, err := store.Add(t.Context(), postgres.NewEndpoint{MerchantID: "m", URL: "https://shop.example/"})
	require.ErrorContains(t, err, "permission denied")
}
