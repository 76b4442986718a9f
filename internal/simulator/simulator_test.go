package simulator_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/simulator"
)

const (
	secret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	stranger  = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	body      = `{"event_id":"e1","event_type":"payment.refunded","object_version":2,"occurred_at":"2026-02-23T12:00:00.100000Z",
		"payment":{"id":"p1","merchant_id":"joes","status":"refunded"},"snapshot":{"id":"p1","merchant_id":"joes"}}`
)

// merchant is a simulator behind its routes.
type merchant struct {
	*simulator.Simulator
	http     http.Handler
	registry *prometheus.Registry
}

func newMerchant(t *testing.T, receipts string, secrets ...string) merchant {
	t.Helper()
	if len(secrets) == 0 {
		secrets = []string{secret}
	}
	registry := prometheus.NewRegistry()
	s, err := simulator.New(t.Context(), simulator.Options{
		Secrets: secrets, ReceiptsFile: receipts, Log: slog.New(slog.DiscardHandler), Registry: registry,
	})
	require.NoError(t, err)
	r := chi.NewRouter()
	s.Routes(r)
	return merchant{Simulator: s, http: r, registry: registry}
}

func signed(t *testing.T, id, key string, at time.Time, content string) *http.Request {
	t.Helper()
	webhook, err := svix.NewWebhook(key)
	require.NoError(t, err)
	signature, err := webhook.Sign(id, at, []byte(content))
	require.NoError(t, err)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/webhooks", strings.NewReader(content))
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	return req
}

func good(t *testing.T, id string) *http.Request {
	t.Helper()
	return signed(t, id, secret, time.Now(), body)
}

func (m merchant) answer(req *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	m.http.ServeHTTP(w, req)
	return w
}

func (m merchant) send(t *testing.T, id string) int {
	t.Helper()
	return m.answer(good(t, id)).Code
}

func (m merchant) ask(t *testing.T, method, path, content string, answer any) int {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(content))
	req.Header.Set("Content-Type", "application/json")
	w := m.answer(req)
	if answer != nil {
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), answer), w.Body.String())
	}
	return w.Code
}

func (m merchant) stats(t *testing.T) simulator.Stats {
	t.Helper()
	var s simulator.Stats
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodGet, "/stats", "", &s))
	return s
}

func (m merchant) behave(t *testing.T, behaviour string) {
	t.Helper()
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodPut, "/behaviour", behaviour, nil))
}

// counted returns the metric, by outcome.
func (m merchant) counted(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	require.Equal(t, "hookline_merchant_webhooks_total", families[0].GetName())
	counts := map[string]float64{}
	for _, metric := range families[0].GetMetric() {
		counts[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
	}
	return counts
}

func TestSignature(t *testing.T) {
	t.Parallel()
	now := time.Now()
	by := func(key string, at time.Time, content string, changes ...func(r *http.Request)) *http.Request {
		req := signed(t, "e1", key, at, content)
		for _, change := range changes {
			change(req)
		}
		return req
	}
	without := func(header string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(header) } }
	with := func(header, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(header, value) }
	}
	signature := by(secret, now, body).Header.Get("Webhook-Signature")
	for name, c := range map[string]struct {
		request *http.Request
		status  int
	}{
		"good":               {by(secret, now, body), 200},
		"by the new secret":  {by(newSecret, now, body), 200},
		"four minutes old":   {by(secret, now.Add(-4*time.Minute), body), 200},
		"not our document":   {by(secret, now, "hello"), 200},
		"several signatures": {by(secret, now, body, with("Webhook-Signature", "v1,AAAA v2,x "+signature)), 200},
		"by a stranger":      {by(stranger, now, body), 401},
		"six minutes old":    {by(secret, now.Add(-6*time.Minute), body), 401},
		"of tomorrow":        {by(secret, now.Add(24*time.Hour), body), 401},
		"of another id":      {by(secret, now, body, with("Webhook-Id", "e2")), 401},
		"of another body":    {by(secret, now, "{}", with("Webhook-Signature", signature)), 401},
		"not a signature":    {by(secret, now, body, with("Webhook-Signature", "v1")), 401},
		"without timestamp":  {by(secret, now, body, without("Webhook-Timestamp")), 400},
		"without signature":  {by(secret, now, body, without("Webhook-Signature")), 400},
		"without id":         {by(secret, now, body, without("Webhook-Id")), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMerchant(t, "", secret, newSecret)
			w := m.answer(c.request)
			require.Equal(t, c.status, w.Code, w.Body.String())
			s := m.stats(t)
			if c.status == http.StatusOK {
				require.Equal(t, 1, s.Total)
				return
			}
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			require.Equal(t, 1, s.InvalidSignatures)
			require.Zero(t, s.Total)
		})
	}
}

func TestIDIsTheOneThatWasSigned(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	req := good(t, "signed")
	for _, name := range []string{"Id", "Timestamp", "Signature"} {
		req.Header.Set("Svix-"+name, req.Header.Get("Webhook-"+name))
	}
	req.Header.Set("Webhook-Id", "not-signed")
	require.Equal(t, http.StatusOK, m.answer(req).Code)
	latest := m.stats(t).Latest[0]
	require.Equal(t, []string{"signed", "e1"}, []string{latest.SvixID, latest.ID})
}

// bySvix gives the webhook Svix's own headers instead of the standard ones.
func bySvix(req *http.Request) *http.Request {
	for _, name := range []string{"Id", "Timestamp", "Signature"} {
		req.Header.Set("Svix-"+name, req.Header.Get("Webhook-"+name))
		req.Header.Del("Webhook-" + name)
	}
	return req
}

func TestOfSvixsMessagesTheEventTellsWhichAreTheSame(t *testing.T) {
	t.Parallel()
	receipts := filepath.Join(t.TempDir(), "receipts.jsonl")
	m := newMerchant(t, receipts)
	require.Equal(t, http.StatusOK, m.answer(bySvix(good(t, "msg_1"))).Code)
	require.Equal(t, http.StatusOK, m.answer(bySvix(good(t, "msg_2"))).Code, "a message that stands in for the first")
	require.Equal(t, http.StatusOK, m.send(t, "e1"), "the same event by another way")
	require.Equal(t, http.StatusOK, m.answer(bySvix(signed(t, "msg_3", secret, time.Now(), `{"x":1}`))).Code)
	require.Equal(t, http.StatusUnauthorized, m.answer(bySvix(signed(t, "msg_4", stranger, time.Now(), body))).Code)
	partly := good(t, "e5")
	partly.Header.Set("Svix-Id", "msg_5") // without the others it says nothing
	require.Equal(t, http.StatusOK, m.answer(partly).Code)

	s := m.stats(t)
	require.Equal(t, []int{5, 3, 2, 1}, []int{s.Total, s.Unique, s.Duplicates, s.InvalidSignatures})
	ids := make([][2]string, 0, len(s.Latest))
	for _, r := range s.Latest {
		ids = append(ids, [2]string{r.ID, r.SvixID})
	}
	require.Equal(t, [][2]string{{"e5", ""}, {"msg_3", "msg_3"}, {"e1", ""}, {"e1", "msg_2"}, {"e1", "msg_1"}}, ids)
	var seen simulator.SeenAnswer
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodPost, "/seen", `{"ids":["e1","msg_1"]}`, &seen))
	require.Len(t, seen.Seen, 1)
	require.Equal(t, 3, seen.Seen[0].Accepted)
	require.NoError(t, m.Close())
	require.Empty(t, cmp.Diff(s, newMerchant(t, receipts).stats(t)), "the receipts hold all of it")
}

func TestAMerchantWhoKnowsNoSecretVerifiesByThePublicKey(t *testing.T) {
	t.Parallel()
	text, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	private, err := signing.ParseSecret(text)
	require.NoError(t, err)
	other, err := signing.ParseSecret(stranger)
	require.NoError(t, err)
	m := newMerchant(t, "", secret, private.Verifier())
	of := func(secrets ...signing.Secret) int {
		req := good(t, "e1")
		req.Header.Set("Webhook-Signature", signing.Header(secrets, "e1", time.Now(), []byte(body)))
		return m.answer(req).Code
	}
	require.Equal(t, 200, of(private))
	require.Equal(t, 200, of(other, private))
	require.Equal(t, 401, of(other))
	require.Equal(t, 200, m.send(t, "e1"), "by the secret that it knows as well")
}

func TestSecretsAreCheckedAndNotTold(t *testing.T) {
	t.Parallel()
	require.Error(t, simulator.CheckSecrets(nil))
	private, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	for _, wrong := range []string{"whsec_!hunter2!", "whpk_!hunter2!", private, strings.TrimPrefix(secret, "whsec_"), ""} {
		err := simulator.CheckSecrets([]string{secret, wrong})
		require.ErrorContains(t, err, "secret 2 of 2")
		require.NotContains(t, err.Error(), "hunter2")
		if len(wrong) > 10 {
			require.NotContains(t, err.Error(), wrong[6:])
		}
	}
}

func TestStatsTellFirstFromRepeated(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	for _, id := range []string{"e1", "e2", "e1", "e3"} {
		require.Equal(t, http.StatusOK, m.send(t, id))
	}
	s := m.stats(t)
	require.Equal(t, []int{4, 3, 1, 0, 0}, []int{s.Total, s.Unique, s.Duplicates, s.InvalidSignatures, s.FailedOnPurpose})
	ids := make([]string, 0, len(s.Latest))
	for _, r := range s.Latest {
		ids = append(ids, r.ID)
	}
	require.Equal(t, []string{"e3", "e1", "e2", "e1"}, ids)

	sum := sha256.Sum256([]byte(body))
	occurred := time.Date(2026, 2, 23, 12, 0, 0, 100_000_000, time.UTC)
	latest := s.Latest[0]
	latency := float64(latest.ReceivedAt.Sub(occurred).Microseconds()) / 1000
	require.Empty(t, cmp.Diff(simulator.Receipt{
		ID: "e3", Outcome: simulator.Accepted, Status: 200, Path: "/webhooks", BodySHA256: hex.EncodeToString(sum[:]),
		EventType: "payment.refunded", ObjectID: "p1", ObjectVersion: 2, LatencyMS: &latency,
	}, latest, cmpopts.IgnoreFields(simulator.Receipt{}, "ReceivedAt")))
	require.WithinDuration(t, time.Now(), latest.ReceivedAt, time.Minute)

	require.Equal(t, map[string]float64{"accepted": 3, "duplicate": 1}, m.counted(t))
}

func TestStatsKeepAHundred(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	for i := range 105 {
		m.send(t, "e"+strconv.Itoa(i))
	}
	var s simulator.Stats
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodGet, "/stats?latest=100", "", &s))
	require.Len(t, s.Latest, 100)
	require.Equal(t, "e104", s.Latest[0].ID)
	require.Equal(t, "e5", s.Latest[99].ID)
	require.Equal(t, http.StatusUnprocessableEntity, m.ask(t, http.MethodGet, "/stats?latest=101", "", nil))
	require.Equal(t, http.StatusUnprocessableEntity, m.ask(t, http.MethodGet, "/stats?latest=x", "", nil))
}

func TestSeenTellsHowOftenAndWhenFirst(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	for _, id := range []string{"e1", "e2", "e1"} {
		m.send(t, id)
	}
	first := m.stats(t).Latest[2].ReceivedAt
	var answer simulator.SeenAnswer
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodPost, "/seen", `{"ids":["e1","e9"]}`, &answer))
	require.Empty(t, cmp.Diff([]simulator.Seen{{ID: "e1", Accepted: 2, FirstAt: first}}, answer.Seen))
	require.Equal(t, http.StatusBadRequest, m.ask(t, http.MethodPost, "/seen", `{"id":1}`, nil))
}

func TestBodyIsBounded(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	large := strings.Repeat("a", 1<<20)
	require.Equal(t, http.StatusOK, m.answer(signed(t, "e1", secret, time.Now(), large)).Code)
	require.Equal(t, http.StatusRequestEntityTooLarge, m.answer(signed(t, "e2", secret, time.Now(), large+"a")).Code)
	chunked := signed(t, "e3", secret, time.Now(), large+"a")
	chunked.ContentLength = -1
	require.Equal(t, http.StatusRequestEntityTooLarge, m.answer(chunked).Code)
	short := good(t, "e4")
	short.ContentLength++
	require.Equal(t, http.StatusBadRequest, m.answer(short).Code)
	require.Equal(t, 1, m.stats(t).Total)
}

func TestFailsOnPurpose(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		behaviour string
		statuses  []int
	}{
		"a status":                  {`{"status":503}`, []int{503, 503}},
		"another 2xx accepts":       {`{"status":204}`, []int{204, 204}},
		"a redirect":                {`{"status":302}`, []int{302}},
		"every third":               {`{"fail_every":3}`, []int{200, 200, 503, 200, 200, 503}},
		"every second by a status":  {`{"fail_every":2,"status":429}`, []int{200, 429, 200, 429}},
		"a merchant's own":          {`{"merchant":"joes","status":500}`, []int{500}},
		"another merchant's":        {`{"merchant":"jims","status":500}`, []int{200}},
		"a delay":                   {`{"delay_ms":1}`, []int{200}},
		"a delay and every failure": {`{"delay_ms":1,"fail_every":1}`, []int{503}},
		"nothing":                   {`{}`, []int{200}},
		"first attempts, of others": {`{"fail_first":1}`, []int{503, 503}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMerchant(t, "")
			m.behave(t, c.behaviour)
			accepted := 0
			for i, want := range c.statuses {
				require.Equal(t, want, m.send(t, "e"+strconv.Itoa(i)))
				if want/100 == 2 {
					accepted++
				}
			}
			s := m.stats(t)
			require.Equal(t, []int{accepted, len(c.statuses) - accepted}, []int{s.Total, s.FailedOnPurpose})
		})
	}
}

func TestTheFirstAttemptsOfEachWebhookFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		behaviour string
		attempts  string // by webhook-id
		statuses  []int
	}{
		"by a 503":          {`{"fail_first":2}`, "aabababb", []int{503, 503, 503, 200, 503, 200, 200, 200}},
		"by a status":       {`{"fail_first":1,"status":429}`, "abab", []int{429, 429, 200, 200}},
		"by another 2xx":    {`{"fail_first":1,"status":202}`, "aa", []int{202, 200}},
		"after a delay":     {`{"fail_first":1,"delay_ms":1}`, "aa", []int{503, 200}},
		"of this merchant":  {`{"fail_first":1,"merchant":"joes"}`, "aa", []int{503, 200}},
		"of another":        {`{"fail_first":1,"merchant":"jims"}`, "aa", []int{200, 200}},
		"not once accepted": {`{"fail_first":1}`, "aaa", []int{503, 200, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMerchant(t, "")
			m.behave(t, c.behaviour)
			for i, id := range c.attempts {
				require.Equal(t, c.statuses[i], m.send(t, string(id)), "attempt %d", i)
			}
		})
	}
}

func TestFirstAttemptsAreCountedAtEachMerchantSinceTheBehaviourWasSet(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	at := func(merchant string) int {
		req := good(t, "e1")
		req.URL.Path = "/webhooks/" + merchant
		return m.answer(req).Code
	}
	m.behave(t, `{"fail_first":1}`)
	require.Equal(t, []int{503, 503, 200, 200}, []int{at("a"), at("b"), at("a"), at("b")})
	m.behave(t, `{"fail_first":1,"merchant":"a"}`)
	require.Equal(t, []int{503, 200, 200}, []int{at("a"), at("a"), at("b")})
	m.behave(t, `{"fail_first":1}`)
	require.Equal(t, []int{200, 503, 200}, []int{at("a"), at("b"), at("b")}, "a's is as it was")
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodPost, "/reset", "", nil))
	require.Equal(t, 200, at("c"))
}

func TestFirstAttemptsDropAndHang(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	server := serve(t, m)
	m.behave(t, `{"fail_first":1,"drop":true}`)
	_, err := post(t.Context(), t, server, "e1")
	require.ErrorIs(t, err, io.EOF)
	answer, err := post(t.Context(), t, server, "e1")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode)

	m.behave(t, `{"fail_first":1,"hang":true}`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = post(ctx, t, server, "e2")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	answer, err = post(t.Context(), t, server, "e2")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode)
}

func TestRetryAfterGoesWithFailures(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	for _, value := range []string{"0", "120", "Wed, 21 Oct 2026 07:28:00 GMT"} {
		m.behave(t, `{"retry_after":"`+value+`","status":429}`)
		w := m.answer(good(t, "e1"))
		require.Equal(t, 429, w.Code)
		require.Equal(t, value, w.Header().Get("Retry-After"))
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	}
	m.behave(t, `{"retry_after":"7","fail_first":1}`)
	require.Equal(t, "7", m.answer(good(t, "e2")).Header().Get("Retry-After"))
	w := m.answer(good(t, "e2"))
	require.Equal(t, 200, w.Code)
	require.Empty(t, w.Header().Values("Retry-After"))
}

func TestAnswersWhatItIsTold(t *testing.T) {
	t.Parallel()
	const page = "<h1>Bad gateway</h1>"
	kilobyte := strings.Repeat("é", 512)
	for behaviour, want := range map[string]struct {
		status     int
		kind, body string
	}{
		`{"status":502,"answer":"` + page + `","content_type":"text/html; charset=utf-8"}`: {502, "text/html; charset=utf-8", page},
		`{"fail_every":1,"answer":"busy"}`:                                                 {503, "text/plain; charset=utf-8", "busy"},
		`{"status":202,"answer":"thanks"}`:                                                 {202, "text/plain; charset=utf-8", "thanks"},
		`{"answer":"[]","content_type":"application/json"}`:                                {200, "application/json", "[]"},
		`{"fail_every":2,"answer":"busy"}`:                                                 {200, "", ""},
		`{"answer":"` + kilobyte + `"}`:                                                    {200, "text/plain; charset=utf-8", kilobyte},
	} {
		m := newMerchant(t, "")
		m.behave(t, behaviour)
		w := m.answer(good(t, "e1"))
		require.Equal(t, want.status, w.Code, behaviour)
		require.Equal(t, want.kind, w.Header().Get("Content-Type"), behaviour)
		require.Equal(t, want.body, w.Body.String(), behaviour)
		s := m.stats(t)
		require.Equal(t, want.status/100 == 2, s.Total == 1, behaviour)
		require.Equal(t, 1, s.Total+s.FailedOnPurpose)
	}
}

func TestBehaviourIsPerMerchant(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	m.behave(t, `{"merchant":"b","status":500}`)
	m.behave(t, `{"status":503}`)
	m.behave(t, `{"merchant":"a","drop":true}`)
	var got map[string]any
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodGet, "/behaviour", "", &got))
	require.Empty(t, cmp.Diff(map[string]any{"behaviours": []any{
		map[string]any{"status": 503.0},
		map[string]any{"merchant": "a", "drop": true},
		map[string]any{"merchant": "b", "status": 500.0},
	}}, got))

	of := func(merchant string) int {
		req := good(t, "e1")
		req.URL.Path = "/webhooks/" + merchant
		return m.answer(req).Code
	}
	require.Equal(t, 500, of("b"))
	require.Equal(t, 503, of("c"))
	m.behave(t, `{"merchant":"b"}`)
	require.Equal(t, 503, of("b"))
	m.behave(t, `{}`)
	require.Equal(t, 200, of("b"))
}

func TestBehaviourIsChecked(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	for behaviour, status := range map[string]int{
		`{"status":99}`:                                       422,
		`{"status":600}`:                                      422,
		`{"delay_ms":-1}`:                                     422,
		`{"delay_ms":300001}`:                                 422,
		`{"fail_every":-1}`:                                   422,
		`{"hang":true,"drop":true}`:                           422,
		`{"hang":true,"status":500}`:                          422,
		`{"drop":true,"status":500}`:                          422,
		`{"fail_first":-1}`:                                   422,
		`{"fail_first":1,"fail_every":2}`:                     422,
		`{"retry_after":"5"}`:                                 422, // nothing fails
		`{"retry_after":"5","status":204}`:                    422,
		`{"retry_after":"5","fail_first":1,"status":204}`:     422,
		`{"retry_after":"5","drop":true}`:                     422,
		`{"retry_after":"5","fail_every":1,"hang":true}`:      422,
		`{"retry_after":"soon","status":503}`:                 422,
		`{"retry_after":"-1","status":503}`:                   422,
		`{"retry_after":"1.5","status":503}`:                  422,
		`{"retry_after":"99999999999","status":503}`:          422,
		`{"retry_after":"2026-10-21T07:28:00Z","status":503}`: 422,
		`{"retry_after":5,"status":503}`:                      400,
		`{"answer":"` + strings.Repeat("a", 1025) + `"}`:      422,
		`{"answer":"a","drop":true}`:                          422,
		`{"answer":"a","hang":true,"fail_first":1}`:           422,
		`{"answer":"a","status":204}`:                         422,
		`{"answer":"a","status":304}`:                         422,
		`{"content_type":"text/html"}`:                        422, // of no answer
		`{"answer":"a","content_type":"html"}`:                422,
		`{"answer":"a","content_type":"text/html\r\nX: y"}`:   422,
		`{"explode":true}`:                                    400,
		`{"status":"503"}`:                                    400,
		`{"status":503}{"status":50}`:                         400,
		``:                                                    400,
	} {
		require.Equal(t, status, m.ask(t, http.MethodPut, "/behaviour", behaviour, nil), behaviour)
	}
	require.Equal(t, http.StatusOK, m.send(t, "e1"))
}

// A server of net/http's, because a recorder neither hangs nor drops.
func serve(t *testing.T, m merchant) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(m.http)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

func outgoing(ctx context.Context, t *testing.T, server *httptest.Server, id string) *http.Request {
	t.Helper()
	in := good(t, id)
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/webhooks", in.Body)
	require.NoError(t, err)
	out.Header = in.Header
	return out
}

func post(ctx context.Context, t *testing.T, server *httptest.Server, id string) (*http.Response, error) {
	t.Helper()
	answer, err := server.Client().Do(outgoing(ctx, t, server, id))
	if err == nil {
		require.NoError(t, answer.Body.Close())
	}
	return answer, err
}

func TestDropClosesTheConnection(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	m.behave(t, `{"drop":true}`)
	_, err := post(t.Context(), t, serve(t, m), "e1")
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 1, m.stats(t).FailedOnPurpose)
}

func TestHangLastsUntilReleased(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts")
	m := newMerchant(t, file)
	m.behave(t, `{"hang":true}`)
	server := serve(t, m)
	ended := make(chan error, 1)
	hung := outgoing(t.Context(), t, server, "e1")
	go func() {
		answer, err := server.Client().Do(hung)
		if err == nil {
			answer.Body.Close()
		}
		ended <- err
	}()
	require.Eventually(t, func() bool { return m.stats(t).FailedOnPurpose == 1 }, 10*time.Second, time.Millisecond)
	// A delay twice the server's deadlines is waited out, and the hanging one still hangs.
	m.behave(t, `{"delay_ms":100}`)
	answer, err := post(t.Context(), t, server, "e2")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Empty(t, ended)
	m.Release()
	m.Release()
	require.ErrorIs(t, <-ended, io.EOF)
	require.Contains(t, readFile(t, file), `"outcome":"failed_on_purpose","status":0`)
}

func TestHangEndsWithItsSender(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, "")
	m.behave(t, `{"hang":true}`)
	server := serve(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := post(ctx, t, server, "e1")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	server.Close() // waits for open requests
}

func TestDelayIsWaitedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMerchant(t, "")
		m.behave(t, `{"delay_ms":20000}`)
		start := time.Now()
		require.Equal(t, http.StatusOK, m.send(t, "e1"))
		require.Equal(t, 20*time.Second, time.Since(start))
		require.Equal(t, time.Now().UTC(), m.stats(t).Latest[0].ReceivedAt, "the receipt is of the answer")
	})
}

func TestSenderWhoGivesUpWithinTheDelayIsNotAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMerchant(t, "")
		m.behave(t, `{"delay_ms":20000}`)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.PanicsWithValue(t, http.ErrAbortHandler, func() { m.answer(good(t, "e1").WithContext(ctx)) })
		s := m.stats(t)
		require.Equal(t, []int{0, 1}, []int{s.Total, s.FailedOnPurpose})
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// onHeader calls f when the answer's status is written.
type onHeader struct {
	http.ResponseWriter
	f func()
}

func (w onHeader) WriteHeader(status int) {
	w.f()
	w.ResponseWriter.WriteHeader(status)
}

func TestReceiptIsWrittenBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts")
	m := newMerchant(t, file)
	answered := false
	m.http.ServeHTTP(onHeader{httptest.NewRecorder(), func() {
		answered = true
		var r simulator.Receipt
		require.NoError(t, json.Unmarshal([]byte(readFile(t, file)), &r))
		require.Equal(t, "e1", r.ID)
	}}, good(t, "e1"))
	require.True(t, answered)
}

func TestNoReceiptNo2xx(t *testing.T) {
	t.Parallel()
	m := newMerchant(t, filepath.Join(t.TempDir(), "receipts"))
	require.Equal(t, http.StatusOK, m.send(t, "e1"))
	require.NoError(t, m.Close()) // every write fails from here
	w := m.answer(good(t, "e2"))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, 1, m.stats(t).Total)
	require.Equal(t, http.StatusInternalServerError, m.ask(t, http.MethodPost, "/reset", "", nil))
}

func TestRestartReadsReceiptsBack(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts")
	m := newMerchant(t, file)
	for _, id := range []string{"e1", "e2", "e1"} {
		m.send(t, id)
	}
	m.answer(signed(t, "e3", stranger, time.Now(), body))
	m.behave(t, `{"status":503}`)
	m.send(t, "e3")
	before := m.stats(t)
	require.NoError(t, m.Close())

	m = newMerchant(t, file)
	require.Empty(t, cmp.Diff(before, m.stats(t)))
	m.send(t, "e2")
	require.Equal(t, 2, m.stats(t).Duplicates, "it remembers what it accepted before")
}

func TestRestartToleratesATornLine(t *testing.T) {
	t.Parallel()
	whole := func(id string) string {
		line, err := json.Marshal(simulator.Receipt{ID: id, Outcome: simulator.Accepted, Status: 200})
		require.NoError(t, err)
		return string(line)
	}
	for name, content := range map[string]string{
		"half a line":             whole("e1") + "\n" + whole("torn")[:20],
		"a line without its end":  whole("e1") + "\n" + whole("torn"),
		"garbage in the middle":   "\x00\x00{\n" + whole("e1") + "\n",
		"JSON that is no receipt": "{}\n" + whole("e1") + "\n",
		"empty lines":             "\n\n" + whole("e1") + "\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "receipts")
			require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
			m := newMerchant(t, file)
			require.Equal(t, 1, m.stats(t).Unique)
			m.send(t, "torn")
			require.NoError(t, m.Close())

			s := newMerchant(t, file).stats(t)
			require.Equal(t, []int{2, 0}, []int{s.Unique, s.Duplicates}, "what is appended after it is a line of its own")
		})
	}
}

func TestResetForgetsEverything(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts")
	m := newMerchant(t, file)
	m.send(t, "e1")
	m.behave(t, `{"status":503}`)
	require.Equal(t, http.StatusOK, m.ask(t, http.MethodPost, "/reset", "", nil))
	require.Empty(t, cmp.Diff(simulator.Stats{Latest: []simulator.Receipt{}}, m.stats(t)))
	require.Empty(t, readFile(t, file))

	require.Equal(t, http.StatusOK, m.send(t, "e1"))
	s := m.stats(t)
	require.Equal(t, []int{1, 0}, []int{s.Unique, s.Duplicates})
	require.Equal(t, 1, strings.Count(readFile(t, file), "\n"))
}

func TestConcurrentReceiptsAreWholeLines(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts")
	m := newMerchant(t, file)
	done := make(chan error, 8)
	for worker := range cap(done) {
		requests := make([]*http.Request, 50)
		for i := range requests {
			requests[i] = good(t, strconv.Itoa(worker*len(requests)+i))
		}
		go func() {
			for _, req := range requests {
				if code := m.answer(req).Code; code != http.StatusOK {
					done <- errors.New("answered " + strconv.Itoa(code))
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
	require.Equal(t, 400, m.stats(t).Unique)
	for line := range bytes.Lines([]byte(readFile(t, file))) {
		require.True(t, json.Valid(line))
	}
	require.NoError(t, m.Close())
	require.Equal(t, 400, newMerchant(t, file).stats(t).Unique)
}

func TestReceiptsFileThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	_, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{secret}, ReceiptsFile: t.TempDir(), Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.ErrorContains(t, err, "receipts file")
}
