package deliver_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/signing"
)

var (
	firstSecret  = "whsec_" + base64.StdEncoding.EncodeToString([]byte("the first secret of an endpoint"))
	secondSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("the secret that comes after it"))
	body         = []byte(`{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057"}`)
)

func message() deliver.Message { return deliver.Message{EventID: eventID, Body: body} }

func endpoint(url string) delivery.Endpoint {
	return delivery.Endpoint{URL: url, Enabled: true, Timeout: 10 * time.Second, Secrets: []delivery.Secret{{Value: firstSecret}}}
}

func allow() error { return nil }

func newClient(t *testing.T) *deliver.Client {
	t.Helper()
	client := deliver.NewClient(4)
	t.Cleanup(client.Close)
	return client
}

// merchant serves until the test ends, and cuts what is still open then.
func merchant(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server
}

// listen gives each connection to serve, and closes it afterwards.
func listen(t *testing.T, serve func(number int, conn *net.TCPConn)) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for number := 1; ; number++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(number, conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return listener.Addr().String()
}

func TestTheStatusIsTheOutcome(t *testing.T) {
	t.Parallel()
	var strayed atomic.Int32
	elsewhere := merchant(t, func(http.ResponseWriter, *http.Request) { strayed.Add(1) })
	for _, test := range []struct {
		status   int
		location string
		cause    delivery.Cause
	}{
		{status: 200, cause: delivery.CauseOK},
		{status: 204, cause: delivery.CauseOK},
		{status: 299, cause: delivery.CauseOK},
		{status: 301, location: elsewhere.URL, cause: delivery.CauseStatus},
		{status: 302, location: "http://[broken", cause: delivery.CauseStatus},
		{status: 304, cause: delivery.CauseStatus},
		{status: 307, location: elsewhere.URL, cause: delivery.CauseStatus},
		{status: 308, location: elsewhere.URL, cause: delivery.CauseStatus},
		{status: 400, cause: delivery.CauseStatus},
		{status: 410, cause: delivery.CauseStatus},
		{status: 429, cause: delivery.CauseStatus},
		{status: 500, cause: delivery.CauseStatus},
		{status: 503, cause: delivery.CauseStatus},
	} {
		var requests atomic.Int32
		server := merchant(t, func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			if test.location != "" {
				w.Header().Set("Location", test.location)
			}
			w.WriteHeader(test.status)
		})
		response := newClient(t).Post(t.Context(), endpoint(server.URL), message(), 1, allow)
		require.Equal(t, test.cause, response.Cause, test.status)
		require.Equal(t, test.status, response.StatusCode)
		require.True(t, response.Sent)
		require.Positive(t, response.Latency)
		require.EqualValues(t, 1, requests.Load(), test.status)
	}
	require.Zero(t, strayed.Load(), "a redirect was followed")
}

func TestTheRequestIsAStandardWebhook(t *testing.T) {
	t.Parallel()
	var (
		got  http.Header
		sent []byte
	)
	server := merchant(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header
		sent, _ = io.ReadAll(r.Body)
	})
	e := endpoint(server.URL)
	past := time.Now().Add(-time.Minute)
	e.Secrets = []delivery.Secret{
		{Value: firstSecret, ExpiresAt: time.Now().Add(time.Hour)},
		{Value: secondSecret},
		{Value: "whsec_" + base64.StdEncoding.EncodeToString([]byte("what was rotated out a minute ago")), ExpiresAt: past},
		{Value: "whsec_not base64"},
	}
	response := newClient(t).Post(t.Context(), e, message(), 3, allow)
	require.Equal(t, delivery.CauseOK, response.Cause)

	require.Equal(t, body, sent)
	require.Equal(t, eventID.String(), got.Get("webhook-id"))
	require.Equal(t, "3", got.Get("webhook-attempt"))
	require.Equal(t, "application/json", got.Get("content-type"))
	require.True(t, strings.HasPrefix(got.Get("user-agent"), "Hookline/"))
	require.Empty(t, got.Get("accept-encoding"), "a compressed answer would not be read")
	require.Len(t, strings.Fields(got.Get("webhook-signature")), 2, "one per live secret")
	for _, secret := range []string{firstSecret, secondSecret} {
		webhook, err := svix.NewWebhook(secret)
		require.NoError(t, err)
		require.NoError(t, webhook.Verify(sent, got))
		require.Error(t, webhook.Verify(append(sent, ' '), got))
	}
}

func TestOneLiveSecretSignsOnce(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_770_000_000, 0)
	signature := deliver.Sign([]delivery.Secret{{Value: secondSecret, ExpiresAt: at}, {Value: firstSecret}}, message(), at)
	webhook, err := svix.NewWebhook(firstSecret)
	require.NoError(t, err)
	want, err := webhook.Sign(eventID.String(), at, body)
	require.NoError(t, err)
	require.Equal(t, want, signature, "the other one expires this very moment")
}

func TestEachLiveSecretSignsByItsOwnScheme(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_770_000_000, 0)
	private, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	expired, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	signature := deliver.Sign([]delivery.Secret{
		{Value: firstSecret, ExpiresAt: at.Add(time.Second)}, {Value: expired, ExpiresAt: at}, {Value: private},
	}, message(), at)
	header := signatureHeader(at, signature)
	require.Len(t, strings.Fields(signature), 2)
	require.NoError(t, verifier(t, firstSecret).Verify(header, body, at))
	require.NoError(t, verifier(t, private).Verify(header, body, at))
	require.Error(t, verifier(t, expired).Verify(header, body, at))
	require.Error(t, verifier(t, secondSecret).Verify(header, body, at))
}

func verifier(t *testing.T, secret string) signing.Verifier {
	t.Helper()
	parsed, err := signing.ParseSecret(secret)
	require.NoError(t, err)
	v, err := signing.ParseVerifier(parsed.Verifier())
	require.NoError(t, err)
	return v
}

func signatureHeader(at time.Time, signature string) http.Header {
	return http.Header{
		"Webhook-Id": {eventID.String()}, "Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)}, "Webhook-Signature": {signature},
	}
}

func FuzzSignatureVerifies(f *testing.F) {
	f.Add(firstSecret, body)
	f.Add("whsec_", []byte{})
	f.Add("whsk_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)), body)
	f.Add("AAAA", []byte("\x00"))
	f.Fuzz(func(t *testing.T, secret string, content []byte) {
		at := time.Unix(1_770_000_000, 0)
		signature := deliver.Sign([]delivery.Secret{{Value: secret}}, deliver.Message{EventID: eventID, Body: content}, at)
		if _, err := signing.ParseSecret(secret); err != nil {
			require.Empty(t, signature)
			return
		}
		require.NoError(t, verifier(t, secret).Verify(signatureHeader(at, signature), content, at))
	})
}

func TestNothingIsSentWithoutALiveSecret(t *testing.T) {
	t.Parallel()
	addr := listen(t, func(int, *net.TCPConn) { t.Error("a connection was made") })
	for name, secrets := range map[string][]delivery.Secret{
		"none":         nil,
		"expired":      {{Value: firstSecret, ExpiresAt: time.Now().Add(-time.Second)}},
		"empty":        {{Value: "whsec_"}},
		"undecodable":  {{Value: "whsec_%%%"}},
		"too short":    {{Value: "whsec_c2VjcmV0"}},
		"all unusable": {{Value: ""}, {Value: firstSecret, ExpiresAt: time.Now().Add(-time.Hour)}},
	} {
		e := endpoint("http://" + addr)
		e.Secrets = secrets
		response := newClient(t).Post(t.Context(), e, message(), 1, func() error { t.Error("the guard was asked"); return nil })
		require.Equal(t, deliver.Response{Cause: delivery.CauseNoSecret}, response, name)
	}
}

func TestTheTimeoutBoundsEveryPart(t *testing.T) {
	t.Parallel()
	const timeout = 200 * time.Millisecond
	trickle := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				w.Write([]byte("."))
				http.NewResponseController(w).Flush()
				<-tick.C
			}
		}
	}
	hold := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	trickledHeaders := listen(t, func(_ int, conn *net.TCPConn) {
		readRequest(conn)
		conn.Write([]byte("HTTP/1.1 200 OK\r\n"))
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := conn.Write([]byte("a: b\r\n")); err != nil {
				return
			}
		}
	})
	silent := listen(t, func(_ int, conn *net.TCPConn) { io.Copy(io.Discard, conn) })
	switched := listen(t, func(_ int, conn *net.TCPConn) {
		readRequest(conn)
		conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: silence\r\n\r\n"))
		io.Copy(io.Discard, conn)
	})
	for name, test := range map[string]struct {
		url    string
		cause  delivery.Cause
		status int
		sent   bool
		waits  bool
	}{
		"no answer":                     {url: merchant(t, hold).URL, cause: delivery.CauseTimeout, sent: true, waits: true},
		"headers that do not end":       {url: "http://" + trickledHeaders, cause: delivery.CauseTimeout, sent: true, waits: true},
		"a TLS handshake that hangs":    {url: "https://" + silent, cause: delivery.CauseTimeout, waits: true},
		"a body that trickles":          {url: merchant(t, trickle(503)).URL, cause: delivery.CauseStatus, status: 503, sent: true, waits: true},
		"a body that trickles after OK": {url: merchant(t, trickle(200)).URL, cause: delivery.CauseOK, status: 200, sent: true, waits: true},
		"another protocol":              {url: "http://" + switched, cause: delivery.CauseStatus, status: 101, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := endpoint(test.url)
			e.Timeout = timeout
			began := time.Now()
			response := newClient(t).Post(t.Context(), e, message(), 1, allow)
			took := time.Since(began)
			require.Equal(t, test.cause, response.Cause)
			require.Equal(t, test.status, response.StatusCode)
			require.Equal(t, test.sent, response.Sent)
			require.Less(t, took, timeout+5*time.Second)
			require.LessOrEqual(t, response.Latency, took)
			if test.waits {
				require.GreaterOrEqual(t, response.Latency, timeout, "the latency is of the whole attempt")
			}
		})
	}
}

func TestFailuresOfTheConnectionAreValues(t *testing.T) {
	t.Parallel()
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	reset := listen(t, func(_ int, conn *net.TCPConn) {
		conn.Read(make([]byte, 1))
		conn.SetLinger(0)
	})
	hangsUp := listen(t, func(_ int, conn *net.TCPConn) { readRequest(conn) })
	babble := listen(t, func(_ int, conn *net.TCPConn) {
		readRequest(conn)
		conn.Write([]byte("220 smtp.example.com ESMTP\r\n"))
	})
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = discard
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	huge := merchant(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Huge", strings.Repeat("x", 100<<10))
	})
	for name, test := range map[string]struct {
		url   string
		cause delivery.Cause
		sent  bool
	}{
		"refused":               {url: "http://" + closed.Addr().String(), cause: delivery.CauseConnection},
		"reset":                 {url: "http://" + reset, cause: delivery.CauseConnection, sent: true},
		"hung up":               {url: "http://" + hangsUp, cause: delivery.CauseConnection, sent: true},
		"not HTTP":              {url: "http://" + babble, cause: delivery.CauseConnection, sent: true},
		"untrusted certificate": {url: untrusted.URL, cause: delivery.CauseConnection},
		"huge headers":          {url: huge.URL, cause: delivery.CauseConnection, sent: true},
		"no such scheme":        {url: "gopher://127.0.0.1:1", cause: delivery.CauseConnection},
		"no host":               {url: "http://", cause: delivery.CauseConnection},
		"no URL":                {url: "http://[::1", cause: delivery.CauseInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := newClient(t).Post(t.Context(), endpoint(test.url), message(), 1, allow)
			require.Equal(t, test.cause, response.Cause)
			require.Zero(t, response.StatusCode)
			require.Equal(t, test.sent, response.Sent)
		})
	}
}

func TestTheAnswerIsBounded(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			for {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 4<<10)); err != nil {
					return
				}
			}
		case "/whole":
			w.Write(bytes.Repeat([]byte("y"), 10<<10))
		case "/short":
			w.Write([]byte("no such order"))
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t)
	post := func(path string) deliver.Response {
		return client.Post(t.Context(), endpoint(server.URL+path), message(), 1, allow)
	}

	require.Equal(t, "no such order", string(post("/short").Answer))
	require.Equal(t, strings.Repeat("y", 1024), string(post("/whole").Answer))
	require.EqualValues(t, 1, connections.Load(), "what was read whole leaves its connection for the next webhook")

	endless := post("/endless")
	require.Equal(t, delivery.CauseOK, endless.Cause)
	require.Equal(t, strings.Repeat("x", 1024), string(endless.Answer))
	require.Equal(t, 1024, cap(endless.Answer), "the rest of what was read is not kept")
	post("/short")
	require.EqualValues(t, 2, connections.Load(), "a connection with an answer in it serves nobody else")
}

func TestNoProxyIsTakenFromTheEnvironment(t *testing.T) {
	t.Parallel()
	require.Nil(t, newClient(t).Proxy())
}

func TestTheEndOfTheProcessCutsARequest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	server := merchant(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		cancel(errors.New("the process ends"))
		<-r.Context().Done()
	})
	response := newClient(t).Post(ctx, endpoint(server.URL), message(), 1, allow)
	require.Equal(t, delivery.CauseConnection, response.Cause)
	require.True(t, response.Sent)
}
