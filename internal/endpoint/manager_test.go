package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

// shop is an endpoint with all that one can have.
func shop() endpoint.Spec {
	return endpoint.Spec{
		MerchantID: "m", URL: "https://jane:s3cr3t-pass@shop.example/hooks?token=t0k3n&a=b", Description: "orders",
		EventTypes: []string{"payment.*", "invoice.paid"}, Headers: map[string]string{"X-Api-Key": "h34der-value", "X-Team": "w3bh00ks"},
		Schedule: delivery.Schedule{5 * time.Second, time.Minute}, Ordering: endpoint.PerObject, Timeout: 7 * time.Second, RateLimit: 20,
		Secret: endpointtest.Secret,
	}
}

func ring(t *testing.T, keys ...string) seal.Keyring {
	t.Helper()
	var out seal.Keyring
	require.NoError(t, out.UnmarshalText([]byte(strings.Join(keys, ","))))
	return out
}

// interrupted is a store in which something else happens at the worst moment, once.
type interrupted struct {
	*postgres.EndpointStore

	afterRow, beforeReplace, afterRows func()

	failing []error // of what Reseal and Row are asked next, one each
}

// fails is the next failure, if there is one.
func (s *interrupted) fails() error {
	if len(s.failing) == 0 {
		return nil
	}
	err := s.failing[0]
	s.failing = s.failing[1:]
	return err
}

func (s *interrupted) Reseal(ctx context.Context, id uuid.UUID, before, after endpoint.SealedSecret) error {
	if err := s.fails(); err != nil {
		return err
	}
	return s.EndpointStore.Reseal(ctx, id, before, after)
}

func once(do *func()) {
	if now := *do; now != nil {
		*do = nil
		now()
	}
}

func (s *interrupted) Row(ctx context.Context, id uuid.UUID) (endpoint.Row, error) {
	if err := s.fails(); err != nil {
		return endpoint.Row{}, err
	}
	row, err := s.EndpointStore.Row(ctx, id)
	once(&s.afterRow)
	return row, err
}

func (s *interrupted) Rows(ctx context.Context, merchantID string) ([]endpoint.Row, error) {
	rows, err := s.EndpointStore.Rows(ctx, merchantID)
	once(&s.afterRows)
	return rows, err
}

func (s *interrupted) Replace(ctx context.Context, row endpoint.Row) error {
	once(&s.beforeReplace)
	return s.EndpointStore.Replace(ctx, row)
}

func manager(pool *pgxpool.Pool, keys seal.Keyring) *endpoint.Manager {
	return endpoint.NewManager(postgres.NewEndpointStore(pool), keys, endpointtest.Rules())
}

func add(t *testing.T, m *endpoint.Manager, spec endpoint.Spec) uuid.UUID {
	t.Helper()
	added, _, err := m.Add(t.Context(), spec)
	require.NoError(t, err)
	return added.ID
}

func revision(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) int64 {
	t.Helper()
	var n int64
	require.NoError(t, pool.QueryRow(t.Context(), "select revision from delivery.endpoints where id = $1", [16]byte(id)).Scan(&n))
	return n
}

func TestWhatIsAddedIsWhatAnAttemptGets(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	spec := shop()
	added, verifier, err := m.Add(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, endpointtest.Secret, verifier)

	got, err := m.Recipient(t.Context(), added.ID)
	require.NoError(t, err)
	require.Equal(t, delivery.Endpoint{
		ID: added.ID, MerchantID: "m", URL: spec.URL, Enabled: true, Timeout: spec.Timeout, Schedule: spec.Schedule,
		Revision: revision(t, pool, added.ID), Headers: spec.Headers, Secrets: []delivery.Secret{{Value: spec.Secret}},
	}, got)

	require.Equal(t, "https://shop.example/hooks", added.URL)
	require.True(t, added.HasCredentials)
	require.Equal(t, []string{"X-Api-Key", "X-Team"}, added.HeaderNames)
	require.Equal(t, signing.HMAC, added.Secrets[0].Kind)
	require.Equal(t, "test", added.Secrets[0].KeyID)
	for _, text := range []string{"s3cr3t-pass", "t0k3n", "h34der-value", "w3bh00ks", strings.TrimPrefix(endpointtest.Secret, "whsec_")} {
		require.NotContains(t, fmt.Sprintf("%+v", added), text)
	}
	shown, err := m.Get(t.Context(), added.ID)
	require.NoError(t, err)
	require.Equal(t, added, shown)
	all, err := m.List(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, []endpoint.Endpoint{added}, all)
}

func TestDefaultsOfAnEndpoint(t *testing.T) {
	t.Parallel()
	m := endpointtest.NewManager(t, pgtest.New(t).Pool(t, ""))
	added, verifier, err := m.Add(t.Context(), endpoint.Spec{MerchantID: "m", URL: "https://shop.example/"})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(verifier, "whsec_"))
	require.Equal(t, endpoint.Parallel, added.Ordering)
	require.EqualValues(t, 10_000, added.TimeoutMS)
	require.Nil(t, added.Schedule)
	require.True(t, added.Enabled)
	require.False(t, added.HasCredentials)

	_, verifier, err = m.Add(t.Context(), endpoint.Spec{MerchantID: "m", URL: "https://shop.example/", SecretKind: signing.Ed25519})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(verifier, "whpk_"), "the private key is nobody's but ours")
}

func TestNothingSecretIsStoredInPlain(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	spec := shop()
	id := add(t, m, spec)
	private, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	_, err = m.RotateSecret(t.Context(), id, private, "", time.Hour)
	require.NoError(t, err)
	headers := map[string]string{"X-Other": "an0ther-value"}
	_, err = m.Update(t.Context(), id, endpoint.Change{Headers: &headers})
	require.NoError(t, err)

	var stored string
	require.NoError(t, pool.QueryRow(t.Context(), `
		select string_agg(text, chr(10)) from (
			select to_jsonb(e)::text as text from delivery.endpoints e union all select to_jsonb(s)::text from delivery.endpoint_secrets s) t`).Scan(&stored))
	require.Contains(t, stored, "shop.example/hooks", "this is what is stored")
	for _, secret := range []string{
		"jane", "s3cr3t-pass", "t0k3n", "a=b", "h34der-value", "w3bh00ks", "an0ther-value",
		strings.TrimPrefix(endpointtest.Secret, "whsec_"), strings.TrimPrefix(private, "whsk_"), "whsec_", "whsk_",
	} {
		require.NotContains(t, stored, secret)
	}
}

func TestPutWritesNothingWhereNothingChanges(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	id, spec := uuid.New(), shop()
	require.NoError(t, m.Put(t.Context(), id, spec))
	before := revision(t, pool, id)
	require.NoError(t, m.Put(t.Context(), id, spec))
	require.Equal(t, before, revision(t, pool, id))

	for name, alter := range map[string]func(s *endpoint.Spec){
		"url":         func(s *endpoint.Spec) { s.URL = "https://jane:s3cr3t-pass@shop.example/hooks?token=other" },
		"description": func(s *endpoint.Spec) { s.Description = "refunds" },
		"event types": func(s *endpoint.Spec) { s.EventTypes = nil },
		"headers":     func(s *endpoint.Spec) { s.Headers = map[string]string{"X-Api-Key": "other"} },
		"schedule":    func(s *endpoint.Spec) { s.Schedule = nil },
		"ordering":    func(s *endpoint.Spec) { s.Ordering = "" },
		"timeout":     func(s *endpoint.Spec) { s.Timeout = 0 },
		"rate limit":  func(s *endpoint.Spec) { s.RateLimit = 0 },
		"secret":      func(s *endpoint.Spec) { s.Secret = newSecret(t) },
	} {
		alter(&spec)
		before := revision(t, pool, id)
		require.NoError(t, m.Put(t.Context(), id, spec), name)
		require.Greater(t, revision(t, pool, id), before, name)
		got, err := m.Recipient(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, spec.URL, got.URL)
		require.Equal(t, spec.Headers, got.Headers)
		require.Equal(t, spec.Schedule, got.Schedule)
		require.Equal(t, []delivery.Secret{{Value: spec.Secret}}, got.Secrets, "and no other signs")
	}
}

func newSecret(t *testing.T) string {
	t.Helper()
	secret, err := signing.NewSecret(signing.HMAC)
	require.NoError(t, err)
	return secret
}

func TestPutSealsAnewWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	id, lost, found := uuid.New(), seal.NewKey("lost"), seal.NewKey("found")
	require.NoError(t, manager(pool, ring(t, lost)).Put(t.Context(), id, shop()))
	m := manager(pool, ring(t, found))
	require.NoError(t, m.Put(t.Context(), id, shop()))
	got, err := m.Recipient(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, shop().URL, got.URL)
}

func TestUpdateChangesWhatIsGivenAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	id := add(t, m, shop())
	before, err := m.Recipient(t.Context(), id)
	require.NoError(t, err)
	shown, err := m.Get(t.Context(), id)
	require.NoError(t, err)

	description := "refunds"
	updated, err := m.Update(t.Context(), id, endpoint.Change{Description: &description})
	require.NoError(t, err)
	after, err := m.Recipient(t.Context(), id)
	require.NoError(t, err)
	require.Greater(t, after.Revision, before.Revision, "what is cached of it is stale")
	after.Revision = before.Revision
	require.Equal(t, before, after)
	shown.Description, shown.UpdatedAt = description, updated.UpdatedAt
	require.Equal(t, shown, updated)

	url, types, headers, schedule := "http://shop.example/", []string{}, map[string]string{}, delivery.Schedule{}
	ordering, timeout, none := endpoint.Parallel, 3*time.Second, 0
	updated, err = m.Update(t.Context(), id, endpoint.Change{
		URL: &url, EventTypes: &types, Headers: &headers, Schedule: &schedule, Ordering: &ordering, Timeout: &timeout, RateLimit: &none,
	})
	require.NoError(t, err)
	require.False(t, updated.HasCredentials)
	require.Empty(t, updated.HeaderNames)
	require.Nil(t, updated.Schedule, "an empty one is the deployment's")
	after, err = m.Recipient(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, url, after.URL)
	require.Equal(t, timeout, after.Timeout)
	require.Equal(t, 20, updated.RateLimit+shown.RateLimit, "0 is no limit")
	require.Equal(t, before.Secrets, after.Secrets)
	_, err = m.Update(t.Context(), uuid.New(), endpoint.Change{})
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}

func TestWhatIsNotChangedIsNotRefused(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	spec := shop()
	spec.EventTypes, spec.UnknownTypes = []string{"house.burns"}, true
	id := add(t, endpointtest.NewManager(t, pool), spec)
	rules := endpointtest.Rules()
	rules.URL = func(context.Context, string) error { return errors.New("the list of what is allowed has changed") }
	rules.Filter = func(string) error { return errors.New("the catalogue has changed") }
	strict := endpoint.NewManager(postgres.NewEndpointStore(pool), endpointtest.Keys(t), rules)

	description := "still there"
	_, err := strict.Update(t.Context(), id, endpoint.Change{Description: &description})
	require.NoError(t, err)
	url, types := "https://elsewhere.example/", []string{"house.burns"}
	_, err = strict.Update(t.Context(), id, endpoint.Change{URL: &url, EventTypes: &types})
	invalid, ok := errors.AsType[*fault.Error](err)
	require.True(t, ok, err)
	require.Equal(t, map[string]string{"url": "the list of what is allowed has changed", "event_types": "the catalogue has changed"}, invalid.Fields)
}

func TestAMerchantOfBeforeTheRuleKeepsItsEndpoints(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	id := add(t, m, shop())
	_, err := pool.Exec(t.Context(), "update delivery.endpoints set merchant_id = 'Joe''s T-shirts'")
	require.NoError(t, err)
	description := "still there"
	updated, err := m.Update(t.Context(), id, endpoint.Change{Description: &description})
	require.NoError(t, err)
	require.Equal(t, "Joe's T-shirts", updated.MerchantID)
}

func TestAnUpdateThatSomebodyElseOvertookIsAConflict(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	id := add(t, m, shop())
	mine, theirs := "mine", "theirs"
	store := &interrupted{EndpointStore: postgres.NewEndpointStore(pool)}
	store.afterRow = func() {
		_, err := m.Update(t.Context(), id, endpoint.Change{Description: &theirs})
		require.NoError(t, err)
	}
	late := endpoint.NewManager(store, endpointtest.Keys(t), endpointtest.Rules())
	_, err := late.Update(t.Context(), id, endpoint.Change{Description: &mine})
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	shown, err := m.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, theirs, shown.Description)
}

func TestEveryFieldThatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	refuse := errors.New("not that one")
	m := endpoint.NewManager(postgres.NewEndpointStore(pool), endpointtest.Keys(t), endpoint.Rules{
		URL:    func(context.Context, string) error { return refuse },
		Filter: func(string) error { return refuse },
		Header: func(string, string) error { return refuse },
	})
	bad := endpoint.Spec{
		URL: "https://shop.example/", Description: strings.Repeat("d", 1001), EventTypes: []string{"x"}, Headers: map[string]string{"a": "b"},
		Ordering: "total", Timeout: 31 * time.Second, RateLimit: -1, Secret: "whsec_short", SecretKind: "rsa", Wrong: map[string]string{"retry_schedule": "is none"},
	}
	_, _, err := m.Add(t.Context(), bad)
	require.Equal(t, map[string]string{
		"merchant_id": "want 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore", "url": "not that one", "description": "want at most 1000 bytes", "event_types": "not that one",
		"headers": "not that one", "ordering": "want parallel or object", "timeout": "want 1s to 30s", "rate_limit": "want 1 to 1000 webhooks a second, or 0 for no limit",
		"secret": "want whsec_ and the base64 of 24 to 64 bytes", "secret_kind": "want hmac or ed25519", "retry_schedule": "is none",
	}, fieldsOf(t, err))
	require.Error(t, m.Put(t.Context(), uuid.New(), bad))

	all, err := m.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, all, "and nothing is written")
}

func fieldsOf(t *testing.T, err error) map[string]string {
	t.Helper()
	invalid, ok := errors.AsType[*fault.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, fault.Invalid, invalid.Class)
	return invalid.Fields
}

func TestBoundsOfAnEndpoint(t *testing.T) {
	t.Parallel()
	m := endpointtest.NewManager(t, pgtest.New(t).Pool(t, ""))
	numbered := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprint("type.t", i)
		}
		return out
	}
	headers := func(n, bytes int) map[string]string {
		out := map[string]string{}
		for i := range n {
			out[fmt.Sprint("X-", i)] = strings.Repeat("v", bytes)
		}
		return out
	}
	for name, c := range map[string]struct {
		alter func(s *endpoint.Spec)
		wrong string // the field; empty is right
	}{
		"the longest merchant":     {func(s *endpoint.Spec) { s.MerchantID = strings.Repeat("m", 64) }, ""},
		"a longer merchant":        {func(s *endpoint.Spec) { s.MerchantID = strings.Repeat("m", 65) }, "merchant_id"},
		"every kind of character":  {func(s *endpoint.Spec) { s.MerchantID = "Joe.-_9" }, ""},
		"another character":        {func(s *endpoint.Spec) { s.MerchantID = "joe's" }, "merchant_id"},
		"the longest URL":          {func(s *endpoint.Spec) { s.URL = "https://shop.example/" + strings.Repeat("x", 2048-21) }, ""},
		"a longer URL":             {func(s *endpoint.Spec) { s.URL = "https://shop.example/" + strings.Repeat("x", 2048-20) }, "url"},
		"a relative URL":           {func(s *endpoint.Spec) { s.URL = "/hooks" }, "url"},
		"a URL without a host":     {func(s *endpoint.Spec) { s.URL = "https:///hooks" }, "url"},
		"a URL with a fragment":    {func(s *endpoint.Spec) { s.URL = "https://shop.example/#x" }, "url"},
		"the longest description":  {func(s *endpoint.Spec) { s.Description = strings.Repeat("d", 1000) }, ""},
		"most event types":         {func(s *endpoint.Spec) { s.EventTypes = numbered(50) }, ""},
		"more event types":         {func(s *endpoint.Spec) { s.EventTypes = numbered(51) }, "event_types"},
		"an empty event type":      {func(s *endpoint.Spec) { s.EventTypes = []string{""} }, "event_types"},
		"an event type twice":      {func(s *endpoint.Spec) { s.EventTypes = []string{"a", "a"} }, "event_types"},
		"most headers":             {func(s *endpoint.Spec) { s.Headers = headers(20, 204) }, ""},
		"more headers":             {func(s *endpoint.Spec) { s.Headers = headers(21, 1) }, "headers"},
		"too much of headers":      {func(s *endpoint.Spec) { s.Headers = headers(20, 205) }, "headers"},
		"a header in two spelling": {func(s *endpoint.Spec) { s.Headers = map[string]string{"X-A": "1", "x-a": "2"} }, "headers"},
		"the shortest time-out":    {func(s *endpoint.Spec) { s.Timeout = time.Second }, ""},
		"a shorter time-out":       {func(s *endpoint.Spec) { s.Timeout = time.Second - 1 }, "timeout"},
		"the longest time-out":     {func(s *endpoint.Spec) { s.Timeout = 30 * time.Second }, ""},
		"the highest rate limit":   {func(s *endpoint.Spec) { s.RateLimit = 1000 }, ""},
		"a higher rate limit":      {func(s *endpoint.Spec) { s.RateLimit = 1001 }, "rate_limit"},
		"a private key to sign by": {func(s *endpoint.Spec) { s.Secret, _ = signing.NewSecret(signing.Ed25519) }, ""},
		"a public key to sign by":  {func(s *endpoint.Spec) { s.Secret = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=" }, "secret"},
	} {
		spec := endpoint.Spec{MerchantID: "m", URL: "https://shop.example/"}
		c.alter(&spec)
		_, _, err := m.Add(t.Context(), spec)
		if c.wrong == "" {
			require.NoError(t, err, name)
			continue
		}
		require.Len(t, fieldsOf(t, err), 1, name)
		require.Contains(t, fieldsOf(t, err), c.wrong, name)
	}
}

func TestBothSecretsAreLiveWhileOneReplacesTheOther(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	id := add(t, m, shop())
	values := func() []string {
		got, err := m.Recipient(t.Context(), id)
		require.NoError(t, err)
		var out []string
		for _, each := range got.Secrets {
			out = append(out, each.Value)
		}
		return out
	}
	second, err := m.RotateSecret(t.Context(), id, "", "", endpoint.DefaultOverlap)
	require.NoError(t, err)
	require.Equal(t, []string{second, endpointtest.Secret}, values(), "the newest first")
	shown, err := m.Get(t.Context(), id)
	require.NoError(t, err)
	require.Nil(t, shown.Secrets[0].ExpiresAt)
	require.WithinDuration(t, time.Now().Add(24*time.Hour), *shown.Secrets[1].ExpiresAt, time.Minute)

	public, err := m.RotateSecret(t.Context(), id, "", signing.Ed25519, 48*time.Hour)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(public, "whpk_"))
	_, err = m.RotateSecret(t.Context(), id, "", "", 48*time.Hour)
	require.NoError(t, err)
	again, err := m.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, signing.Ed25519, again.Secrets[0].Kind, "the kind stays what it was")
	require.Equal(t, shown.Secrets[1].ExpiresAt, again.Secrets[3].ExpiresAt, "no secret is given more time by a longer overlap")

	_, err = m.RotateSecret(t.Context(), id, "", "", time.Hour)
	require.NoError(t, err)
	_, err = m.RotateSecret(t.Context(), id, "", "", time.Hour)
	require.Equal(t, fault.Conflict, fault.ClassOf(err))
	require.ErrorContains(t, err, "5 secrets are live already")
	last := newSecret(t)
	_, err = m.RotateSecret(t.Context(), id, last, "", 0)
	require.NoError(t, err, "without an overlap there is room")
	require.Equal(t, []string{last}, values())
}

func TestExpiredSecretsSignNothingAndAreDropped(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	for _, drop := range []func(id uuid.UUID) error{
		func(id uuid.UUID) error { _, err := m.RotateSecret(t.Context(), id, "", "", time.Hour); return err },
		func(uuid.UUID) error { _, err := m.Reseal(t.Context(), func(int, int) {}); return err },
	} {
		id := add(t, m, shop())
		_, err := m.RotateSecret(t.Context(), id, newSecret(t), "", time.Hour)
		require.NoError(t, err)
		_, err = pool.Exec(t.Context(), "update delivery.endpoint_secrets set expires_at = clock_timestamp() - interval '1 second' where expires_at is not null")
		require.NoError(t, err)
		got, err := m.Recipient(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, got.Secrets, 1)
		require.NotEqual(t, endpointtest.Secret, got.Secrets[0].Value)
		require.NoError(t, drop(id))
		var expired int
		require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from delivery.endpoint_secrets where expires_at < clock_timestamp()").Scan(&expired))
		require.Zero(t, expired)
	}
}

func TestWhatIsWrongWithARotationIsNamed(t *testing.T) {
	t.Parallel()
	m := endpointtest.NewManager(t, pgtest.New(t).Pool(t, ""))
	id := add(t, m, shop())
	_, err := m.RotateSecret(t.Context(), id, "hunter2", "rsa", 8*24*time.Hour)
	require.Equal(t, map[string]string{
		"overlap": "want 0 to 168h0m0s", "secret_kind": "want hmac or ed25519", "secret": "a signing secret starts with whsec_ or whsk_",
	}, fieldsOf(t, err))
	_, err = m.RotateSecret(t.Context(), id, "", "", -time.Second)
	require.Contains(t, fieldsOf(t, err), "overlap")
	_, err = m.RotateSecret(t.Context(), uuid.New(), "", "", 0)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}

// inClear makes an endpoint one of before anything was sealed.
func inClear(t *testing.T, pool *pgxpool.Pool, id uuid.UUID, url, secret string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), "update delivery.endpoints set url = $2, url_sealed = null where id = $1", [16]byte(id), url)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "update delivery.endpoint_secrets set sealed = $2 where endpoint_id = $1", [16]byte(id), secret)
	require.NoError(t, err)
}

func TestWhatIsInClearIsHiddenAndUsedUntilItIsSealed(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	m := endpointtest.NewManager(t, pool)
	const url = "https://jane:s3cr3t-pass@shop.example/hooks?token=t0k3n"
	for _, sealing := range []func(id uuid.UUID) error{
		func(uuid.UUID) error {
			changed, err := m.Reseal(t.Context(), func(int, int) {})
			require.Equal(t, 1, changed)
			return err
		},
		func(id uuid.UUID) error {
			return m.Put(t.Context(), id, endpoint.Spec{MerchantID: "m", URL: url, Secret: endpointtest.Secret})
		},
	} {
		id := add(t, m, endpoint.Spec{MerchantID: "m", URL: "https://shop.example/"})
		inClear(t, pool, id, url, endpointtest.Secret)
		used, err := m.KeysInUse(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, used[""])
		sealed := used["test"]
		look := func() {
			shown, err := m.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, "https://shop.example/hooks", shown.URL)
			require.True(t, shown.HasCredentials)
			got, err := m.Recipient(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, url, got.URL)
			require.Equal(t, endpointtest.Secret, got.Secrets[0].Value)
		}
		look()
		require.NoError(t, sealing(id))
		look()
		used, err = m.KeysInUse(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int{"test": sealed + 1}, used)
		var stored string
		require.NoError(t, pool.QueryRow(t.Context(), "select url from delivery.endpoints where id = $1", [16]byte(id)).Scan(&stored))
		require.Equal(t, "https://shop.example/hooks", stored)
	}

	// A URL alone may be in clear, too.
	id := add(t, m, endpoint.Spec{MerchantID: "m", URL: "https://shop.example/"})
	_, err := pool.Exec(t.Context(), "update delivery.endpoints set url = $2 where id = $1", [16]byte(id), url)
	require.NoError(t, err)
	used, err := m.KeysInUse(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"test": 3, "": 1}, used)
}

func TestAResealGoesOnPastWhatItCannotOpenAndNamesIt(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	before := manager(pool, ring(t, old))
	var ids []uuid.UUID
	for range 4 {
		ids = append(ids, add(t, before, shop()))
	}
	_, err := pool.Exec(t.Context(), "update delivery.endpoint_secrets set sealed = 'old.Y2hhbmdlZA' where endpoint_id = $1", [16]byte(ids[0]))
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "update delivery.endpoints set headers_sealed = 'old.Y2hhbmdlZA' where id = $1", [16]byte(ids[2]))
	require.NoError(t, err)

	done := 0
	changed, err := manager(pool, ring(t, fresh, old)).Reseal(t.Context(), func(n, _ int) { done = n })
	failed, ok := errors.AsType[*endpoint.ResealError](err)
	require.True(t, ok, err)
	require.Len(t, failed.Failed, 2)
	for i, id := range []uuid.UUID{ids[0], ids[2]} {
		require.Equal(t, id, failed.Failed[i].ID)
		require.Equal(t, "old", failed.Failed[i].KeyID)
		require.NotContains(t, failed.Failed[i].Error(), "Y2hhbmdlZA")
	}
	require.ErrorContains(t, err, "2 endpoints could not be opened")
	require.Equal(t, 4, done)
	require.Equal(t, 3, changed, "the secret of the one whose headers cannot be opened is sealed anew")
	alone := manager(pool, ring(t, fresh))
	for _, id := range []uuid.UUID{ids[1], ids[3]} {
		_, err := alone.Recipient(t.Context(), id)
		require.NoError(t, err)
	}
}

func TestAResealTriesAgainWhereALockWasInTheWay(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	add(t, manager(pool, ring(t, old)), shop())
	away := fault.New(fault.Unavailable, "a deadlock")
	store := &interrupted{EndpointStore: postgres.NewEndpointStore(pool), failing: []error{away, away, away}}
	m := endpoint.NewManager(store, ring(t, fresh, old), endpointtest.Rules())
	changed, err := m.Reseal(t.Context(), func(int, int) {})
	require.NoError(t, err)
	require.Equal(t, 1, changed)
	require.Empty(t, store.failing)

	store.failing = []error{away, away, away, away}
	changed, err = endpoint.NewManager(store, ring(t, old, fresh), endpointtest.Rules()).Reseal(t.Context(), func(int, int) {})
	require.Equal(t, fault.Unavailable, fault.ClassOf(err), "not for ever")
	require.Zero(t, changed)
}

func TestAfterAResealTheNewKeyAloneOpensEverything(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	before := manager(pool, ring(t, old))
	var ids []uuid.UUID
	var want []delivery.Endpoint
	for i := range 3 {
		spec := shop()
		if i == 1 {
			spec.URL = "https://shop.example/" // nothing but its secret is sealed
			spec.Headers = nil
		}
		id := add(t, before, spec)
		if i == 2 {
			_, err := before.RotateSecret(t.Context(), id, "", "", time.Hour)
			require.NoError(t, err)
		}
		each, err := before.Recipient(t.Context(), id)
		require.NoError(t, err)
		ids, want = append(ids, id), append(want, each)
	}
	// Of before secrets were sealed.
	plain := add(t, before, endpoint.Spec{MerchantID: "m", URL: "https://shop.example/"})
	_, err := pool.Exec(t.Context(), "update delivery.endpoint_secrets set sealed = $2 where endpoint_id = $1", [16]byte(plain), endpointtest.Secret)
	require.NoError(t, err)
	used, err := before.KeysInUse(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"old": 3, "": 1}, used)

	both := manager(pool, ring(t, fresh, old))
	var seen []int
	changed, err := both.Reseal(t.Context(), func(done, of int) { seen = append(seen, done, of) })
	require.NoError(t, err)
	require.Equal(t, 4, changed)
	require.Equal(t, []int{1, 4, 2, 4, 3, 4, 4, 4}, seen)
	used, err = both.KeysInUse(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"fresh": 4}, used)

	alone := manager(pool, ring(t, fresh))
	for i, id := range ids {
		got, err := alone.Recipient(t.Context(), id)
		require.NoError(t, err)
		require.Greater(t, got.Revision, want[i].Revision, "what is cached of it is stale")
		got.Revision = want[i].Revision
		require.Equal(t, want[i], got)
	}
	got, err := alone.Recipient(t.Context(), plain)
	require.NoError(t, err)
	require.Equal(t, []delivery.Secret{{Value: endpointtest.Secret}}, got.Secrets)

	revisions := func() (out []int64) {
		for _, id := range append(slices.Clone(ids), plain) {
			out = append(out, revision(t, pool, id))
		}
		return out
	}
	settled := revisions()
	changed, err = both.Reseal(t.Context(), func(int, int) {})
	require.NoError(t, err)
	require.Zero(t, changed)
	require.Equal(t, settled, revisions(), "a second one writes nothing")
}

func TestAKeyThatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	owner := manager(pool, ring(t, seal.NewKey("lost")))
	id := add(t, owner, shop())
	stranger := manager(pool, ring(t, seal.NewKey("other")))
	_, err := stranger.Recipient(t.Context(), id)
	require.ErrorContains(t, err, "key lost: sealed with a key that is not known here")
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	description := "d"
	_, err = stranger.Update(t.Context(), id, endpoint.Change{Description: &description})
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = stranger.Reseal(t.Context(), func(int, int) {})
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	require.NotContains(t, err.Error(), "shop.example")
	shown, err := stranger.Get(t.Context(), id)
	require.NoError(t, err, "what is not secret is shown all the same")
	require.Empty(t, shown.Secrets[0].Kind)
	require.Equal(t, "lost", shown.Secrets[0].KeyID)
	_, err = owner.Recipient(t.Context(), id)
	require.NoError(t, err, "and nothing was broken")

	_, err = manager(pool, seal.Keyring{}).Reseal(t.Context(), func(int, int) {})
	require.ErrorContains(t, err, "there is no key to seal with")
}

func TestAResealAndAnUpdateAtTheSameTimeBothTakeEffect(t *testing.T) {
	t.Parallel()
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	headers, description := map[string]string{"X-Late": "l4te"}, "late"
	// What the reseal has read is stale when it writes: before its first write, or between that of secrets and that of the row.
	for name, at := range map[string]func(s *interrupted, update func()){
		"before its first write":   func(s *interrupted, update func()) { s.afterRows = update },
		"before it writes the row": func(s *interrupted, update func()) { s.beforeReplace = update },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t).Pool(t, "")
			before := manager(pool, ring(t, old))
			id := add(t, before, shop())
			store := &interrupted{EndpointStore: postgres.NewEndpointStore(pool)}
			at(store, func() {
				_, err := manager(pool, ring(t, old, fresh)).Update(t.Context(), id, endpoint.Change{Headers: &headers, Description: &description})
				require.NoError(t, err)
			})
			changed, err := endpoint.NewManager(store, ring(t, fresh, old), endpointtest.Rules()).Reseal(t.Context(), func(int, int) {})
			require.NoError(t, err)
			require.Equal(t, 1, changed)
			got, err := manager(pool, ring(t, fresh)).Recipient(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, headers, got.Headers)
			require.Equal(t, shop().URL, got.URL)
			shown, err := before.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, description, shown.Description)
		})
	}
}

func TestAResealLeavesAloneWhatIsRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	before := manager(pool, ring(t, old))
	id, stays := add(t, before, shop()), add(t, before, shop())
	store := &interrupted{EndpointStore: postgres.NewEndpointStore(pool), afterRows: func() {
		_, err := before.Remove(t.Context(), id)
		require.NoError(t, err)
	}}
	_, err := endpoint.NewManager(store, ring(t, fresh, old), endpointtest.Rules()).Reseal(t.Context(), func(int, int) {})
	require.NoError(t, err)
	_, err = manager(pool, ring(t, fresh)).Recipient(t.Context(), stays)
	require.NoError(t, err)
	_, err = before.Get(t.Context(), id)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}
