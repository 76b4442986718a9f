package deliver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/egress"
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
	return clientOver(t, &network{})
}

func clientOver(t *testing.T, n deliver.Network) *deliver.Client {
	t.Helper()
	client := deliver.NewClient(4, n)
	t.Cleanup(client.Close)
	return client
}

// network lets everything through.
type network struct {
	net.Dialer
	until context.Context // ends what net/http goes on dialling for the next request
}

func (*network) CheckURL(context.Context, string) error { return nil }

func (n *network) DialContext(ctx context.Context, kind, addr string) (net.Conn, error) {
	if n.until != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer context.AfterFunc(n.until, cancel)()
	}
	return n.Dialer.DialContext(ctx, kind, addr)
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
	nameless := nameServer(t, nil)
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
		"a name that is not resolved":   {url: "http://merchant.example", cause: delivery.CauseTimeoutConnect, waits: true},
		"a connection that hangs":       {url: "http://" + full(t), cause: delivery.CauseTimeoutConnect, waits: true},
		"a TLS handshake that hangs":    {url: "https://" + silent, cause: delivery.CauseTimeoutTLS, waits: true},
		"no answer":                     {url: merchant(t, hold).URL, cause: delivery.CauseTimeoutAnswer, sent: true, waits: true},
		"headers that do not end":       {url: "http://" + trickledHeaders, cause: delivery.CauseTimeoutAnswer, sent: true, waits: true},
		"a body that trickles":          {url: merchant(t, trickle(503)).URL, cause: delivery.CauseServerError, status: 503, sent: true, waits: true},
		"a body that trickles after OK": {url: merchant(t, trickle(200)).URL, cause: delivery.CauseOK, status: 200, sent: true, waits: true},
		"another protocol":              {url: "http://" + switched, cause: delivery.CauseStatus, status: 101, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := endpoint(test.url)
			e.Timeout = timeout
			began := time.Now()
			response := clientOver(t, &network{until: t.Context(), Dialer: net.Dialer{Resolver: resolver(t, nameless)}}).Post(t.Context(), e, message(), 1, allow)
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
	proxy := listen(t, func(int, *net.TCPConn) { t.Error("a proxy was asked") })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://"+proxy)
	}
	server := merchant(t, func(http.ResponseWriter, *http.Request) {})
	var dialled []string
	client := clientOver(t, dials(func(ctx context.Context, kind, addr string) (net.Conn, error) {
		dialled = append(dialled, addr)
		return (&net.Dialer{}).DialContext(ctx, kind, server.Listener.Addr().String())
	}))
	response := client.Post(t.Context(), endpoint("http://merchant.example/hooks"), message(), 1, allow)
	require.Equal(t, delivery.CauseOK, response.Cause)
	require.Equal(t, []string{"merchant.example:80"}, dialled) // net/http never asks a proxy about 127.0.0.1
}

// dials is a network of that function.
type dials func(ctx context.Context, kind, addr string) (net.Conn, error)

func (dials) CheckURL(context.Context, string) error { return nil }

func (d dials) DialContext(ctx context.Context, kind, addr string) (net.Conn, error) {
	return d(ctx, kind, addr)
}

func TestNoCookieIsKept(t *testing.T) {
	t.Parallel()
	var cookies atomic.Int32
	server := merchant(t, func(w http.ResponseWriter, r *http.Request) {
		cookies.Add(int32(len(r.Cookies())))
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "of the first webhook", Path: "/"})
	})
	client := newClient(t)
	for range 2 {
		require.Equal(t, delivery.CauseOK, client.Post(t.Context(), endpoint(server.URL), message(), 1, allow).Cause)
	}
	require.Zero(t, cookies.Load())
}

func TestABombStaysPacked(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	packer := gzip.NewWriter(&bomb)
	packer.Write(make([]byte, 10<<20))
	require.NoError(t, packer.Close())
	server := merchant(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
	})
	response := newClient(t).Post(t.Context(), endpoint(server.URL), message(), 1, allow)
	require.Equal(t, delivery.CauseOK, response.Cause)
	require.Equal(t, bomb.Bytes()[:1024], response.Answer)
}

func TestWhatBreaksAfterThe2xxTakesNothingBack(t *testing.T) {
	t.Parallel()
	for name, rest := range map[string]string{
		"reset in the body": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe beginning",
		"a broken chunk":    "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nthe beginning\r\nnonsense\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, func(_ int, conn *net.TCPConn) {
				readRequest(conn)
				conn.Write([]byte(rest))
				conn.CloseWrite()
			})
			response := newClient(t).Post(t.Context(), endpoint("http://"+addr), message(), 1, allow)
			require.Equal(t, delivery.CauseOK, response.Cause)
			require.Equal(t, "the beginning", string(response.Answer))
		})
	}
}

func TestAConnectionThatClosesUnderARequestMakesNoDuplicate(t *testing.T) {
	t.Parallel()
	var handled atomic.Int32
	addr := listen(t, func(number int, conn *net.TCPConn) {
		if readRequest(conn) != nil {
			return
		}
		handled.Add(1)
		answer(conn)
		if number == 1 && readRequest(conn) == nil {
			handled.Add(1) // and the answer is lost: nobody can know that it was handled
		}
	})
	e := endpoint("http://" + addr)
	e.Headers = map[string]string{"Idempotency-Key": "one", "X-Idempotency-Key": "one"} // with which net/http would send it again
	client := newClient(t)
	require.Equal(t, delivery.CauseOK, client.Post(t.Context(), e, message(), 1, allow).Cause)
	response := client.Post(t.Context(), e, message(), 1, allow)
	require.Equal(t, delivery.CauseReset, response.Cause)
	require.True(t, response.Sent)
	require.EqualValues(t, 2, handled.Load())
}

func TestAnAnswerOverHTTP2IsBoundedToo(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			http.Error(w, "no such order over "+r.Proto, http.StatusBadRequest)
			return
		}
		for {
			if _, err := w.Write(make([]byte, 4<<10)); err != nil {
				return
			}
		}
	}))
	server.Config.ErrorLog = discard
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := newClient(t)
	client.Trust(pool(server.Certificate()))

	endless := client.Post(t.Context(), endpoint(server.URL+"/endless"), message(), 1, allow)
	require.Equal(t, delivery.CauseOK, endless.Cause)
	require.Len(t, endless.Answer, 1024)
	short := client.Post(t.Context(), endpoint(server.URL+"/short"), message(), 1, allow)
	require.Equal(t, delivery.CauseStatus, short.Cause)
	require.Equal(t, "no such order over HTTP/2.0\n", string(short.Answer))
	require.Equal(t, "text/plain", short.ContentType)
	require.EqualValues(t, 1, connections.Load(), "the connection of an answer that was cut serves others")
}

func TestHTTP2LetsLittleOnTheWay(t *testing.T) {
	t.Parallel()
	opening := make(chan []byte, 1)
	addr := listen(t, func(_ int, conn *net.TCPConn) {
		secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{authority.issue(t, nil)}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
		defer secured.Close()
		read := make([]byte, 128)
		n, _ := io.ReadAtLeast(secured, read, 24+9) // the preface and the head of the first frame
		if length := int(read[26]); n < 24+9+length+13 {
			more, _ := io.ReadAtLeast(secured, read[n:], 24+9+length+13-n)
			n += more
		}
		opening <- read[:n]
	})
	client := newClient(t)
	client.Trust(authority.pool)
	client.Post(t.Context(), endpoint("https://"+addr), message(), 1, allow)
	frame := (<-opening)[24:] // RFC 9113, sections 3.4, 4.1, 6.5 and 6.9
	length := int(frame[2])
	require.EqualValues(t, 4, frame[3], "SETTINGS")
	settings := map[uint16]uint32{}
	for setting := range slices.Chunk(frame[9:9+length], 6) {
		settings[binary.BigEndian.Uint16(setting)] = binary.BigEndian.Uint32(setting[2:])
	}
	require.EqualValues(t, 64<<10, settings[4], "the window of a request")
	frame = frame[9+length:]
	require.EqualValues(t, 8, frame[3], "WINDOW_UPDATE")
	require.EqualValues(t, 1<<20, binary.BigEndian.Uint32(frame[9:]), "the window of the connection")
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
	require.Equal(t, delivery.CauseInternal, response.Cause, "the endpoint did nothing wrong")
	require.True(t, response.Sent)
}

func TestOnlyPlacesThatMayBeReachedAre(t *testing.T) {
	t.Parallel()
	server := merchant(t, func(http.ResponseWriter, *http.Request) {})
	var open, ports egress.Config
	require.NoError(t, open.Allow.UnmarshalText([]byte(server.Listener.Addr().String())))
	ports.Ports = []uint16{443}
	for name, test := range map[string]struct {
		config egress.Config
		url    string
		cause  delivery.Cause
		says   string
	}{
		"on the list":                   {config: open, url: server.URL, cause: delivery.CauseOK},
		"http and private":              {config: ports, url: server.URL, cause: delivery.CauseBlocked, says: "loopback"},
		"https and private":             {config: ports, url: "https://127.0.0.1", cause: delivery.CauseBlocked, says: "loopback"},
		"http on the port of https":     {config: ports, url: "http://192.0.32.8:443", cause: delivery.CauseBlocked, says: "https"},
		"http by name":                  {config: ports, url: "http://example.com:443", cause: delivery.CauseBlocked, says: "https"},
		"https on the port of SMTP":     {config: ports, url: "https://example.com:25", cause: delivery.CauseBlocked, says: "port"},
		"another scheme":                {config: open, url: "gopher://127.0.0.1", cause: delivery.CauseBlocked, says: "https"},
		"another port of one that may":  {config: open, url: "http://127.0.0.1:1", cause: delivery.CauseBlocked, says: "loopback"},
		"one that may, by another name": {config: open, url: "http://localhost:1", cause: delivery.CauseBlocked, says: "single label"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := false
			response := clientOver(t, egress.New(test.config)).Post(t.Context(), endpoint(test.url), message(), 1, func() error {
				asked = true
				return nil
			})
			require.Equal(t, test.cause, response.Cause)
			sent := test.cause == delivery.CauseOK
			require.Equal(t, sent, response.Sent)
			require.Equal(t, sent, asked)
			require.Contains(t, string(response.Answer), test.says)
			require.NotContains(t, string(response.Answer), "127.0.0.1")
		})
	}
}

func TestAConnectionIsMadeInItsOwnTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		dial  dials
		cause delivery.Cause
	}{
		"TCP": {func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, delivery.CauseTimeoutConnect},
		"TLS": {func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			return ours, nil
		}, delivery.CauseTimeoutTLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := endpoint("https://merchant.example")
				e.Timeout = 30 * time.Second
				response := clientOver(t, test.dial).Post(t.Context(), e, message(), 1, allow)
				require.Equal(t, deliver.Response{Cause: test.cause, Latency: 5 * time.Second}, response)
			})
		})
	}
}

func TestTrySaysWhatWasSent(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	server := merchant(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		w.Header().Set("Content-Type", "Text/Plain; charset=utf-8")
	})
	e := endpoint(server.URL)
	e.Headers = map[string]string{"x-tenant": "acme"}
	sent, response := newClient(t).Try(t.Context(), e, message())
	require.Equal(t, delivery.CauseOK, response.Cause)
	require.Equal(t, "text/plain", response.ContentType)
	received := <-got
	received.Del("Content-Length")
	require.Equal(t, received, sent)

	e.Secrets = nil
	sent, response = newClient(t).Try(t.Context(), e, message())
	require.Equal(t, delivery.CauseNoSecret, response.Cause)
	require.Nil(t, sent)
}
