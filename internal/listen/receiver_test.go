package listen_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/listen"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	secret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	stranger = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	eventID  = "01a2048f-7455-7122-a997-06e7d8417230"
	// body has what a decoder and encoder would change: spaces, an escape, and a number beyond a float.
	body = `{"event_id":"` + eventID + `", "event_type":"payment.refunded","object_version":2,` +
		`"payment":{"id": "p1", "amount": 12345678901234567890, "note": "a\u003cb"},"snapshot":{"id":"p1"}}`
)

// signed is a request as Hookline makes it.
func signed(t testing.TB, by, content string) *http.Request {
	t.Helper()
	key, err := signing.ParseSecret(by)
	require.NoError(t, err)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(content))
	now := time.Now()
	for name, value := range map[string]string{
		"Webhook-Id": eventID, "Webhook-Timestamp": strconv.FormatInt(now.Unix(), 10), "Webhook-Attempt": "2",
		"Webhook-Signature": signing.Header([]signing.Secret{key}, eventID, now, []byte(content)),
		"Content-Type":      "application/json", "User-Agent": "Hookline/test", "X-Forwarded-For": "192.0.2.1", "Accept-Encoding": "gzip",
	} {
		req.Header.Set(name, value)
	}
	return req
}

// receive gives the request to a receiver in front of the local server, and returns the answer and what was reported.
func receive(t testing.TB, forwardTo string, req *http.Request) (*http.Response, listen.Webhook) {
	t.Helper()
	var target *url.URL
	if forwardTo != "" {
		var err error
		target, err = listen.ParseForwardTo(forwardTo)
		require.NoError(t, err)
	}
	var reported []listen.Webhook
	receiver := listen.NewReceiver(verifier(t), target, func(w listen.Webhook) { reported = append(reported, w) })
	defer receiver.Close()
	recorder := httptest.NewRecorder()
	receiver.ServeHTTP(recorder, req)
	require.Len(t, reported, 1)
	require.Equal(t, recorder.Code, reported[0].Status)
	return recorder.Result(), reported[0]
}

func verifier(t testing.TB) signing.Verifier {
	t.Helper()
	v, err := signing.ParseVerifier(secret)
	require.NoError(t, err)
	return v
}

// local is a developer's server, which keeps what it got.
type local struct {
	*httptest.Server
	requests []*http.Request
	bodies   []string
}

func newLocal(t testing.TB, handler http.HandlerFunc) *local {
	t.Helper()
	l := &local{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		l.requests, l.bodies = append(l.requests, r), append(l.bodies, string(content))
		handler(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

func TestAWebhookIsForwardedAsItIsAndTheAnswerGoesBack(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusTooManyRequests)
		w.Write([]byte("<p>slower"))
	})
	response, reported := receive(t, server.URL+"/hook?tenant=1", signed(t, secret, body))

	require.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	require.Equal(t, http.Header{"Retry-After": {"7"}, "Content-Type": {"text/html"}}, response.Header)
	answered, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "<p>slower", string(answered))

	require.Equal(t, []string{body}, server.bodies, "byte for byte")
	got := server.requests[0]
	require.Equal(t, "POST /hook?tenant=1", got.Method+" "+got.URL.RequestURI())
	sent := signed(t, secret, body).Header
	for _, ours := range []string{"X-Forwarded-For", "Accept-Encoding"} {
		sent.Del(ours)
	}
	require.Empty(t, cmp.Diff(sent, got.Header, cmpopts.IgnoreMapEntries(func(name string, _ []string) bool {
		return name == "Content-Length" || name == "Webhook-Timestamp" || name == "Webhook-Signature" // of another second
	})))
	merchant, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, merchant.Verify([]byte(server.bodies[0]), got.Header), "the library of Svix verifies what was forwarded")

	require.WithinDuration(t, time.Now(), reported.At, 10*time.Second)
	require.Positive(t, reported.LatencyMS)
	require.Empty(t, cmp.Diff(listen.Webhook{
		EventID: eventID, EventType: "payment.refunded", ObjectType: "payment", ObjectID: "p1", Attempt: 2, Status: 429, Forwarded: true, Body: []byte(body),
	}, reported, cmpopts.IgnoreFields(listen.Webhook{}, "At", "LatencyMS")))
}

func TestWithoutAServerToForwardToEveryWebhookIsAnswered200(t *testing.T) {
	t.Parallel()
	response, reported := receive(t, "", signed(t, secret, `{"event_type":"invoice.sent","snapshot":{"id":"INV-7"}}`))
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.False(t, reported.Forwarded)
	require.Equal(t, "invoice.sent INV-7", reported.EventType+" "+reported.ObjectType+reported.ObjectID)

	response, reported = receive(t, "", signed(t, secret, "not JSON"))
	require.Equal(t, http.StatusOK, response.StatusCode, "what is signed is a webhook")
	require.Empty(t, reported.EventType)
}

func TestWhatIsNotSignedWellIsAnswered401AndNeverForwarded(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(http.ResponseWriter, *http.Request) {})
	altered := signed(t, secret, body)
	altered.Body = io.NopCloser(strings.NewReader(strings.Replace(body, "p1", "p2", 1)))
	unsigned := signed(t, secret, body)
	unsigned.Header.Del("Webhook-Signature")
	old := signed(t, secret, body)
	old.Header.Set("Webhook-Timestamp", "1700000000")
	for want, req := range map[string]*http.Request{
		"no signature is good": signed(t, stranger, body), "good": altered, "are required": unsigned, "from now": old,
	} {
		response, reported := receive(t, server.URL, req)
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)
		require.Contains(t, reported.Problem, want)
		require.False(t, reported.Forwarded)
		require.Empty(t, reported.Body)
	}
	require.Empty(t, server.requests)
}

func TestABodyOfAMebibyteIsTheLargest(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(http.ResponseWriter, *http.Request) {})
	large := strings.Repeat("x", 1<<20)
	response, _ := receive(t, server.URL, signed(t, secret, large))
	require.Equal(t, http.StatusOK, response.StatusCode)
	response, reported := receive(t, server.URL, signed(t, secret, large+"x"))
	require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode)
	require.Contains(t, reported.Problem, "1048576 bytes")
	require.Equal(t, []string{large}, server.bodies)
}

func TestALocalServerThatIsDownIs502(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(http.ResponseWriter, *http.Request) {})
	server.Close()
	response, reported := receive(t, server.URL, signed(t, secret, body))
	require.Equal(t, http.StatusBadGateway, response.StatusCode)
	require.Contains(t, reported.Problem, "connection refused")
	require.True(t, reported.Forwarded)
	answered, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, string(answered), "connection refused", "and the ledger keeps why")
}

func TestALocalServerThatBreaksOffIs502(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	response, reported := receive(t, server.URL, signed(t, secret, body))
	require.Equal(t, http.StatusBadGateway, response.StatusCode)
	require.Contains(t, reported.Problem, "EOF")
}

func TestALocalServerThatHangsIs504BeforeHooklineGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target, err := listen.ParseForwardTo("http://localhost:8000/hook")
		require.NoError(t, err)
		var reported listen.Webhook
		receiver := listen.NewReceiver(verifier(t), target, func(w listen.Webhook) { reported = w })
		defer receiver.Close()
		receiver.DialBy(func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs) // it takes the request, and says nothing
			return ours, nil
		})
		recorder := httptest.NewRecorder()
		start := time.Now()
		receiver.ServeHTTP(recorder, signed(t, secret, body))
		require.Equal(t, listen.ForwardTimeout, time.Since(start))
		require.Less(t, time.Since(start), 10*time.Second, "the endpoint's own time-out")
		require.Equal(t, http.StatusGatewayTimeout, recorder.Code)
		require.Contains(t, reported.Problem, "within 8s")
	})
}

func TestAnAnswerWhoseBodyNeverEndsCountsByItsStatus(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := newLocal(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte("begun"))
		http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	response, reported := receive(t, server.URL, signed(t, secret, body))
	require.Equal(t, http.StatusAccepted, response.StatusCode)
	require.Empty(t, reported.Problem)
}

func TestARedirectIsPassedBackAndNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := newLocal(t, func(http.ResponseWriter, *http.Request) {})
	for _, location := range []string{elsewhere.URL, "http://bad host/"} {
		server := newLocal(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		response, reported := receive(t, server.URL, signed(t, secret, body))
		require.Equal(t, http.StatusTemporaryRedirect, response.StatusCode)
		require.Contains(t, reported.Problem, "not followed")
	}
	require.Empty(t, elsewhere.requests)
}

func TestAStatusThatEndsNoRequestIs502(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"000", "101"} {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Read(make([]byte, 64<<10))
			conn.Write([]byte("HTTP/1.1 " + status + " Odd\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))
		}()
		response, _ := receive(t, "http://"+listener.Addr().String(), signed(t, secret, body))
		require.Equal(t, http.StatusBadGateway, response.StatusCode, status)
		require.NoError(t, listener.Close())
	}
}

func TestA410SaysWhatFollows(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	_, reported := receive(t, server.URL, signed(t, secret, body))
	require.Contains(t, reported.Problem, "disables the endpoint")
}

func TestUserInfoOfTheLocalServerIsSentAsBasicAuthentication(t *testing.T) {
	t.Parallel()
	server := newLocal(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "dev" || password != "pass" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	response, _ := receive(t, strings.Replace(server.URL, "//", "//dev:pass@", 1), signed(t, secret, body))
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func TestWhereToForwardToIsAnHTTPURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "localhost:8000", "ftp://localhost/", "http://", "http:///hook", "http://localhost/#a", "http://[::1", "/hook", "http://:8000"} {
		_, err := listen.ParseForwardTo(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "\n")
	}
	for _, good := range []string{"http://localhost:8000/hook", "https://dev.example", "http://[::1]:3000?x=1"} {
		u, err := listen.ParseForwardTo(good)
		require.NoError(t, err)
		require.Equal(t, good, u.String())
	}
}

func TestAddressesHaveHostAndPort(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "host", ":9000", "host:", "host:http", "host:65536", "::1:9000", "host:-1"} {
		_, err := listen.ParseAddress(bad)
		require.Error(t, err, bad)
	}
	for text, want := range map[string]listen.Address{"[::1]:9000": {Host: "::1", Port: 9000}, "dev.example:0": {Host: "dev.example"}} {
		got, err := listen.ParseAddress(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestAPersonReadsOneLineAndAProgramOneObject(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	printer := listen.NewPrinter(&out)
	receiver := listen.NewReceiver(verifier(t), nil, printer.Webhook)
	receive := func(content string) string {
		out.Reset()
		receiver.ServeHTTP(httptest.NewRecorder(), signed(t, secret, content))
		return out.String()
	}
	line := receive(body)
	require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3}  payment\.refunded    `+eventID+`  payment p1  attempt 2  → 200, not forwarded\n$`, line)

	hostile := `{"event_type":"a\u001b[2Jb\nc","snapshot":{"id":"x", "text":"` + "\u009b2J\U000e0001" + `"}}`
	line = receive(hostile)
	require.Equal(t, 1, strings.Count(line, "\n"))
	require.NotContains(t, line, "\x1b")

	printer.Body = true
	text := receive(hostile)
	require.NotContains(t, text, "\u009b")
	_, laid, _ := strings.Cut(text, "\n")
	require.JSONEq(t, hostile, laid, "escaped, and the same")
	require.Contains(t, receive(body), "\n        \"amount\": 12345678901234567890,\n")
	require.Contains(t, receive("no\x1bJSON"), "\n    no\uFFFDJSON\n")

	printer.JSON = true
	object := receive(body)
	require.Equal(t, 1, strings.Count(object, "\n"))
	require.Contains(t, object, `{"kind":"webhook","at":"`)
	require.Contains(t, object, `"event_id":"`+eventID+`","event_type":"payment.refunded","object_type":"payment","object_id":"p1","attempt":2,"status":200,"forwarded":false,"body":{"event_id":`)
	require.Contains(t, receive("no JSON"), `"body":"no JSON"`)
	printer.Body = false
	require.NotContains(t, receive(body), `"body"`)
}
