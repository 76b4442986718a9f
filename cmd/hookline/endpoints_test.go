package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMistakesAboutEndpointsAreOneLine(t *testing.T) {
	t.Parallel()
	dir, id := filepath.Join(t.TempDir(), "none"), uuid.NewString()
	const noID = "want the id of an endpoint; hookline endpoints list names them"
	for _, c := range []struct {
		want string
		args []string
	}{
		{"want `endpoints` and one of add, list, show, update, disable, enable, remove, rotate-secret, test", []string{"endpoints"}},
		{"want `endpoints` and one of", []string{"endpoints", "delete"}},
		{"--merchant and --url are required", []string{"endpoints", "add", "--url", "https://shop.example/"}},
		{noID, []string{"endpoints", "show"}},
		{noID, []string{"endpoints", "update", "--url", "https://shop.example/"}},
		{noID, []string{"endpoints", "disable"}},
		{noID, []string{"endpoints", "enable"}},
		{noID, []string{"endpoints", "remove"}},
		{noID, []string{"endpoints", "rotate-secret"}},
		{noID, []string{"endpoints", "test"}},
		{`"x" is not the id of an endpoint`, []string{"endpoints", "show", "x"}},
		{"is not the id of an endpoint", []string{"endpoints", "remove", id[:8]}},
		{"is not the id of an endpoint", []string{"endpoints", "remove", strings.ReplaceAll(id, "-", "")}},
		{"unexpected argument", []string{"endpoints", "remove", id, id}},
		{"unexpected argument", []string{"endpoints", "list", "x"}},
		{"want a flag that says what to change", []string{"endpoints", "update", id, "--json"}},
		{"want either --header or --no-headers", []string{"endpoints", "update", id, "--header", "A: b", "--no-headers"}},
		{`--type: unknown event type "payment.suceeded": did you mean "payment.succeeded"?`, []string{"endpoints", "test", id, "--type", "payment.suceeded"}},
		{`--type: unknown event type "house.burns"`, []string{"endpoints", "test", id, "--type", "house.burns"}},
		{"flag -overlap", []string{"endpoints", "rotate-secret", id, "--overlap", "long"}},
		{"want `keys` and one of new, list, rotate", []string{"keys"}},
		{`"A" is not the id of a key`, []string{"keys", "new", "A"}},
		{`"a,b" is not the id of a key`, []string{"keys", "new", "a,b"}},
		{"unexpected argument", []string{"keys", "rotate", "k1"}},
	} {
		got := hookline(t, c.args...)
		require.Equal(t, exitUsage, got.code, c.args)
		require.Contains(t, got.stderr, c.want, c.args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Empty(t, got.stdout)
	}
	for _, args := range [][]string{
		{"endpoints", "add", "--merchant", "m", "--url", "https://shop.example/"},
		{"endpoints", "list"},
		{"endpoints", "show", id},
		{"endpoints", "update", id, "--url", "https://shop.example/"},
		{"endpoints", "disable", id},
		{"endpoints", "enable", id},
		{"endpoints", "remove", id},
		{"endpoints", "rotate-secret", id},
		{"endpoints", "test", id},
		{"keys", "list"},
		{"keys", "rotate"},
	} {
		got := hookline(t, append(args, "--dir", dir)...)
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, "the stack does not run: hookline up starts it", args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.NoDirExists(t, dir)
	}
}

func TestEveryVerbOfEndpointsAndKeysExplainsItself(t *testing.T) {
	t.Parallel()
	for of, verbs := range map[string][]verb{"endpoints": endpointVerbs, "keys": keyVerbs} {
		for _, v := range verbs {
			got := hookline(t, of, v.name, "--help")
			require.Equal(t, exitOK, got.code, v.name)
			require.Contains(t, got.stdout, "Usage: hookline "+of+" "+v.name)
			require.Contains(t, hookline(t, of, "--help").stdout, "hookline "+of+" "+v.name)
		}
	}
}

// outside makes the verbs of this test work on a ledger of its own, and lets webhooks go to this machine. Such a test runs
// alone, as the environment is everybody's.
func outside(t *testing.T) (pgtest.Database, *postgres.Ledger) {
	t.Helper()
	db := pgtest.New(t)
	key := seal.NewKey("k1")
	t.Setenv(envDatabaseURL, db.DSN())
	t.Setenv("ENCRYPTION_KEYS", key)
	t.Setenv("ENDPOINT_ALLOW", "127.0.0.1")
	var keys seal.Keyring
	require.NoError(t, keys.UnmarshalText([]byte(key)))
	return db, postgres.NewLedger(db.Pool(t, migrations.RoleWorker), postgres.LedgerOptions{Keys: keys})
}

// did runs a verb that succeeds and decodes the last line of what it prints.
func did[T any](t *testing.T, args ...string) T {
	t.Helper()
	got := hookline(t, append(args, "--json")...)
	require.Equal(t, exitOK, got.code, got.stderr)
	return decodeLast[T](t, got)
}

func decodeLast[T any](t *testing.T, got result) T {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	var out T
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &out), got.stdout)
	return out
}

type shownEndpoint struct {
	endpoint.Endpoint

	Secret     string
	Parked     int64
	Deliveries []struct {
		State      delivery.State
		LastCause  delivery.Cause `json:"last_cause"`
		Deliveries int
		What, Do   string
	}
}

func TestEveryPartOfAnEndpointCanBeSetShownAndChanged(t *testing.T) {
	outside(t)
	added := did[shownEndpoint](t, "endpoints", "add", "--merchant", "m", "--url", "http://jane:pw@127.0.0.1:9/hooks?t=1", "--description", "orders",
		"--events", "payment.*, invoice.paid", "--header", "X-Api-Key: a:b ", "--header", "X-Team:c", "--schedule", "5s,2h", "--ordering", "object",
		"--timeout", "3s", "--rate-limit", "50", "--secret-kind", "ed25519")
	require.True(t, strings.HasPrefix(added.Secret, "whpk_"))
	require.Equal(t, "http://127.0.0.1:9/hooks", added.URL)
	require.Equal(t, []string{"payment.*", "invoice.paid"}, added.EventTypes)
	require.Equal(t, delivery.Schedule{5 * time.Second, 2 * time.Hour}, added.Schedule)
	id := added.ID.String()

	shown := hookline(t, "endpoints", "show", id)
	require.Equal(t, exitOK, shown.code, shown.stderr)
	for _, want := range []string{
		id, "orders", "http://127.0.0.1:9/hooks (its user info and query are not shown)", "payment.*, invoice.paid", "X-Api-Key, X-Team", "5s,2h0m0s", "object",
		"3s", "50 a second, and at most 63 in any second", "ed25519", "sealed with k1", "enabled      yes",
	} {
		require.Contains(t, shown.stdout, want)
	}
	for _, secret := range []string{"jane", "pw@", "t=1", "a:b", "whsk_"} {
		require.NotContains(t, shown.stdout, secret)
	}
	opened, err := openEndpoints(t.Context(), "")
	require.NoError(t, err)
	defer opened.Close()
	to, err := opened.Recipient(t.Context(), added.ID)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"X-Api-Key": "a:b", "X-Team": "c"}, to.Headers)

	updated := did[shownEndpoint](t, "endpoints", "update", id, "--description", "refunds")
	added.Description, added.UpdatedAt, added.Secret = "refunds", updated.UpdatedAt, ""
	require.Equal(t, added, updated, "what is not given stays")
	updated = did[shownEndpoint](t, "endpoints", "update", id, "--events", "", "--header", "X-Other: d", "--schedule", "minutes", "--ordering", "parallel", "--timeout", "10s",
		"--rate-limit", "none")
	require.Empty(t, updated.EventTypes)
	require.Equal(t, []string{"X-Other"}, updated.HeaderNames, "all headers are replaced")
	require.Equal(t, delivery.Presets()["minutes"], updated.Schedule)
	require.Equal(t, endpoint.Parallel, updated.Ordering)
	require.Zero(t, updated.RateLimit)
	require.Contains(t, hookline(t, "endpoints", "show", id).stdout, "minutes: 1m0s,2m0s,4m0s")
	plain := hookline(t, "endpoints", "update", id, "--schedule", "default", "--no-headers", "--url", "http://127.0.0.1:9/")
	require.Equal(t, exitOK, plain.code, plain.stderr)
	require.Contains(t, plain.stdout, "the deployment's schedule")
	require.Contains(t, plain.stdout, "none of its own")
	require.Equal(t, "webhooks may go to 127.0.0.1, by http and on any port too\n", plain.stderr, "what is open is said")

	listed := did[struct{ Endpoints []endpoint.Endpoint }](t, "endpoints", "list", "--merchant", "m")
	require.Len(t, listed.Endpoints, 1)
	require.Contains(t, hookline(t, "endpoints", "list").stdout, id+"  m  enabled  http://127.0.0.1:9/  refunds")
	require.JSONEq(t, `{"endpoints":[]}`, hookline(t, "endpoints", "list", "--merchant", "n", "--json").stdout)
}

func TestEveryWrongFlagOfAnEndpointIsNamed(t *testing.T) {
	outside(t)
	wrong := []string{
		"--url", "http://10.0.0.1/hooks", "--events", "payment.suceeded", "--header", "no colon, s3cret", "--schedule", "5s,soon", "--ordering", "total", "--timeout", "soon",
		"--rate-limit", "fast",
	}
	want := []string{
		`--events: unknown event type "payment.suceeded": did you mean "payment.succeeded"?`,
		"--header: header 1 has no colon: want 'Name: value'",
		"--ordering: want parallel or object",
		`--schedule: delay 2, "soon", is not a duration such as 30s, 5m or 2h; want a list of those, or one of day, minutes, standard`,
		`--rate-limit: "fast" is neither a number of webhooks a second nor none`,
		`--timeout: "soon" is not a duration such as 10s`,
		"--url: blocked (address_private): the host's address is private",
	}
	got := hookline(t, append([]string{"endpoints", "add", "--merchant", strings.Repeat("m", 256), "--secret", "hunter2"}, wrong...)...)
	require.Equal(t, exitUsage, got.code)
	require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
	for _, each := range append(want, "--merchant: want 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore", "--secret: a signing secret starts with whsec_ or whsk_") {
		require.Contains(t, got.stderr, each)
	}
	require.NotContains(t, got.stderr, "s3cret")
	require.NotContains(t, got.stderr, "hunter2")

	id := did[shownEndpoint](t, "endpoints", "add", "--merchant", "m", "--url", "http://127.0.0.1:9/").ID.String()
	got = hookline(t, append([]string{"endpoints", "update", id}, wrong...)...)
	require.Equal(t, exitUsage, got.code)
	for _, each := range want {
		require.Contains(t, got.stderr, each)
	}
	for flag, value := range map[string]string{"--timeout": "31s", "--rate-limit": "1001", "--header": "Webhook-Id: x", "--events": "*", "--url": "http://shop.example:9/", "--schedule": ""} {
		got = hookline(t, "endpoints", "update", id, flag, value)
		require.Equal(t, exitUsage, got.code, flag)
		require.Contains(t, got.stderr, "hookline endpoints: "+flag+": ", flag)
	}
	got = hookline(t, "endpoints", "update", id, "--header", "A: 1", "--header", "A: 2")
	require.Contains(t, got.stderr, `--header: "A" is there twice`)
	got = hookline(t, "endpoints", "rotate-secret", id, "--overlap", "169h", "--secret-kind", "rsa", "--secret", "hunter2")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "--overlap: want 0 to 168h0m0s; --secret-kind: want hmac or ed25519; --secret: a signing secret starts with whsec_ or whsk_")
	// A type that nobody knows may be meant.
	require.Equal(t, []string{"house.burns"}, did[shownEndpoint](t, "endpoints", "update", id, "--events", "house.burns", "--unknown-types").EventTypes)

	for _, verb := range []string{"show", "disable", "enable", "remove", "rotate-secret", "test"} {
		got := hookline(t, "endpoints", verb, uuid.NewString())
		require.Equal(t, exitFailed, got.code, verb)
		require.Contains(t, got.stderr, "there is no endpoint", verb)
	}
}

// stdin makes text the standard input of a test that runs alone.
func stdin(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stdin")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	opened, err := os.Open(file)
	require.NoError(t, err)
	before := os.Stdin
	os.Stdin = opened
	t.Cleanup(func() {
		os.Stdin = before
		opened.Close()
	})
}

func TestWhatIsSecretNeedNotBeOnTheCommandLine(t *testing.T) {
	outside(t)
	secret, err := signing.NewSecret(signing.HMAC)
	require.NoError(t, err)
	headers := filepath.Join(t.TempDir(), "headers")
	require.NoError(t, os.WriteFile(headers, []byte("X-Api-Key: k3y\r\n\nX-Team: c"), 0o600))
	add := []string{"endpoints", "add", "--merchant", "m"}
	stdin(t, secret+"\nanother line")
	added := did[shownEndpoint](t, append(add, "--url", "http://127.0.0.1:9/", "--secret", "-", "--header", "@"+headers, "--header", "X-Other: d")...)
	require.Equal(t, secret, added.Secret)
	id := added.ID.String()
	opened, err := openEndpoints(t.Context(), "")
	require.NoError(t, err)
	defer opened.Close()
	recipient := func() delivery.Endpoint {
		to, err := opened.Recipient(t.Context(), added.ID)
		require.NoError(t, err)
		return to
	}
	require.Equal(t, map[string]string{"X-Api-Key": "k3y", "X-Team": "c", "X-Other": "d"}, recipient().Headers)

	stdin(t, "http://jane:pw@127.0.0.1:9/?t=1") // without the end of the line
	did[shownEndpoint](t, "endpoints", "update", id, "--url", "-")
	require.Equal(t, "http://jane:pw@127.0.0.1:9/?t=1", recipient().URL)
	next, err := signing.NewSecret(signing.HMAC)
	require.NoError(t, err)
	stdin(t, next+"\n")
	require.Equal(t, next, did[shownEndpoint](t, "endpoints", "rotate-secret", id, "--secret", "-", "--overlap", "0").Secret)
	require.Equal(t, []delivery.Secret{{Value: next}}, recipient().Secrets)

	for want, args := range map[string][]string{
		"--secret: standard input begins with an empty line":                                    append(add, "--url", "http://127.0.0.1:9/", "--secret", "-"),
		"--secret and --url: only one can be read from standard input":                          append(add, "--url", "-", "--secret", "-"),
		"--header: open " + headers + "s: no such file or directory":                            {"endpoints", "update", id, "--header", "@" + headers + "s"},
		"--url: standard input begins with an empty line":                                       {"endpoints", "update", id, "--url", "-"},
		"--header: header 3 has no colon: want 'Name: value'":                                   {"endpoints", "update", id, "--header", "@" + headers, "--header", "X"},
		"--secret: a signing secret starts with whsec_ or whsk_; see hookline endpoints --help": append(add, "--url", "http://127.0.0.1:9/", "--secret", "hunter2"),
	} {
		stdin(t, "\n"+secret)
		got := hookline(t, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want)
	}
}

func TestWhoeverIsAskedForASecretCanInterrupt(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	never, end := io.Pipe()
	defer end.Close()
	interrupt()
	secret := "-"
	require.ErrorIs(t, readSecretly(ctx, never, map[string]*string{"--secret": &secret}), context.Canceled)
}

func TestParkedDeliveriesAreSentOrDropped(t *testing.T) {
	db, ledger := outside(t)
	id := did[shownEndpoint](t, "endpoints", "add", "--merchant", "m", "--url", "http://127.0.0.1:9/").ID.String()
	park := func(n int) {
		require.Contains(t, hookline(t, "endpoints", "disable", id).stdout, "is disabled")
		refs := make([]event.Ref, n)
		for i := range refs {
			refs[i] = event.Ref{ID: uuid.Must(uuid.NewV7()), TxID: 7, Type: "payment.failed", ObjectType: "payment", ObjectID: fmt.Sprint(i), ObjectVersion: 1, MerchantID: "m"}
		}
		_, _, err := ledger.Plan(t.Context(), "inv", "inhouse", refs)
		require.NoError(t, err)
	}
	park(2)
	shown := did[shownEndpoint](t, "endpoints", "show", id)
	require.False(t, shown.Enabled)
	require.Equal(t, endpoint.DisabledByOperator, shown.DisabledReason)
	require.Len(t, shown.Deliveries, 1)
	require.Equal(t, delivery.Parked, shown.Deliveries[0].State)
	require.Equal(t, 2, shown.Deliveries[0].Deliveries)
	require.Contains(t, hookline(t, "endpoints", "show", id).stdout, "by an operator")
	require.Contains(t, hookline(t, "endpoints", "show", id).stdout, "closed, since ")
	require.Contains(t, hookline(t, "endpoints", "list").stdout, "  disabled  ")
	spare := func(circuit, next string) {
		_, err := db.Pool(t, "").Exec(t.Context(), "update delivery.endpoints set "+circuit)
		require.NoError(t, err)
		_, err = db.Pool(t, "").Exec(t.Context(), "delete from delivery.drains; insert into delivery.drains (endpoint_id, next_at, at_once, per_second) select id, "+next+" from delivery.endpoints")
		require.NoError(t, err)
	}
	spare("circuit = 'open', circuit_opens = 2, probe_at = '2099-01-02T03:04:05Z'", "probe_at, 0, 0")
	text := hookline(t, "endpoints", "show", id).stdout
	require.Contains(t, text, "one delivery tries it at 2099-01-02T")
	require.Contains(t, text, "opened 2 times since it was well")
	spare("circuit = 'closed', probe_at = null", "now() + interval '1 second', 8, 0.5")
	require.Contains(t, hookline(t, "endpoints", "show", id).stdout, "2 wait, 0.5 a second, done in about 4s")
	spare("circuit_opens = 0", "null, 0, 0") // it has ended
	require.Contains(t, hookline(t, "endpoints", "enable", id).stdout, "2 parked deliveries are sent, the oldest first")
	drainable, err := ledger.Drainable(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{uuid.MustParse(id)}, drainable)
	taken, err := ledger.TakeParked(t.Context(), "drainer", drainable[0], 10)
	require.NoError(t, err)
	require.Len(t, taken, 2)

	park(3)
	require.Contains(t, hookline(t, "endpoints", "enable", id, "--drop-parked").stdout, "3 parked deliveries were dropped")
	shown = did[shownEndpoint](t, "endpoints", "show", id)
	require.Equal(t, delivery.CauseDropped, shown.Deliveries[0].LastCause)
	require.Equal(t, delivery.CauseDropped.Explain().What, shown.Deliveries[0].What)
	require.Contains(t, hookline(t, "endpoints", "show", id).stdout, "3 dead, dropped: "+delivery.CauseDropped.Explain().What)

	park(1)
	require.EqualValues(t, 1, did[shownEndpoint](t, "endpoints", "enable", id).Parked)
	park(1)
	require.Contains(t, hookline(t, "endpoints", "remove", id).stdout, "is removed; 2 parked deliveries ended with it")
	var left int
	require.NoError(t, db.Pool(t, "").QueryRow(t.Context(), "select count(*) from delivery.endpoint_secrets").Scan(&left))
	require.Zero(t, left)
}

// merchant verifies with what it was told, and answers what it is told to.
type merchant struct {
	status   int
	header   http.Header
	body     string
	verifier string

	requests []*http.Request
	bodies   []string
}

func (m *merchant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	m.requests, m.bodies = append(m.requests, r), append(m.bodies, string(body))
	verifier, parsing := signing.ParseVerifier(m.verifier)
	if err != nil || parsing != nil || verifier.Verify(r.Header, body, time.Now()) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for name, values := range m.header {
		w.Header()[name] = values
	}
	w.WriteHeader(m.status)
	io.WriteString(w, m.body)
}

func TestAnEndpointIsTriedAndTheExchangePrinted(t *testing.T) {
	outside(t)
	shop := &merchant{status: http.StatusOK, header: http.Header{"Content-Type": {"text/plain"}}, body: "thanks\x1b[31m\n"}
	server := httptest.NewServer(shop)
	defer server.Close()
	url := strings.Replace(server.URL, "http://", "http://jane:pa55@", 1) + "/hooks?token=t0k"
	added := did[shownEndpoint](t, "endpoints", "add", "--merchant", "acme", "--url", url, "--header", "X-Api-Key: k3y", "--events", "invoice.*")
	shop.verifier = added.Secret
	id := added.ID.String()

	got := hookline(t, "endpoints", "test", id, "--type", "payment.refunded")
	require.Equal(t, exitOK, got.code, got.stderr)
	sent := shop.requests[0]
	require.Equal(t, "token=t0k", sent.URL.RawQuery)
	require.Equal(t, "k3y", sent.Header.Get("X-Api-Key"))
	for _, want := range []string{
		"POST " + server.URL + "/hooks\n", "webhook-id: " + sent.Header.Get("Webhook-Id"), "webhook-signature: " + sent.Header.Get("Webhook-Signature"),
		"webhook-timestamp: " + sent.Header.Get("Webhook-Timestamp"), "webhook-attempt: 1", "x-api-key: [hidden]", "authorization: [hidden]",
		shop.bodies[0], `"event_type":"payment.refunded"`, `"merchant_id":"acme"`, "200 OK after ", "content-type: text/plain", "thanks\ufffd[31m\n",
		"ok: the endpoint accepted the webhook",
	} {
		require.Contains(t, got.stdout, want)
	}
	for _, secret := range []string{"k3y", "t0k", "jane", "pa55", "Basic", "\x1b"} {
		require.NotContains(t, got.stdout, secret)
	}

	done := did[exchange](t, "endpoints", "test", id)
	require.Equal(t, "invoice.created", done.EventType, "one that it gets")
	require.Equal(t, 200, done.Response.StatusCode)
	require.Equal(t, []string{"authorization", "x-api-key"}, done.Request.HiddenHeaders)
	require.Equal(t, shop.bodies[1], string(done.Request.Body))

	// While a secret rotates, both verify; and a merchant that does not is told what to do.
	fresh := did[shownEndpoint](t, "endpoints", "rotate-secret", id)
	require.Equal(t, exitOK, hookline(t, "endpoints", "test", id).code, "the old one")
	shop.verifier = fresh.Secret
	require.Equal(t, exitOK, hookline(t, "endpoints", "test", id).code, "the new one")
	last := hookline(t, "endpoints", "rotate-secret", id, "--overlap", "0", "--secret-kind", "ed25519")
	require.Equal(t, exitOK, last.code, last.stderr)
	require.Contains(t, last.stdout, "public key to verify with: whpk_")
	got = hookline(t, "endpoints", "test", id)
	require.Equal(t, exitFailed, got.code)
	require.Equal(t, "hookline endpoints: the endpoint did not accept the webhook: unauthorized\n", got.stderr)
	require.Contains(t, got.stdout, "401 Unauthorized after ")
	require.Contains(t, got.stdout, "to do: "+delivery.CauseUnauthorized.Explain().Do)
	shop.verifier = strings.TrimSpace(strings.TrimPrefix(last.stdout, "public key to verify with: "))
	shop.status, shop.header = http.StatusServiceUnavailable, http.Header{"Retry-After": {"17"}}
	got = hookline(t, "endpoints", "test", id, "--json")
	require.Equal(t, exitFailed, got.code)
	done = decodeLast[exchange](t, got)
	require.Equal(t, delivery.CauseServerError, done.Cause)
	require.EqualValues(t, 17, done.Response.RetryAfterS)

	shop.status = http.StatusGone
	got = hookline(t, "endpoints", "test", id)
	require.Contains(t, got.stdout, "gone: the endpoint answered 410, which disables it when a delivery gets it")
	require.True(t, did[shownEndpoint](t, "endpoints", "show", id).Enabled, "a test disables nothing")

	// Also one that is disabled can be tried, and where none may go nothing goes.
	require.Equal(t, exitOK, hookline(t, "endpoints", "disable", id).code)
	shop.status = http.StatusNoContent
	require.Equal(t, exitOK, hookline(t, "endpoints", "test", id).code)
	seen := len(shop.requests)
	t.Setenv("ENDPOINT_ALLOW", "")
	got = hookline(t, "endpoints", "test", id)
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stdout, "no answer after ")
	require.Contains(t, got.stdout, "reason: the host's address is a loopback address")
	require.Len(t, shop.requests, seen)
}
