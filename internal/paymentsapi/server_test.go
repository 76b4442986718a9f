package paymentsapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/paymentsapi"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

const (
	anID  = "01890a5d-ac96-774b-bcce-b302099a8057"
	trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)

// fakeStore answers with its fields and remembers what it was given. A nil function fails the test's request.
type fakeStore struct {
	createFunc func(ctx context.Context, draft payment.Draft, origin payment.Origin) (payment.Answer, error)
	getFunc    func(id uuid.UUID) (json.RawMessage, error)
	changeFunc func(id uuid.UUID, version int64, next payment.Status, traceparent string) (json.RawMessage, error)
	appendFunc func(eventType, merchantID string, data json.RawMessage, origin payment.Origin) (payment.Answer, error)
}

func (f fakeStore) Create(ctx context.Context, draft payment.Draft, origin payment.Origin) (payment.Answer, error) {
	return f.createFunc(ctx, draft, origin)
}

func (f fakeStore) Get(_ context.Context, id uuid.UUID) (json.RawMessage, error) {
	return f.getFunc(id)
}

func (f fakeStore) ChangeStatus(_ context.Context, id uuid.UUID, version int64, next payment.Status, traceparent string) (json.RawMessage, error) {
	return f.changeFunc(id, version, next, traceparent)
}

func (f fakeStore) AppendEvent(_ context.Context, eventType, merchantID string, data json.RawMessage, origin payment.Origin) (payment.Answer, error) {
	return f.appendFunc(eventType, merchantID, data, origin)
}

// writing is a store that shows where each write comes from, and answers a payment's with ID anID.
func writing(replayed bool, see func(payment.Origin)) fakeStore {
	return fakeStore{
		createFunc: func(_ context.Context, _ payment.Draft, o payment.Origin) (payment.Answer, error) {
			see(o)
			return payment.Answer{ID: anID, Replayed: replayed}, nil
		},
		appendFunc: func(_, _ string, _ json.RawMessage, o payment.Origin) (payment.Answer, error) {
			see(o)
			return payment.Answer{Replayed: replayed}, nil
		},
	}
}

func newHandler(t *testing.T, store fakeStore) (http.Handler, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	router := chi.NewRouter()
	paymentsapi.New(paymentsapi.Options{
		Store: store, Log: slog.New(slog.DiscardHandler), Registry: registry, Timeout: time.Minute,
	}).Routes(router)
	return router, registry
}

func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func answer(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func problemOf(t *testing.T, w *httptest.ResponseRecorder) httpserver.Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), w.Body)
	var p httpserver.Problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, w.Code, p.Status)
	return p
}

func TestCreatePayment(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		want payment.Draft
	}{
		"the least": {`{"amount":1000,"currency":"USD"}`, payment.Draft{
			Amount: 1000, Currency: "USD", MerchantID: "joes-tshirt-shop", Status: "succeeded", Metadata: json.RawMessage(`{}`),
		}},
		"the most": {` {"amount" : 9007199254740991 , "currency":"JPY","merchant_id":"m.1","status":"pending","metadata":{"a":[1,{"b":"\u00e9"}]} } `, payment.Draft{
			Amount: payment.MaxAmount, Currency: "JPY", MerchantID: "m.1", Status: "pending", Metadata: json.RawMessage(`{"a":[1,{"b":"\u00e9"}]}`),
		}},
		"escapes in names and texts": {`{"am\u006funt":1,"currency":"\u0055SD"}`, payment.Draft{
			Amount: 1, Currency: "USD", MerchantID: "joes-tshirt-shop", Status: "succeeded", Metadata: json.RawMessage(`{}`),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got payment.Draft
			var origin payment.Origin
			h, _ := newHandler(t, fakeStore{createFunc: func(ctx context.Context, d payment.Draft, o payment.Origin) (payment.Answer, error) {
				_, bounded := ctx.Deadline()
				require.True(t, bounded)
				got, origin = d, o
				return payment.Answer{ID: d.ID.String(), Document: json.RawMessage(`{"id": "x"}`)}, nil
			}})
			w := answer(h, request("POST", "/payments", test.body, "traceparent", trace))
			require.Equal(t, http.StatusCreated, w.Code, w.Body)
			require.Equal(t, "/payments/"+got.ID.String(), w.Header().Get("Location"))
			require.Equal(t, "application/json", w.Header().Get("Content-Type"))
			require.Equal(t, "{\"id\": \"x\"}\n", w.Body.String())
			require.Empty(t, w.Header().Get("Idempotent-Replayed"))
			require.EqualValues(t, 7, got.ID.Version())
			require.Equal(t, payment.Origin{Traceparent: trace}, origin)
			got.ID = uuid.Nil
			require.Empty(t, cmp.Diff(test.want, got))
		})
	}
}

func TestCreatePaymentRefusesBadFields(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t, fakeStore{}) // any write would be a nil call
	deep := strings.Repeat(`{"a":`, 33) + `1` + strings.Repeat(`}`, 33)
	for body, fields := range map[string][]string{
		`{}`:                                                                                      {"amount", "currency"},
		`{"amount":10.5,"currency":"USD"}`:                                                        {"amount"},
		`{"amount":10.0,"currency":"USD"}`:                                                        {"amount"},
		`{"amount":"10","currency":"USD"}`:                                                        {"amount"},
		`{"amount":1e3,"currency":"USD"}`:                                                         {"amount"},
		`{"amount":1e400,"currency":"USD"}`:                                                       {"amount"},
		`{"amount":0,"currency":"USD"}`:                                                           {"amount"},
		`{"amount":-5,"currency":"USD"}`:                                                          {"amount"},
		`{"amount":9007199254740992,"currency":"USD"}`:                                            {"amount"},
		`{"amount":99999999999999999999,"currency":"USD"}`:                                        {"amount"},
		`{"amount":null,"currency":null}`:                                                         {"amount", "currency"},
		`{"amount":[1],"currency":{}}`:                                                            {"amount", "currency"},
		`{"amount":true,"currency":true}`:                                                         {"amount", "currency"},
		`{"amount":1,"currency":"usd"}`:                                                           {"currency"},
		`{"amount":1,"currency":"XXX"}`:                                                           {"currency"},
		`{"amount":1,"currency":""}`:                                                              {"currency"},
		`{"amount":1,"currency":"US\u0000"}`:                                                      {"currency"},
		`{"amount":1,"amount":2,"currency":"USD"}`:                                                {"amount"},
		`{"amount":1,"currency":"USD","AMOUNT":2}`:                                                {"AMOUNT"},
		`{"Amount":1,"currency":"USD"}`:                                                           {"Amount", "amount"},
		`{"amount":1,"currency":"USD","id":"x","version":3}`:                                      {"id", "version"},
		`{"amount":1,"currency":"USD","merchant_id":""}`:                                          {"merchant_id"},
		`{"amount":1,"currency":"USD","merchant_id":"a b"}`:                                       {"merchant_id"},
		`{"amount":1,"currency":"USD","merchant_id":"\u0000"}`:                                    {"merchant_id"},
		`{"amount":1,"currency":"USD","merchant_id":7}`:                                           {"merchant_id"},
		`{"amount":1,"currency":"USD","merchant_id":"` + strings.Repeat("m", 65) + `"}`:           {"merchant_id"},
		`{"amount":1,"currency":"USD","status":"paid"}`:                                           {"status"},
		`{"amount":1,"currency":"USD","status":null}`:                                             {"status"},
		`{"amount":1,"currency":"USD","metadata":null}`:                                           {"metadata"},
		`{"amount":1,"currency":"USD","metadata":[]}`:                                             {"metadata"},
		`{"amount":1,"currency":"USD","metadata":"x"}`:                                            {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"a":"\u0000"}}`:                                 {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"\u0000":1}}`:                                   {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"a":"\ud800"}}`:                                 {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"a":1e400}}`:                                    {"metadata"},
		`{"amount":1,"currency":"USD","metadata":` + deep + `}`:                                   {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"a":"` + strings.Repeat("x", 16<<10) + `"}}`:    {"metadata"},
		`{"amount":1,"currency":"USD","metadata":{"a":[` + strings.Repeat("1e300,", 100) + `1]}}`: {"metadata"},
	} {
		w := answer(h, request("POST", "/payments", body))
		require.Equal(t, http.StatusUnprocessableEntity, w.Code, "%.80s: %s", body, w.Body)
		got := problemOf(t, w).Errors
		for _, field := range fields {
			require.NotEmpty(t, got[field], "%.80s: %s", body, w.Body)
		}
		require.Len(t, got, len(fields), "%.80s: %s", body, w.Body)
	}
}

func TestBodiesThatAreNotJSONObjects(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t, fakeStore{})
	for _, target := range []string{"POST /payments", "POST /events", "PATCH /payments/" + anID} {
		method, path, _ := strings.Cut(target, " ")
		for body, detail := range map[string]string{
			``:                          "it is empty",
			`   `:                       "it is empty",
			`{"amount":`:                "it ends in the middle",
			`[]`:                        "must be a JSON object",
			`null`:                      "must be a JSON object",
			`"x"`:                       "must be a JSON object",
			`7`:                         "must be a JSON object",
			`{"amount":1}{}`:            "something after",
			`{'amount':1}`:              "invalid character",
			`{"amount":01}`:             "invalid character",
			`{"amount":NaN}`:            "invalid character",
			"{\"amount\":\"\xff\"}":     "not UTF-8",
			strings.Repeat("[", 20_000): "max depth",
		} {
			w := answer(h, request(method, path, body))
			require.Equal(t, http.StatusBadRequest, w.Code, "%s %.50q: %s", target, body, w.Body)
			require.Contains(t, problemOf(t, w).Detail, detail, "%s %.50q", target, body)
		}
		w := answer(h, request(method, path, `{"metadata":"`+strings.Repeat("x", 128<<10)+`"}`))
		require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
		problemOf(t, w)
		r := request(method, path, `{}`)
		r.Header.Set("Content-Type", "text/plain")
		w = answer(h, r)
		require.Equal(t, http.StatusUnsupportedMediaType, w.Code)
		problemOf(t, w)
	}
}

func TestABodyOfMistakesGetsABoundedAnswer(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t, fakeStore{})
	var body strings.Builder
	body.WriteString(`{"x":1`)
	for range 1000 {
		body.WriteString(`,"` + uuid.NewString() + `":1`)
	}
	body.WriteString(`}`)
	w := answer(h, request("POST", "/payments", body.String()))
	require.Equal(t, http.StatusUnprocessableEntity, w.Code)
	require.Len(t, problemOf(t, w).Errors, 20)
}

func TestTraceparentIsHandedOnOnlyWhenValid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header []string
		want   string
	}{
		"none":            {nil, ""},
		"valid":           {[]string{"traceparent", trace}, trace},
		"any case":        {[]string{"TraceParent", trace}, trace},
		"upper-case hex":  {[]string{"traceparent", strings.ToUpper(trace)}, ""},
		"another version": {[]string{"traceparent", "01" + trace[2:]}, ""},
		"too long":        {[]string{"traceparent", trace + "-00"}, ""},
		"no trace":        {[]string{"traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, ""},
		"no span":         {[]string{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}, ""},
		"not hex":         {[]string{"traceparent", strings.Replace(trace, "4bf9", "4bg9", 1)}, ""},
		"no dashes":       {[]string{"traceparent", strings.ReplaceAll(trace, "-", "0")}, ""},
		"two":             {[]string{"traceparent", trace, "traceparent", trace}, ""},
		"hostile":         {[]string{"traceparent", "'; drop table payments; --"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := []string{}
			store := writing(false, func(o payment.Origin) { got = append(got, o.Traceparent) })
			store.changeFunc = func(_ uuid.UUID, _ int64, _ payment.Status, traceparent string) (json.RawMessage, error) {
				got = append(got, traceparent)
				return nil, nil
			}
			h, _ := newHandler(t, store)
			answer(h, request("POST", "/payments", `{"amount":1,"currency":"USD"}`, test.header...))
			answer(h, request("PATCH", "/payments/"+anID, `{"status":"refunded"}`, test.header...))
			answer(h, request("POST", "/events", `{"event_type":"a.b","data":{}}`, test.header...))
			require.Equal(t, []string{test.want, test.want, test.want}, got)
		})
	}
}

func TestIdempotencyKeyIsChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header []string
		ok     bool
	}{
		"a key":        {[]string{"Idempotency-Key", "8e03978e-40d5-43dd-bc93-6894a57f9324"}, true},
		"printable":    {[]string{"Idempotency-Key", `"a b~!"`}, true},
		"the longest":  {[]string{"Idempotency-Key", strings.Repeat("k", 255)}, true},
		"too long":     {[]string{"Idempotency-Key", strings.Repeat("k", 256)}, false},
		"empty":        {[]string{"Idempotency-Key", ""}, false},
		"a tab":        {[]string{"Idempotency-Key", "a\tb"}, false},
		"beyond ASCII": {[]string{"Idempotency-Key", "clé"}, false},
		"two of them":  {[]string{"Idempotency-Key", "a", "Idempotency-Key", "a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := []string{}
			h, _ := newHandler(t, writing(true, func(o payment.Origin) { got = append(got, o.IdempotencyKey) }))
			created := answer(h, request("POST", "/payments", `{"amount":1,"currency":"USD"}`, test.header...))
			accepted := answer(h, request("POST", "/events", `{"event_type":"a.b","data":{}}`, test.header...))
			if !test.ok {
				require.Empty(t, got)
				require.Equal(t, http.StatusBadRequest, created.Code)
				require.Equal(t, http.StatusBadRequest, accepted.Code)
				require.Contains(t, problemOf(t, created).Detail, "Idempotency-Key")
				return
			}
			require.Equal(t, []string{test.header[1], test.header[1]}, got)
			require.Equal(t, http.StatusCreated, created.Code)
			require.Equal(t, "/payments/"+anID, created.Header().Get("Location"))
			require.Equal(t, http.StatusAccepted, accepted.Code)
			require.Equal(t, "true", created.Header().Get("Idempotent-Replayed"))
			require.Equal(t, "true", accepted.Header().Get("Idempotent-Replayed"))
		})
	}
}

func TestRequestHashIsOfWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	var hash [32]byte
	h, _ := newHandler(t, writing(false, func(o payment.Origin) { hash = o.RequestHash }))
	hashOf := func(path, body string) [32]byte {
		hash = [32]byte{}
		w := answer(h, request("POST", path, body, "Idempotency-Key", "k"))
		require.Less(t, w.Code, 300, w.Body)
		require.NotZero(t, hash)
		return hash
	}
	const base = `{"amount":1,"currency":"USD","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`
	for _, same := range []string{
		base,
		` { "currency" : "USD", "metadata":{ "b":{"d":"\u003c\u00e9>","c":[1, 2]}, "a":1} ,"amount":1}`,
		`{"amount":1,"currency":"USD","merchant_id":"joes-tshirt-shop","status":"succeeded","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`,
	} {
		require.Equal(t, hashOf("/payments", base), hashOf("/payments", same), same)
	}
	for _, other := range []string{
		`{"amount":2,"currency":"USD","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`,
		`{"amount":1,"currency":"EUR","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`,
		`{"amount":1,"currency":"USD","status":"pending","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`,
		`{"amount":1,"currency":"USD","merchant_id":"m","metadata":{"a":1,"b":{"c":[1,2],"d":"<é>"}}}`,
		`{"amount":1,"currency":"USD","metadata":{"a":1,"b":{"c":[2,1],"d":"<é>"}}}`,
		`{"amount":1,"currency":"USD","metadata":{"a":"1","b":{"c":[1,2],"d":"<é>"}}}`,
		`{"amount":1,"currency":"USD"}`,
	} {
		require.NotEqual(t, hashOf("/payments", base), hashOf("/payments", other), other)
	}
	require.Equal(t, hashOf("/events", `{"event_type":"a.b","data":{"x":1,"y":2}}`), hashOf("/events", `{"data":{"y":2,"x":1},"event_type":"a.b"}`))
	require.NotEqual(t, hashOf("/events", `{"event_type":"a.b","data":{}}`), hashOf("/events", `{"event_type":"a.c","data":{}}`))
	require.NotEqual(t, hashOf("/events", `{"event_type":"a.b","merchant_id":"c","data":{}}`), hashOf("/events", `{"event_type":"a.bc","data":{}}`))
}

func TestGetPayment(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t, fakeStore{getFunc: func(id uuid.UUID) (json.RawMessage, error) {
		if id.String() != anID {
			return nil, fault.New(fault.NotFound, "there is no payment %s", id)
		}
		return json.RawMessage(`{"status": "succeeded"}`), nil
	}})
	w := answer(h, request("GET", "/payments/"+anID, ""))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "{\"status\": \"succeeded\"}\n", w.Body.String())
	w = answer(h, request("GET", "/payments/"+strings.ToUpper(anID), ""))
	require.Equal(t, http.StatusOK, w.Code)
	w = answer(h, request("GET", "/payments/"+uuid.NewString(), ""))
	require.Equal(t, http.StatusNotFound, w.Code)
	problemOf(t, w)
	for _, id := range []string{"7", "x", "urn:uuid:" + anID, "%7B" + anID + "%7D", strings.ReplaceAll(anID, "-", ""), "%00"} {
		w = answer(h, request("GET", "/payments/"+id, ""))
		require.Equal(t, http.StatusBadRequest, w.Code, id)
		require.Contains(t, problemOf(t, w).Detail, "not a UUID")
	}
}

func TestUpdatePayment(t *testing.T) {
	t.Parallel()
	var versions []int64
	h, _ := newHandler(t, fakeStore{changeFunc: func(id uuid.UUID, version int64, next payment.Status, _ string) (json.RawMessage, error) {
		require.Equal(t, anID, id.String())
		versions = append(versions, version)
		if next == payment.StatusFailed {
			return nil, fault.New(fault.Conflict, "a payment that is succeeded cannot become failed")
		}
		return json.RawMessage(`{"status": "` + string(next) + `"}`), nil
	}})
	w := answer(h, request("PATCH", "/payments/"+anID, `{"status":"refunded"}`))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "{\"status\": \"refunded\"}\n", w.Body.String())
	w = answer(h, request("PATCH", "/payments/"+anID, `{"status":"failed"}`))
	require.Equal(t, http.StatusConflict, w.Code)
	require.Contains(t, problemOf(t, w).Detail, "cannot become failed")
	w = answer(h, request("PATCH", "/payments/"+anID, `{"if_version":9223372036854775807,"status":"refunded"}`))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, []int64{0, 0, math.MaxInt64}, versions)
	w = answer(h, request("PATCH", "/payments/x", `{"status":"failed"}`))
	require.Equal(t, http.StatusBadRequest, w.Code)
	for body, field := range map[string]string{
		`{}`: "status", `{"status":"paid"}`: "status", `{"status":1}`: "status", `{"status":"failed","amount":5}`: "amount",
		`{"status":"failed","status":"refunded"}`: "status", `{"if_version":1}`: "status",
		`{"status":"failed","if_version":0}`: "if_version", `{"status":"failed","if_version":"1"}`: "if_version",
		`{"status":"failed","if_version":1.0}`: "if_version", `{"status":"failed","if_version":null}`: "if_version",
		`{"status":"failed","if_version":9223372036854775808}`: "if_version",
	} {
		w = answer(h, request("PATCH", "/payments/"+anID, body))
		require.Equal(t, http.StatusUnprocessableEntity, w.Code, body)
		require.Contains(t, problemOf(t, w).Errors, field, body)
	}
}

func TestCreateEvent(t *testing.T) {
	t.Parallel()
	var got []string
	h, _ := newHandler(t, fakeStore{appendFunc: func(eventType, merchantID string, data json.RawMessage, _ payment.Origin) (payment.Answer, error) {
		got = []string{eventType, merchantID, string(data)}
		return payment.Answer{Document: json.RawMessage(`{"status": "accepted", "event_id": "x"}`)}, nil
	}})
	w := answer(h, request("POST", "/events", `{"event_type":"order.shipped","data":{"n": 1}}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Equal(t, "{\"status\": \"accepted\", \"event_id\": \"x\"}\n", w.Body.String())
	require.Equal(t, []string{"order.shipped", "joes-tshirt-shop", `{"n": 1}`}, got)
	longest := "a." + strings.Repeat("b", 98)
	w = answer(h, request("POST", "/events", `{"event_type":"`+longest+`","merchant_id":"m","data":{"s":"`+strings.Repeat("x", 64<<10-9)+`"}}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Equal(t, []string{longest, "m"}, got[:2])

	got = nil
	for body, field := range map[string]string{
		`{"data":{}}`:                                "event_type",
		`{"event_type":"a.b"}`:                       "data",
		`{"event_type":"a.b","data":[]}`:             "data",
		`{"event_type":"a.b","data":null}`:           "data",
		`{"event_type":"a.b","data":{"x":"\u0000"}}`: "data",
		`{"event_type":"a.b","data":{"s":"` + strings.Repeat("x", 64<<10) + `"}}`: "data",
		`{"event_type":7,"data":{}}`:                         "event_type",
		`{"event_type":"invoice","data":{}}`:                 "event_type",
		`{"event_type":".a","data":{}}`:                      "event_type",
		`{"event_type":"a.","data":{}}`:                      "event_type",
		`{"event_type":"a..b","data":{}}`:                    "event_type",
		`{"event_type":"A.b","data":{}}`:                     "event_type",
		`{"event_type":"a.b\u0000","data":{}}`:               "event_type",
		`{"event_type":"` + longest + `b","data":{}}`:        "event_type",
		`{"event_type":"payment.succeeded","data":{}}`:       "event_type",
		`{"event_type":"a.b","data":{},"merchant_id":"a/b"}`: "merchant_id",
		`{"event_type":"a.b","data":{},"payment_id":"1"}`:    "payment_id",
	} {
		w = answer(h, request("POST", "/events", body))
		require.Equal(t, http.StatusUnprocessableEntity, w.Code, "%.80s", body)
		problem := problemOf(t, w)
		require.Contains(t, problem.Errors, field, "%.80s", body)
		require.Len(t, problem.Errors, 1, "%.80s: %v", body, problem.Errors)
	}
	require.Nil(t, got)
}

func TestAnEventOfACataloguedTypeFitsItsSchema(t *testing.T) {
	t.Parallel()
	var got string
	h, _ := newHandler(t, fakeStore{appendFunc: func(_, _ string, data json.RawMessage, _ payment.Origin) (payment.Answer, error) {
		got = string(data)
		return payment.Answer{Document: json.RawMessage(`{}`)}, nil
	}})
	for _, eventType := range catalogue.All() {
		if strings.HasPrefix(eventType.Name, "payment.") {
			continue
		}
		body, err := eventType.Example(uuid.New(), "m", time.Now())
		require.NoError(t, err)
		var webhook struct {
			Snapshot json.RawMessage `json:"snapshot"`
		}
		require.NoError(t, json.Unmarshal(body, &webhook))
		w := answer(h, request("POST", "/events", `{"data":`+string(webhook.Snapshot)+`,"event_type":"`+eventType.Name+`"}`))
		require.Equal(t, http.StatusAccepted, w.Code, "%s: %s", eventType.Name, w.Body)
		require.Equal(t, string(webhook.Snapshot), got)
	}

	got = ""
	for body, want := range map[string]map[string]string{
		`{"event_type":"invoice.sent","data":{}}`: {"data/id": "is missing", "data/amount": "is missing", "data/currency": "is missing"},
		`{"data":{"id":"i","amount":"5","currency":"eur"},"event_type":"invoice.sent","merchant_id":"a b"}`: {
			"data/amount":   "want integer, not string",
			"data/currency": "want a currency of ISO 4217 in upper case, such as USD",
			"merchant_id":   "want 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore",
		},
		`{"event_type":"dispute.closed","data":{"id":"d","payment_id":"7","amount":1.0,"currency":"EUR","outcome":"tie"}}`: {
			"data/payment_id": "want a UUID",
			"data/amount":     "want a whole number without fraction and exponent",
			"data/outcome":    "want one of won, lost, withdrawn",
		},
		// What is wrong with the data as such, or with the type, comes first.
		`{"event_type":"invoice.sent","data":[]}`:                                     {"data": "want a JSON object"},
		`{"event_type":"invoice.sent","data":{"id":"\u0000"}}`:                        {"data": `has the character \u0000, which cannot be stored`},
		`{"event_type":"invoice.sent","data":{"amount":1e400}}`:                       {"data": "has a number that is beyond the range of a double"},
		`{"event_type":"payment.succeeded","data":{}}`:                                {"event_type": "events of payments come from changes of payments only"},
		`{"event_type":"invoice.sent","event_type":"invoice.sent","data":{"id":"i"}}`: {"event_type": "is given twice"},
	} {
		w := answer(h, request("POST", "/events", body))
		require.Equal(t, http.StatusUnprocessableEntity, w.Code, body)
		require.Empty(t, cmp.Diff(want, problemOf(t, w).Errors), body)
	}
	require.Empty(t, got)
}

func TestWhatIsNotStoredIsNeverASuccess(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		status int
	}{
		"unavailable": {fault.Wrap(io.ErrUnexpectedEOF, fault.Unavailable, "try again"), 503},
		"a defect":    {errors.New("oops"), 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, registry := newHandler(t, fakeStore{
				createFunc: func(context.Context, payment.Draft, payment.Origin) (payment.Answer, error) {
					return payment.Answer{Document: json.RawMessage(`{}`)}, test.err
				},
				getFunc:    func(uuid.UUID) (json.RawMessage, error) { return nil, test.err },
				changeFunc: func(uuid.UUID, int64, payment.Status, string) (json.RawMessage, error) { return nil, test.err },
				appendFunc: func(string, string, json.RawMessage, payment.Origin) (payment.Answer, error) {
					return payment.Answer{}, test.err
				},
			})
			for _, r := range []*http.Request{
				request("POST", "/payments", `{"amount":1,"currency":"USD"}`),
				request("GET", "/payments/"+anID, ""),
				request("PATCH", "/payments/"+anID, `{"status":"refunded"}`),
				request("POST", "/events", `{"event_type":"a.b","data":{}}`),
			} {
				w := answer(h, r)
				require.Equal(t, test.status, w.Code)
				require.NotContains(t, w.Body.String(), "EOF")
				problemOf(t, w)
			}
			require.Len(t, scrape(registry, "hookline_api_requests_total"), 4)
		})
	}
}

func TestAClientThatLeavesDoesNotCutTheStatement(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t, fakeStore{createFunc: func(ctx context.Context, _ payment.Draft, _ payment.Origin) (payment.Answer, error) {
		return payment.Answer{ID: anID, Document: json.RawMessage(`{}`)}, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := answer(h, request("POST", "/payments", `{"amount":1,"currency":"USD"}`).WithContext(ctx))
	require.Equal(t, http.StatusCreated, w.Code)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	h, registry := newHandler(t, fakeStore{
		createFunc: func(_ context.Context, d payment.Draft, _ payment.Origin) (payment.Answer, error) {
			if d.Amount == 13 {
				panic("unlucky")
			}
			return payment.Answer{ID: anID, Document: json.RawMessage(`{}`)}, nil
		},
		getFunc: func(uuid.UUID) (json.RawMessage, error) { return json.RawMessage(`{}`), nil },
	})
	answer(h, request("POST", "/payments", `{"amount":1,"currency":"USD"}`))
	answer(h, request("POST", "/payments", `{"amount":1,"currency":"USD"}`))
	answer(h, request("POST", "/payments", `{}`))
	answer(h, request("GET", "/payments/"+anID, ""))
	require.Panics(t, func() { answer(h, request("POST", "/payments", `{"amount":13,"currency":"USD"}`)) })
	require.Equal(t, []string{
		`hookline_api_requests_total{method="GET",route="/payments/{id}",status="200"} 1`,
		`hookline_api_requests_total{method="POST",route="/payments",status="201"} 2`,
		`hookline_api_requests_total{method="POST",route="/payments",status="422"} 1`,
		`hookline_api_requests_total{method="POST",route="/payments",status="500"} 1`,
	}, scrape(registry, "hookline_api_requests_total"))
	require.Equal(t, []string{
		`hookline_api_request_duration_seconds_count{route="/events"} 0`,
		`hookline_api_request_duration_seconds_count{route="/payments"} 4`,
		`hookline_api_request_duration_seconds_count{route="/payments/{id}"} 1`,
		`hookline_api_request_duration_seconds_count{route="/payments/{id}/history"} 0`,
	}, scrape(registry, "hookline_api_request_duration_seconds_count"))
}

// scrape returns the lines of one metric.
func scrape(registry *prometheus.Registry, metric string) []string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var out []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, metric+"{") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
