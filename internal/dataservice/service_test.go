package dataservice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/dataservice"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/wal"
)

// fakeStore answers with what its functions say.
type fakeStore struct {
	payloads func(asked []event.PayloadRequest) ([]event.Payload, error)
	payment  func(id uuid.UUID) (json.RawMessage, error)
	feed     func(after string, limit int, visible bool) (event.FeedPage, error)
	slots    func() ([]wal.Slot, error)
}

func (s fakeStore) Payloads(_ context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	return s.payloads(asked)
}

func (s fakeStore) Payment(_ context.Context, id uuid.UUID) (json.RawMessage, error) {
	return s.payment(id)
}

func (s fakeStore) Feed(_ context.Context, after string, limit int, visible bool) (event.FeedPage, error) {
	return s.feed(after, limit, visible)
}

func (fakeStore) FeedStart(_ context.Context, since time.Time) (string, error) {
	return strconv.FormatInt(since.Unix(), 10) + ".0", nil
}

func (s fakeStore) Slots(ctx context.Context) ([]wal.Slot, error) {
	if _, bounded := ctx.Deadline(); !bounded || s.slots == nil {
		return nil, errors.New("not asked for")
	}
	return s.slots()
}

type frame struct {
	handler  http.Handler
	registry *prometheus.Registry
}

func newFrame(store fakeStore, wait time.Duration) frame {
	f := frame{registry: prometheus.NewRegistry()}
	service := dataservice.New(context.Background(), dataservice.Options{
		Store: store, Log: slog.New(slog.DiscardHandler), Registry: f.registry, WaitForVisible: wait,
	})
	router := chi.NewRouter()
	router.Group(service.Routes)
	f.handler = router
	return f
}

func (f frame) get(t *testing.T, target string) *httptest.ResponseRecorder {
	t.Helper()
	return f.serve(httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody))
}

func (f frame) post(t *testing.T, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/payloads", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return f.serve(r)
}

func (f frame) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

func (f frame) requireMetric(t *testing.T, line string) {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{}).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	require.Contains(t, strings.Split(w.Body.String(), "\n"), line)
}

func body(requests ...string) string { return `{"events":[` + strings.Join(requests, ",") + `]}` }

const (
	firstID  = "01964a3e-0000-7000-8000-000000000001"
	secondID = "01964a3e-0000-7000-8000-000000000002"
	first    = `{"event_id":"` + firstID + `","txid":7,"min_version":1}`
	second   = `{"event_id":"` + secondID + `","txid":8,"min_version":1}`
)

func TestPayloadsRefusesABadRequestBeforeItAsks(t *testing.T) {
	t.Parallel()
	f := newFrame(fakeStore{}, 0) // calling it would panic
	for name, test := range map[string]struct {
		body   string
		status int
		field  string
	}{
		"no JSON":           {`{`, 400, ""},
		"unknown field":     {`{"events":[],"limit":1}`, 400, ""},
		"id not a UUID":     {body(`{"event_id":"7","txid":7,"min_version":1}`), 400, ""},
		"none":              {body(), 422, "events"},
		"too many":          {body(slices.Repeat([]string{first}, dataservice.MaxPayloads+1)...), 422, "events"},
		"no id":             {body(first, `{"txid":7,"min_version":1}`), 422, "events[1].event_id"},
		"no txid":           {body(`{"event_id":"` + firstID + `","min_version":1}`), 422, "events[0].txid"},
		"negative version":  {body(`{"event_id":"` + firstID + `","txid":7,"min_version":-1}`), 422, "events[0].min_version"},
		"larger than taken": {strings.Repeat(" ", 64<<10) + body(first), 413, ""},
	} {
		answer := f.post(t, test.body)
		require.Equal(t, test.status, answer.Code, name)
		require.Equal(t, "application/problem+json", answer.Header().Get("Content-Type"), name)
		var problem httpserver.Problem
		require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &problem), name)
		require.NotEmpty(t, problem.Detail, name)
		if test.field != "" {
			require.Contains(t, problem.Errors, test.field, name)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/payloads", strings.NewReader(body(first)))
	require.Equal(t, http.StatusUnsupportedMediaType, f.serve(r).Code, "without a Content-Type")
}

func TestPayloadsAsksAgainForWhatIsNotVisibleYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var asks []string
		f := newFrame(fakeStore{payloads: func(asked []event.PayloadRequest) ([]event.Payload, error) {
			var ids []string
			var answers []event.Payload
			for _, each := range asked {
				ids = append(ids, each.EventID.String()[35:])
				answer := event.Payload{EventID: each.EventID, Visibility: event.Visible, Snapshot: json.RawMessage("{}")}
				if each.EventID.String() == secondID && time.Since(start) < 10*time.Millisecond {
					answer = event.Payload{EventID: each.EventID, Visibility: event.NotVisible}
				}
				answers = append(answers, answer)
			}
			asks = append(asks, fmt.Sprintf("%s at %s", strings.Join(ids, "+"), time.Since(start)))
			return answers, nil
		}}, 100*time.Millisecond)

		answer := f.post(t, body(second, first, second))
		require.Equal(t, http.StatusOK, answer.Code)
		require.Equal(t, []string{"2+1+2 at 0s", "2+2 at 2ms", "2+2 at 6ms", "2+2 at 14ms"}, asks)
		var got struct{ Events []event.Payload }
		require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &got))
		require.Len(t, got.Events, 3)
		for i, id := range []string{secondID, firstID, secondID} {
			require.Equal(t, id, got.Events[i].EventID.String(), "in the order asked")
			require.Equal(t, event.Visible, got.Events[i].Visibility)
		}
	})
}

func TestPayloadsStopsWaitingAtTheBound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		wait time.Duration
		asks int
	}{
		"no wait":  {0, 1},
		"one wait": {time.Millisecond, 2},
		"100 ms":   {100 * time.Millisecond, 7}, // 2, 4, 8, 16, 32, and the 38 that are left
	} {
		synctest.Test(t, func(t *testing.T) {
			start, asks := time.Now(), 0
			f := newFrame(fakeStore{payloads: func(asked []event.PayloadRequest) ([]event.Payload, error) {
				asks++
				return []event.Payload{{EventID: asked[0].EventID, Visibility: event.NotVisible}}, nil
			}}, test.wait)
			answer := f.post(t, body(first))
			require.Equal(t, test.wait, time.Since(start), name)
			require.Equal(t, test.asks, asks, name)
			require.JSONEq(t, `{"events":[{"event_id":"`+firstID+`","visibility":"not_visible"}]}`, answer.Body.String())
			f.requireMetric(t, `hookline_data_payloads_total{visibility="not_visible"} 1`)
			f.requireMetric(t, `hookline_data_payloads_total{visibility="missing"} 0`)
		})
	}
}

func TestPayloadsGivesUpWithItsClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFrame(fakeStore{payloads: func(asked []event.PayloadRequest) ([]event.Payload, error) {
			cancel()
			return []event.Payload{{EventID: asked[0].EventID, Visibility: event.NotVisible}}, nil
		}}, time.Hour)
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/payloads", strings.NewReader(body(first)))
		r.Header.Set("Content-Type", "application/json")
		start := time.Now()
		f.serve(r)
		require.Zero(t, time.Since(start))
	})
}

func TestAStoreThatFailsIsAProblemDocument(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err    error
		status int
	}{
		{fault.Wrap(errors.New("dial tcp: secret"), fault.Unavailable, "the database does not answer"), 503},
		{fault.New(fault.NotFound, "there is no payment"), 404},
		{errors.New("column secret does not exist"), 500},
	} {
		f := newFrame(fakeStore{
			payloads: func([]event.PayloadRequest) ([]event.Payload, error) { return nil, test.err },
			payment:  func(uuid.UUID) (json.RawMessage, error) { return nil, test.err },
			feed:     func(string, int, bool) (event.FeedPage, error) { return event.FeedPage{}, test.err },
		}, time.Second)
		for _, answer := range []*httptest.ResponseRecorder{
			f.post(t, body(first)), f.get(t, "/payload/"+firstID), f.get(t, "/events"),
		} {
			require.Equal(t, test.status, answer.Code)
			require.Equal(t, "application/problem+json", answer.Header().Get("Content-Type"))
			require.NotContains(t, answer.Body.String(), "secret")
		}
		f.requireMetric(t, fmt.Sprintf(`hookline_data_requests_total{route="/payloads",status="%d"} 1`, test.status))
	}
}

func TestPaymentIsPassedThrough(t *testing.T) {
	t.Parallel()
	f := newFrame(fakeStore{payment: func(id uuid.UUID) (json.RawMessage, error) {
		return json.RawMessage(`{"id": "` + id.String() + `", "n": 1.10}`), nil
	}}, 0)
	answer := f.get(t, "/payload/"+firstID)
	require.Equal(t, http.StatusOK, answer.Code)
	require.Equal(t, `{"id": "`+firstID+`", "n": 1.10}`+"\n", answer.Body.String())
	require.Equal(t, http.StatusUnprocessableEntity, f.get(t, "/payload/7").Code)
	f.requireMetric(t, `hookline_data_requests_total{route="/payload/{payment_id}",status="422"} 1`)
	f.requireMetric(t, `hookline_data_request_duration_seconds_count{route="/payload/{payment_id}"} 2`)
}

func TestEventsPassesItsParametersOn(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                                   " 500 false",
		"?after=7.8&limit=1000&visible=true": "7.8 1000 true",
		"?limit=1&visible=false":             " 1 false",
		"?since=1970-01-01T00:01:40Z":        "100.0 500 false",
	} {
		var got string
		f := newFrame(fakeStore{feed: func(after string, limit int, visible bool) (event.FeedPage, error) {
			got = fmt.Sprint(after, " ", limit, " ", visible)
			return event.FeedPage{Events: []event.Ref{}, From: after, Next: after, Xmin: 9, System: "1", Timeline: "00000001", Last: "9.9"}, nil
		}}, 0)
		answer := f.get(t, "/events"+query)
		require.Equal(t, http.StatusOK, answer.Code, query)
		require.Equal(t, want, got, query)
		after, _, _ := strings.Cut(want, " ")
		require.JSONEq(t, `{"events":[],"from":"`+after+`","next":"`+after+`","last":"9.9","more":false,"xmin":9,"system":"1","timeline":"00000001"}`,
			answer.Body.String(), query)
	}
	f := newFrame(fakeStore{}, 0)
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?limit=", "?visible=7", "?since=1", "?since=1970-01-01T00:01:40Z&after=1.1", "?after=1.1&after=2.2"} {
		require.Equal(t, http.StatusUnprocessableEntity, f.get(t, "/events"+query).Code, query)
	}
}

// What is written by hand says the same as encoding/json would.
func TestPayloadsAreWrittenAsJSON(t *testing.T) {
	t.Parallel()
	documents := rapid.SampledFrom([]string{`{}`, `{"a": 1.10, "b": ["\u2028", "é", "<&>"]}`, `null`, `"x"`, `[1, 2]`})
	rapid.Check(t, func(rt *rapid.T) {
		want := event.Payload{
			EventID:    uuid.MustParse(firstID),
			Visibility: rapid.SampledFrom([]event.Visibility{event.Visible, event.NotVisible, event.Missing}).Draw(rt, "visibility"),
		}
		if want.Visibility == event.Visible {
			want.Type = rapid.StringN(1, -1, -1).Draw(rt, "type")
			want.ObjectVersion = rapid.Int64Min(1).Draw(rt, "version")
			want.OccurredAt = "2026-01-02T03:04:05.000006Z"
			want.Snapshot = json.RawMessage(documents.Draw(rt, "snapshot"))
			if rapid.Bool().Draw(rt, "a payment") {
				want.Payment = json.RawMessage(documents.Filter(func(s string) bool { return s != "null" }).Draw(rt, "payment"))
			}
		}
		f := newFrame(fakeStore{payloads: func([]event.PayloadRequest) ([]event.Payload, error) { return []event.Payload{want}, nil }}, 0)
		answer := f.post(t, body(first))
		var got struct {
			Events []event.Payload `json:"events"`
		}
		require.NoError(rt, json.Unmarshal(answer.Body.Bytes(), &got))
		require.Empty(rt, cmp.Diff([]event.Payload{want}, got.Events))
	})
}

func BenchmarkPayloads(b *testing.B) {
	document := json.RawMessage(`{"id": "` + firstID + `", "metadata": {"x": "` + strings.Repeat("y", 400) + `"}}`)
	answers := slices.Repeat([]event.Payload{{
		EventID: uuid.MustParse(firstID), Visibility: event.Visible, Type: "payment.succeeded", ObjectVersion: 1,
		OccurredAt: "2026-01-02T03:04:05.000006Z", Payment: document, Snapshot: document,
	}}, 64)
	asked := body(slices.Repeat([]string{first}, 64)...)
	f := newFrame(fakeStore{payloads: func([]event.PayloadRequest) ([]event.Payload, error) { return answers, nil }}, 0)
	b.Run("appended", func(b *testing.B) {
		for b.Loop() {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/payloads", strings.NewReader(asked))
			r.Header.Set("Content-Type", "application/json")
			f.serve(r)
		}
	})
	b.Run("marshalled alone", func(b *testing.B) {
		for b.Loop() {
			httpserver.WriteJSON(httptest.NewRecorder(), http.StatusOK, map[string]any{"events": answers})
		}
	})
}

func TestSlotsAreMeasuredAtEachScrape(t *testing.T) {
	t.Parallel()
	slots, err := []wal.Slot{{Name: "hookline_relay", Active: true, Retained: 4096}, {Name: "sequin_slot", Retained: 1 << 30}}, error(nil)
	f := newFrame(fakeStore{slots: func() ([]wal.Slot, error) { return slots, err }}, 0)
	const name = "hookline_slot_retained_wal_bytes"
	require.NoError(t, testutil.GatherAndCompare(f.registry, strings.NewReader(`
# HELP hookline_slot_retained_wal_bytes WAL that a logical replication slot of the business database keeps the server from removing, by whether anybody reads it.
# TYPE hookline_slot_retained_wal_bytes gauge
hookline_slot_retained_wal_bytes{active="true",slot="hookline_relay"} 4096
hookline_slot_retained_wal_bytes{active="false",slot="sequin_slot"} 1.073741824e+09
`), name))
	err = errors.New("no database")
	n, gatherErr := testutil.GatherAndCount(f.registry, name)
	require.NoError(t, gatherErr, "the other metrics are there all the same")
	require.Zero(t, n, "a number that nobody knows")
}
