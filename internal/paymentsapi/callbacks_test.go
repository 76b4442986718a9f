package paymentsapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/paymentsapi"
	"github.com/hookline/hookline/internal/signing"
)

const (
	stripeSecret = "whsec_door"
	acmeSecret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	refunded     = `{"id":"evt_1","type":"charge.refunded","created":1770000000,"data":{"object":{"refunded":true,"metadata":{"payment_id":"` + anID + `"}}}}`
)

// forwarded is what a fakeForwarder was given.
type forwarded struct {
	event  callback.Event
	header http.Header
	body   string
}

// fakeForwarder keeps callbacks, unless it is told to fail.
type fakeForwarder struct {
	got     []forwarded
	err     error
	history func(uuid.UUID) ([]callback.Entry, error)
}

func (f *fakeForwarder) ForwardCallback(ctx context.Context, e callback.Event, header http.Header, body []byte) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("it would wait for ever")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.got = append(f.got, forwarded{e, header, string(body)})
	return f.err
}

func (f *fakeForwarder) PaymentHistory(_ context.Context, id uuid.UUID) ([]callback.Entry, error) {
	return f.history(id)
}

// door is a server with providers, and what it wrote to its log.
type door struct {
	http.Handler
	to       *fakeForwarder
	registry *prometheus.Registry
	log      *bytes.Buffer
}

func newDoor(t testing.TB, secrets string) door {
	t.Helper()
	d := door{to: &fakeForwarder{}, registry: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	var providers callback.Providers
	if secrets != "" {
		require.NoError(t, providers.UnmarshalText([]byte(secrets)))
	}
	router := chi.NewRouter()
	server := paymentsapi.New(paymentsapi.Options{
		Store: fakeStore{getFunc: func(id uuid.UUID) (json.RawMessage, error) {
			if id.String() != anID {
				return nil, fault.New(fault.NotFound, "no such payment")
			}
			return json.RawMessage(`{"id": "` + anID + `"}`), nil
		}},
		Forwarder: d.to, Providers: providers, Log: slog.New(slog.NewJSONHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registry: d.registry, Timeout: time.Minute,
	})
	server.Routes(router)
	server.CallbackRoutes(router)
	d.Handler = router
	return d
}

// received are the counts above zero.
func (d door) received() []string {
	var out []string
	for _, line := range scrape(d.registry, "hookline_callbacks_received_total") {
		if !strings.HasSuffix(line, " 0") {
			out = append(out, strings.TrimPrefix(line, "hookline_callbacks_received_total"))
		}
	}
	return out
}

func stripeCallback(body string) *http.Request {
	return request("POST", "/callbacks/stripe", body, "Stripe-Signature", callback.StripeSignature(stripeSecret, time.Now(), []byte(body)))
}

func acmeCallback(t require.TestingT, names, id, body string) *http.Request {
	secret, err := signing.ParseSecret(acmeSecret)
	require.NoError(t, err)
	now := time.Now()
	return request("POST", "/callbacks/acme", body, names+"-Id", id, names+"-Timestamp", strconv.FormatInt(now.Unix(), 10),
		names+"-Signature", secret.Sign(id, now, []byte(body)))
}

func TestACallbackIsHandedOverAsItCame(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret+",acme="+acmeSecret)
	body := " " + refunded + "\n" // the bytes are signed, not the JSON
	r := stripeCallback(body)
	r.Header.Set("Content-Type", "text/plain") // nobody signs that
	w := answer(d, r)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.JSONEq(t, `{"status":"accepted"}`, w.Body.String())
	require.Len(t, d.to.got, 1)
	require.Equal(t, body, d.to.got[0].body)
	require.Equal(t, "stripe:evt_1", d.to.got[0].event.Key())
	require.Equal(t, uuid.MustParse(anID), d.to.got[0].event.PaymentID)
	require.Equal(t, payment.StatusRefunded, d.to.got[0].event.Change.To)
	require.Equal(t, r.Header.Get("Stripe-Signature"), d.to.got[0].header.Get("Stripe-Signature"))

	for _, names := range []string{"Webhook", "Svix"} {
		w := answer(d, acmeCallback(t, names, "msg_1", `{"type":"payment.failed"}`))
		require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	}
	require.Equal(t, "acme:msg_1", d.to.got[2].event.Key())
	unknown := answer(d, stripeCallback(`{"id":"evt_2","type":"customer.created"}`))
	require.Equal(t, http.StatusAccepted, unknown.Code, "what nobody knows is kept, too")
	require.Equal(t, []string{`{outcome="accepted",provider="acme"} 2`, `{outcome="accepted",provider="stripe"} 2`}, d.received())
	require.Contains(t, d.log.String(), `"provider":"stripe","event_id":"evt_1","event_type":"charge.refunded"`)
	require.NotContains(t, d.log.String(), anID, "the body")
}

// The vectors are those that Stripe's and Standard Webhooks' documentation and libraries are tested by: see the tests of
// callback and signing. Here the door takes them on their day, and five minutes later, and not after that.
func TestPublishedCallbacksAreTakenOnTheirDay(t *testing.T) {
	t.Parallel()
	for name, vector := range map[string]struct {
		provider, secret, body string
		header                 []string
		at                     int64
	}{
		"Stripe": {
			"stripe", "whsec_test_secret", `{"id":"evt_1","object":"event"}`,
			[]string{"Stripe-Signature", "t=1492774577,v1=654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"},
			1492774577,
		},
		"Standard Webhooks": {
			"acme", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", `{"test": 2432232314}`,
			[]string{
				"Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp", "1614265330",
				"Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
			},
			1614265330,
		},
		"Svix, ed25519": {
			"svix", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", `{"test": 2432232314}`,
			[]string{
				"Svix-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "Svix-Timestamp", "1614265330",
				"Svix-Signature", "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
			},
			1614265330,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDoor(t, vector.provider+"="+vector.secret)
				send := func() *httptest.ResponseRecorder {
					return answer(d, request("POST", "/callbacks/"+vector.provider, vector.body, vector.header...))
				}
				require.Equal(t, http.StatusUnauthorized, send().Code, "in the year 2000")
				<-time.After(time.Until(time.Unix(vector.at, 0)))
				require.Equal(t, http.StatusAccepted, send().Code)
				<-time.After(callback.Tolerance)
				require.Equal(t, http.StatusAccepted, send().Code)
				<-time.After(time.Second)
				require.Equal(t, http.StatusUnauthorized, send().Code)
				require.Equal(t, []string{
					`{outcome="accepted",provider="` + vector.provider + `"} 2`, `{outcome="bad_signature",provider="` + vector.provider + `"} 2`,
				}, d.received())
				require.Len(t, d.to.got, 2)
			})
		})
	}
}

func TestWhatIsNotSignedWellIsRefused(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret+",acme="+acmeSecret)
	old := callback.StripeSignature(stripeSecret, time.Now().Add(-callback.Tolerance-time.Minute), []byte(refunded))
	requests := map[string]*http.Request{
		"unsigned":                request("POST", "/callbacks/stripe", refunded),
		"unsigned and no JSON":    request("POST", "/callbacks/stripe", "{"),
		"old":                     request("POST", "/callbacks/stripe", refunded, "Stripe-Signature", old),
		"another body":            request("POST", "/callbacks/stripe", refunded+" ", "Stripe-Signature", stripeCallback(refunded).Header.Get("Stripe-Signature")),
		"another secret":          request("POST", "/callbacks/stripe", refunded, "Stripe-Signature", callback.StripeSignature("whsec_else", time.Now(), []byte(refunded))),
		"another provider's door": request("POST", "/callbacks/acme", refunded, "Stripe-Signature", stripeCallback(refunded).Header.Get("Stripe-Signature")),
		"without an id":           acmeCallback(t, "Webhook", "", `{"type":"payment.failed"}`),
		"with an id of two parts": acmeCallback(t, "Webhook", "a.b", `{"type":"payment.failed"}`),
	}
	for name, r := range requests {
		w := answer(d, r)
		require.Equal(t, http.StatusUnauthorized, w.Code, name)
		require.NotEmpty(t, problemOf(t, w).Detail, name)
		require.NotContains(t, w.Body.String(), "whsec_", name)
	}
	require.Empty(t, d.to.got)
	require.Equal(t, []string{`{outcome="bad_signature",provider="acme"} 3`, `{outcome="bad_signature",provider="stripe"} 5`}, d.received())
	require.NotContains(t, d.log.String(), "evt_1", "whoever sent it chose it")
	require.Equal(t, 8, strings.Count(d.log.String(), `"level":"DEBUG"`))
	require.Equal(t, 8, strings.Count(d.log.String(), `"level":`), "anybody could fill the log")
}

func TestWhatBearsNoSignatureIsNotRead(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret+",acme="+acmeSecret)
	for _, r := range []*http.Request{
		request("POST", "/callbacks/stripe", refunded),
		request("POST", "/callbacks/stripe", refunded, "Webhook-Signature", "v1,AA=="),
		request("POST", "/callbacks/acme", refunded, "Stripe-Signature", "t=1,v1=00", "Webhook-Id", "msg_1"),
	} {
		r.Body = io.NopCloser(unreadable{t})
		require.Equal(t, http.StatusUnauthorized, problemOf(t, answer(d, r)).Status)
	}
	require.Equal(t, []string{`{outcome="bad_signature",provider="acme"} 1`, `{outcome="bad_signature",provider="stripe"} 2`}, d.received())
}

func TestWhatIsSignedAndCannotBeReadIsHandedOverAllTheSame(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret+",acme="+acmeSecret)
	bodies := []string{"", "{", "[]", `{"type":"charge.refunded"}`, `{"id":"evt_secret"}`, `{"id":77777,"type":"t"}`}
	keys := map[string]bool{}
	for i, body := range bodies {
		w := answer(d, stripeCallback(body))
		require.Equal(t, http.StatusAccepted, w.Code, body)
		require.Equal(t, body, d.to.got[i].body)
		require.Regexp(t, `^stripe:sha256:[0-9a-f]{64}$`, d.to.got[i].event.Key())
		keys[d.to.got[i].event.Key()] = true
	}
	require.Len(t, keys, len(bodies))
	require.Equal(t, http.StatusAccepted, answer(d, stripeCallback("{")).Code)
	require.Equal(t, d.to.got[1].event.Key(), d.to.got[len(bodies)].event.Key(), "it came again")
	require.Equal(t, http.StatusAccepted, answer(d, acmeCallback(t, "Svix", "msg_1", "{")).Code)
	require.Equal(t, "acme:sha256:021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96", d.to.got[len(bodies)+1].event.Key())
	require.Equal(t, []string{`{outcome="accepted",provider="acme"} 1`, `{outcome="accepted",provider="stripe"} 7`}, d.received())
	require.NotContains(t, d.log.String(), "evt_secret")
	require.NotContains(t, d.log.String(), "77777")
}

func TestABodyThatEndsEarlyIsIncomplete(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret)
	cut := stripeCallback(refunded)
	cut.Body = io.NopCloser(io.MultiReader(strings.NewReader(refunded[:9]), brokenReader{}))
	require.Equal(t, http.StatusBadRequest, problemOf(t, answer(d, cut)).Status)
	require.Empty(t, d.to.got)
	require.Equal(t, []string{`{outcome="incomplete",provider="stripe"} 1`}, d.received())
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestUnknownProvidersAreNotThere(t *testing.T) {
	t.Parallel()
	none, some := newDoor(t, ""), newDoor(t, "acme="+acmeSecret)
	for _, d := range []door{none, some} {
		r := stripeCallback(refunded)
		require.Equal(t, http.StatusNotFound, problemOf(t, answer(d, r)).Status)
		require.Empty(t, d.to.got)
		require.Empty(t, d.received())
	}
	require.Empty(t, scrape(none.registry, "hookline_callbacks_received_total"))
	require.Equal(t, []string{
		`hookline_callbacks_received_total{outcome="accepted",provider="acme"} 0`,
		`hookline_callbacks_received_total{outcome="bad_signature",provider="acme"} 0`,
		`hookline_callbacks_received_total{outcome="busy",provider="acme"} 0`,
		`hookline_callbacks_received_total{outcome="incomplete",provider="acme"} 0`,
		`hookline_callbacks_received_total{outcome="too_large",provider="acme"} 0`,
		`hookline_callbacks_received_total{outcome="unavailable",provider="acme"} 0`,
	}, scrape(some.registry, "hookline_callbacks_received_total"))
	require.Equal(t, http.StatusMethodNotAllowed, answer(some, request("GET", "/callbacks/acme", "")).Code)
}

func TestTheDoorTakes256KiBAndNoMore(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret)
	const most = 256 << 10
	fits := refunded + strings.Repeat(" ", most-len(refunded))
	require.Equal(t, http.StatusAccepted, answer(d, stripeCallback(fits)).Code)

	told := stripeCallback(fits + " ")
	told.Body = io.NopCloser(unreadable{t})
	require.Equal(t, http.StatusRequestEntityTooLarge, problemOf(t, answer(d, told)).Status)
	untold := stripeCallback(fits + " ")
	untold.ContentLength = -1
	require.Equal(t, http.StatusRequestEntityTooLarge, problemOf(t, answer(d, untold)).Status)
	require.Len(t, d.to.got, 1)
	require.Equal(t, []string{`{outcome="accepted",provider="stripe"} 1`, `{outcome="too_large",provider="stripe"} 2`}, d.received())
}

// unreadable is a body that is not read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestABodyThatIsTooLargeIsNotAskedFor(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newDoor(t, "stripe="+stripeSecret))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "POST /callbacks/stripe HTTP/1.1\r\nHost: door\r\nStripe-Signature: t=1,v1=00\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
	require.NoError(t, err)
	said, err := io.ReadAll(conn) // the server does not wait for the rest
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(said), "HTTP/1.1 413 "), string(said))
}

// pipes is a listener of connections that are made by dial, and know the time of a synctest bubble.
type pipes chan net.Conn

func (p pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p <- theirs
	return ours
}

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}

func (pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func TestStalledBodiesAreFewAndDoNotLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, "stripe="+stripeSecret)
		listener := make(pipes)
		server := &http.Server{Handler: d}
		go server.Serve(listener)
		defer server.Close()
		send := func(header, body string) net.Conn {
			conn := listener.dial()
			_, err := io.WriteString(conn, "POST /callbacks/stripe HTTP/1.1\r\nHost: door\r\n"+header+"\r\n\r\n"+body)
			require.NoError(t, err)
			return conn
		}
		said := func(conn net.Conn) *http.Response {
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			return response
		}
		start := time.Now()
		var stalled []net.Conn
		for range 64 {
			stalled = append(stalled, send("Stripe-Signature: t=1,v1=00\r\nContent-Length: 262144", strings.Repeat(" ", 255<<10)))
		}
		synctest.Wait()
		busy := said(send("Stripe-Signature: t=1,v1=00\r\nContent-Length: 262144", ""))
		require.Equal(t, http.StatusServiceUnavailable, busy.StatusCode)
		require.Equal(t, "1", busy.Header.Get("Retry-After"))
		require.Equal(t, http.StatusUnauthorized, said(send("Content-Length: 262144", "")).StatusCode, "that takes no place")
		require.Equal(t, start, time.Now())

		for _, conn := range stalled {
			require.Equal(t, http.StatusBadRequest, said(conn).StatusCode)
		}
		require.Equal(t, 5*time.Second, time.Since(start))
		good := stripeCallback(refunded)
		header := "Stripe-Signature: " + good.Header.Get("Stripe-Signature") + "\r\nContent-Length: " + strconv.Itoa(len(refunded))
		require.Equal(t, http.StatusAccepted, said(send(header, refunded)).StatusCode)
		require.Equal(t, []string{
			`{outcome="accepted",provider="stripe"} 1`, `{outcome="bad_signature",provider="stripe"} 1`,
			`{outcome="busy",provider="stripe"} 1`, `{outcome="incomplete",provider="stripe"} 64`,
		}, d.received())
	})
}

func TestWhatIsNotKeptIsToBeSentAgain(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		fault.Wrap(errors.New("connection refused"), fault.Unavailable, "calling Restate"),
		fault.New(fault.Conflict, "the handler refused it"), errors.New("who knows"), context.DeadlineExceeded,
	} {
		d := newDoor(t, "stripe="+stripeSecret)
		d.to.err = err
		w := answer(d, stripeCallback(refunded))
		require.Equal(t, http.StatusServiceUnavailable, problemOf(t, w).Status)
		require.Equal(t, "5", w.Header().Get("Retry-After"))
		require.Equal(t, []string{`{outcome="unavailable",provider="stripe"} 1`}, d.received())
		require.NotContains(t, w.Body.String(), err.Error())
		require.Contains(t, d.log.String(), err.Error())
		require.Contains(t, d.log.String(), "evt_1")
	}
}

func TestACallbackOutlivesItsSender(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "stripe="+stripeSecret)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, http.StatusAccepted, answer(d, stripeCallback(refunded).WithContext(ctx)).Code)
	require.Len(t, d.to.got, 1)
}

func TestPaymentHistory(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d.to.history = func(id uuid.UUID) ([]callback.Entry, error) {
		if id.String() != anID {
			return nil, nil
		}
		return []callback.Entry{{
			Provider: "stripe", EventID: "evt_1", Type: "charge.refunded", Status: payment.StatusRefunded,
			OccurredAt: at, ReceivedAt: at, DecidedAt: at, Outcome: callback.Applied,
		}}, nil
	}
	w := answer(d, request("GET", "/payments/"+anID+"/history", ""))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.JSONEq(t, `{"payment":{"id":"`+anID+`"},"callbacks":[{
		"provider":"stripe","event_id":"evt_1","type":"charge.refunded","status":"refunded","outcome":"applied",
		"occurred_at":"2026-01-02T03:04:05Z","received_at":"2026-01-02T03:04:05Z","decided_at":"2026-01-02T03:04:05Z"}]}`, w.Body.String())

	require.Equal(t, http.StatusNotFound, problemOf(t, answer(d, request("GET", "/payments/"+uuid.NewString()+"/history", ""))).Status)
	require.Equal(t, http.StatusBadRequest, problemOf(t, answer(d, request("GET", "/payments/7/history", ""))).Status)

	d.to.history = func(uuid.UUID) ([]callback.Entry, error) { return nil, nil }
	w = answer(d, request("GET", "/payments/"+anID+"/history", ""))
	require.JSONEq(t, `{"payment":{"id":"`+anID+`"},"callbacks":[]}`, w.Body.String(), "a list, also of none")

	d.to.history = func(uuid.UUID) ([]callback.Entry, error) {
		return nil, fault.Wrap(errors.New("connection refused"), fault.Unavailable, "asking Restate")
	}
	w = answer(d, request("GET", "/payments/"+anID+"/history", ""))
	require.Equal(t, http.StatusServiceUnavailable, problemOf(t, w).Status)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// Whatever comes, what is signed well is kept and nothing else, and nothing is the server's fault.
func FuzzDoor(f *testing.F) {
	const both = "stripe=" + stripeSecret + ",acme=" + acmeSecret
	var providers callback.Providers
	require.NoError(f, providers.UnmarshalText([]byte(both)))
	const stripes, name, stamp = "t=1492774577,v1=654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543", "msg_1", "1614265330"
	f.Add("stripe", stripes, name, stamp, "", []byte(`{"id":"evt_1","object":"event"}`), false, false)
	f.Add("stripe", "", name, stamp, "", []byte(refunded), true, false)
	f.Add("stripe", "", name, stamp, "", []byte(`{"id":"evt_1","type":"t","created":1e400}`), true, true)
	f.Add("acme", "", name, stamp, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte(`{"test": 2432232314}`), false, false)
	f.Add("acme", "", name, stamp, "", []byte(`{"type":"payment.failed","timestamp":"2026-01-02T03:04:05Z"}`), true, true)
	f.Add("..", "t=,v1=", "a.b", "-1", "v1, v1a,", []byte("null"), false, false)
	f.Fuzz(func(t *testing.T, provider, stripes, id, stamp, signature string, body []byte, sign, unavailable bool) {
		d := newDoor(t, both)
		if unavailable {
			d.to.err = fault.New(fault.Unavailable, "Restate is away")
		}
		r := request("POST", "/callbacks/x", string(body), "Stripe-Signature", stripes)
		if sign && provider == callback.Stripe {
			r = stripeCallback(string(body))
		}
		if sign && provider == "acme" {
			r = acmeCallback(t, "Webhook", id, string(body))
		}
		r.URL.Path = "/callbacks/" + provider
		for _, names := range []string{"Webhook", "Svix"} { // behind those that are signed
			r.Header.Add(names+"-Id", id)
			r.Header.Add(names+"-Timestamp", stamp)
			r.Header.Add(names+"-Signature", signature)
		}
		good := providers.Verify(provider, r.Header, body, time.Now()) == nil
		_, err := callback.Parse(provider, r.Header, body)

		w := answer(d, r)
		switch {
		case good && unavailable:
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
		case good:
			require.Equal(t, http.StatusAccepted, w.Code)
		default:
			require.Contains(t, []int{http.StatusUnauthorized, http.StatusNotFound}, w.Code)
		}
		require.Equal(t, good, len(d.to.got) == 1)
		if good {
			require.Equal(t, string(body), d.to.got[0].body)
			require.Equal(t, provider, d.to.got[0].event.Provider)
			require.Equal(t, err != nil, strings.HasPrefix(d.to.got[0].event.ID, "sha256:"))
		}
	})
}
