package svix_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

// onMessage has messages that are created answered by answer; everything else goes on to the server.
func onMessage(w *world, answer http.HandlerFunc) {
	w.fake.Intercept(func(out http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/msg") {
			return false
		}
		answer(out, r)
		return true
	})
}

func say(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestAnswersBelongToAClass(t *testing.T) {
	t.Parallel()
	const html = "<html>an intermediary</html>"
	standard := func(code string) string { return fmt.Sprintf(`{"code":%q,"detail":"some words"}`, code) }
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		class  svix.Class
		cause  delivery.Cause
		wait   time.Duration
		detail string
	}{
		"400":                         {say(400, standard("generic")), svix.Terminal, delivery.CauseSvixRefused, 0, "some words"},
		"400 of an intermediary":      {say(400, html), svix.Retryable, delivery.CauseSvixAnswer, 0, ""},
		"400 for the token":           {say(400, standard("bad token")), svix.Unauthorized, delivery.CauseSvixUnauthorized, svix.DefaultMending, "some words"},
		"401":                         {say(401, standard("authentication_failed")), svix.Unauthorized, delivery.CauseSvixUnauthorized, svix.DefaultMending, "some words"},
		"403":                         {say(403, html), svix.Unauthorized, delivery.CauseSvixUnauthorized, svix.DefaultMending, ""},
		"404 of an intermediary":      {say(404, html), svix.Unauthorized, delivery.CauseSvixAddress, svix.DefaultMending, ""},
		"404 of Svix, again":          {say(404, standard("not_found")), svix.Retryable, delivery.CauseSvixAnswer, 0, "some words"},
		"405":                         {say(405, ""), svix.Unauthorized, delivery.CauseSvixAddress, svix.DefaultMending, ""},
		"301":                         {say(301, "", "Location", "https://elsewhere.example/"), svix.Unauthorized, delivery.CauseSvixAddress, svix.DefaultMending, ""},
		"408":                         {say(408, ""), svix.Retryable, delivery.CauseSvixBusy, 0, ""},
		"413":                         {say(413, html), svix.Terminal, delivery.CauseSvixTooLarge, 0, ""},
		"418":                         {say(418, ""), svix.Retryable, delivery.CauseSvixAnswer, 0, ""},
		"422":                         {say(422, `{"detail":[{"loc":["body","eventType"],"msg":"no good","type":"x"}]}`), svix.Terminal, delivery.CauseSvixRefused, 0, "body.eventType: no good"},
		"422 of an intermediary":      {say(422, `{"detail":[]}`), svix.Retryable, delivery.CauseSvixAnswer, 0, ""},
		"429":                         {say(429, standard("rate_limit"), "Retry-After", "17"), svix.Retryable, delivery.CauseSvixBusy, 17 * time.Second, "some words"},
		"429 that asks for a week":    {say(429, "", "Retry-After", "604800"), svix.Retryable, delivery.CauseSvixBusy, time.Hour, ""},
		"429 by the clock":            {say(429, "", "Retry-After", in(time.Minute), "Date", in(0)), svix.Retryable, delivery.CauseSvixBusy, time.Minute, ""},
		"429 that asks for the past":  {say(429, "", "Retry-After", in(-time.Minute)), svix.Retryable, delivery.CauseSvixBusy, 0, ""},
		"429 that asks for nonsense":  {say(429, "", "Retry-After", "soon"), svix.Retryable, delivery.CauseSvixBusy, 0, ""},
		"500":                         {say(500, "{}"), svix.Retryable, delivery.CauseSvixServerError, 0, ""},
		"502":                         {say(502, html), svix.Retryable, delivery.CauseSvixServerError, 0, ""},
		"503":                         {say(503, "", "Retry-After", "5"), svix.Retryable, delivery.CauseSvixServerError, 5 * time.Second, ""},
		"202 that is a page":          {say(202, html), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer cannot be read"},
		"202 about another message":   {say(202, `{"id":"msg_2","eventId":"other","eventType":"a","payload":{},"timestamp":"2026-01-01T00:00:00Z"}`), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer names another message"},
		"202 about no message":        {say(202, `{}`), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer names another message"},
		"202 that is null":            {say(202, `null`), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer names another message"},
		"204":                         {say(204, ""), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer names another message"},
		"a refusal with many words":   {say(400, `{"code":"x","detail":"`+strings.Repeat("é", 1<<20)+`"}`), svix.Terminal, delivery.CauseSvixRefused, 0, strings.Repeat("é", 128)},
		"an answer that breaks off":   {breakOff(202), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer cannot be read"},
		"a refusal that breaks off":   {breakOff(401), svix.Unauthorized, delivery.CauseSvixUnauthorized, svix.DefaultMending, ""},
		"an answer that is not HTTP":  {garbage, svix.Retryable, delivery.CauseSvixUnreachable, 0, "*"},
		"a header without an end":     {say(202, "", "X-Long", strings.Repeat("x", 128<<10)), svix.Retryable, delivery.CauseSvixUnreachable, 0, "*"},
		"an answer of ten megabytes":  {say(202, `{"id":"`+strings.Repeat("x", 10<<20)+`"}`), svix.Retryable, delivery.CauseSvixAnswer, 0, "the answer cannot be read"},
		"a refusal of ten megabytes":  {say(500, strings.Repeat("x", 10<<20)), svix.Retryable, delivery.CauseSvixServerError, 0, ""},
		"409 without a message there": {say(409, standard("conflict")), svix.Retryable, delivery.CauseSvixAnswer, grace + 2*time.Second, "Svix says that there is such a message, and does not find it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			w.register(t, models.EndpointIn{})
			onMessage(w, test.answer)
			result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, newMessage(), yes)
			require.Equal(t, test.class, result.Class, "%+v", result)
			require.Equal(t, test.cause, result.Cause)
			require.Equal(t, test.wait, result.RetryIn)
			require.True(t, result.Sent)
			require.Positive(t, result.Latency)
			if test.detail == "*" {
				require.NotEmpty(t, result.Detail)
				require.NotContains(t, result.Detail, "http://", "no URL")
			} else {
				require.Equal(t, test.detail, result.Detail)
			}
			require.Equal(t, test.class != svix.Unauthorized, result.Counts())
		})
	}
}

func breakOff(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(status)
		io.WriteString(w, `{"id":`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func garbage(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		io.WriteString(conn, "220 this is SMTP\r\n")
		conn.Close()
	}
}

// A time-out says in which phase it came, and whether Svix can have the message.
func TestATimeoutNamesItsPhase(t *testing.T) {
	t.Parallel()
	const short = 500 * time.Millisecond
	for name, test := range map[string]struct {
		prepare func(t *testing.T, w *world, opts *svix.Options) (dial func(context.Context, string, string) (net.Conn, error))
		detail  string
		sent    bool
	}{
		"no connection": {detail: "no connection", prepare: func(*testing.T, *world, *svix.Options) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		"no TLS": {detail: "the TLS handshake did not end", prepare: func(t *testing.T, _ *world, opts *svix.Options) func(context.Context, string, string) (net.Conn, error) {
			t.Helper()
			opts.BaseURL = "https://" + silent(t)
			return nil
		}},
		"no answer": {detail: "no answer", sent: true, prepare: func(_ *testing.T, w *world, _ *svix.Options) func(context.Context, string, string) (net.Conn, error) {
			onMessage(w, func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // only then net/http tells when the caller is gone
				<-r.Context().Done()
			})
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			w.register(t, models.EndpointIn{})
			opts := svix.Options{Timeout: short}
			dial := test.prepare(t, w, &opts)
			client := w.client(t, opts)
			if dial != nil {
				client.Dial(dial)
			}
			result := client.HandOver(t.Context(), shop, newMessage(), yes)
			require.Equal(t, svix.Retryable, result.Class)
			require.Equal(t, delivery.CauseSvixTimeout, result.Cause, "%+v", result)
			require.Equal(t, test.detail, result.Detail)
			require.Equal(t, test.sent, result.Sent)
			require.GreaterOrEqual(t, result.Latency, short)
			require.Less(t, result.Latency, 5*time.Second)
		})
	}
}

func TestATimeoutInTheQueueForAConnectionIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{Timeout: 100 * time.Millisecond, MaxConns: 1})
	dialling, end := make(chan struct{}), make(chan struct{})
	client.Dial(func(context.Context, string, string) (net.Conn, error) { // for as long as the test
		close(dialling)
		<-end
		return nil, errors.New("the end")
	})
	var first sync.WaitGroup
	first.Go(func() { client.HandOver(t.Context(), "another", newMessage(), yes) })
	<-dialling
	result := client.HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, delivery.CauseSvixTimeout, result.Cause)
	require.Equal(t, "no free connection", result.Detail)
	require.False(t, result.Sent)
	first.Wait()
	close(end)
}

// silent accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
		for _, each := range conns {
			each.Close()
		}
	})
	return listener.Addr().String()
}

// The status is what counts: that of a body which never ends, too.
func TestAnAnswerWhoseBodyHangsIsTakenByItsStatus(t *testing.T) {
	t.Parallel()
	for status, class := range map[int]svix.Class{202: svix.Retryable, 401: svix.Unauthorized, 413: svix.Terminal} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			w.register(t, models.EndpointIn{})
			onMessage(w, func(out http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				out.WriteHeader(status)
				io.WriteString(out, `{"id":"`)
				out.(http.Flusher).Flush()
				<-r.Context().Done()
			})
			result := w.client(t, svix.Options{Timeout: 500 * time.Millisecond}).HandOver(t.Context(), shop, newMessage(), yes)
			require.Equal(t, class, result.Class)
			require.Equal(t, status, result.StatusCode)
		})
	}
}

func TestASvixThatIsNotThereIsTriedAgain(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	client, err := svix.New(svix.Options{Token: token, BaseURL: "http://" + address})
	require.NoError(t, err)
	result := client.HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, svix.Retryable, result.Class)
	require.Equal(t, delivery.CauseSvixUnreachable, result.Cause)
	require.Contains(t, result.Detail, "refused")
	require.False(t, result.Sent)
	require.True(t, result.Counts())
}

func TestTheEndOfTheProcessIsNoFaultOfSvix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	w.fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
		return true
	})
	result := w.client(t, svix.Options{}).HandOver(ctx, shop, newMessage(), yes)
	require.Equal(t, svix.Retryable, result.Class)
	require.Equal(t, delivery.CauseInternal, result.Cause)
}

// The guard stands before the one request that has an effect, and before no other.
func TestTheGuardIsAskedRightBeforeTheMessageLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	asked := 0
	result := client.HandOver(t.Context(), shop, newMessage(), func() error {
		asked++
		if w.fake.Requests(createApplication) != 1 || w.fake.Requests(createMessage) != 0 {
			return errors.New("not now")
		}
		return nil
	})
	require.Equal(t, svix.Accepted, result.Class)
	require.Equal(t, 1, asked)
}

func TestAHandOverThatIsKeptBackSendsNothing(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]bool{"over a new connection": true, "over a kept one": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			w.register(t, models.EndpointIn{})
			client := w.client(t, svix.Options{})
			var wrote atomic.Int64
			client.Dial(func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
				return countingConn{conn, &wrote}, err
			})
			require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
			if fresh {
				client.Close()
			}
			kept := newMessage()
			for range 50 { // so that a race against the write would show
				var before int64
				result := client.HandOver(t.Context(), shop, kept, func() error {
					before = wrote.Load()
					return errors.New("the claim is gone")
				})
				require.Equal(t, before, wrote.Load(), "not a byte")
				require.Equal(t, svix.NotStarted, result.Class)
				require.Equal(t, delivery.CauseNotStarted, result.Cause)
				require.False(t, result.Sent)
				require.False(t, result.Counts())
				if !fresh {
					require.NoError(t, client.Check(t.Context())) // leaves a connection
				}
			}
			require.Equal(t, 1, w.fake.Requests(createMessage))
			require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, kept, yes).Class)
			w.settle(t)
			require.Equal(t, 1, w.merchant.times(kept.EventID))
		})
	}
}

// countingConn counts the bytes that left.
type countingConn struct {
	net.Conn
	wrote *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// What nobody waits for any more must not leave.
func TestAGuardThatOutlastsTheTimeHasDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{Timeout: 500 * time.Millisecond})
	result := client.HandOver(t.Context(), shop, newMessage(), func() error {
		<-time.After(600 * time.Millisecond)
		return nil
	})
	require.Equal(t, svix.NotStarted, result.Class)
	require.Zero(t, w.fake.Requests(createMessage))
}

// A replacement can reach the merchant, too.
func TestTheGuardIsAskedForAReplacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	message := newMessage()
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterCommit})
	client.HandOver(t.Context(), shop, message, yes)
	w.fake.Advance(grace + time.Second)
	asked := 0
	result := client.HandOver(t.Context(), shop, message, func() error {
		if asked++; asked == 2 {
			return errors.New("the claim is gone")
		}
		return nil
	})
	require.Equal(t, svix.NotStarted, result.Class)
	require.Len(t, w.fake.Messages(shop), 1)
	require.Empty(t, w.merchant.all())
}

// net/http repeats a POST with an idempotency key by itself where a kept connection breaks. The first request may have been
// taken, and its repetition would hide that.
func TestABrokenConnectionIsNotRepeatedBehindOurBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{MaxConns: 1})
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	var seen atomic.Int32
	var key atomic.Value
	onMessage(w, func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		key.Store(r.Header.Get("Idempotency-Key"))
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
	message := newMessage()
	result := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, delivery.CauseSvixUnreachable, result.Cause)
	require.True(t, result.Sent)
	require.EqualValues(t, 1, seen.Load())
	require.Equal(t, "hookline."+shop+"."+message.EventID.String(), key.Load())
	w.settle(t)
}

func TestAMerchantsApplicationIsMadeWithTheFirstMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	for range 3 {
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	}
	require.Equal(t, []string{shop}, w.fake.Applications())
	require.Equal(t, 1, w.fake.Requests(createApplication), "and then it is known")
}

func TestManyFirstMessagesAskForTheApplicationOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	const n = 20
	var under, all sync.WaitGroup
	under.Add(n)
	var asked atomic.Int32
	w.fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/app" {
			asked.Add(1)
			under.Wait() // and has the others come
		}
		return false
	})
	for range n {
		all.Go(func() {
			under.Done()
			if result := client.HandOver(t.Context(), shop, newMessage(), yes); result.Class != svix.Accepted {
				t.Errorf("%+v", result)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, asked.Load())
}

func TestWhoLosesTheRaceForAnApplicationFindsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.fake.RaceApplication()
	result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, svix.Accepted, result.Class)
	require.Equal(t, []string{shop}, w.fake.Applications())
	require.Equal(t, 2, w.fake.Requests(createApplication))
}

func TestARaceThatNeverEndsIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.fake.Intercept(func(out http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		say(http.StatusConflict, `{"code":"conflict","detail":"A conflict has occurred"}`)(out, r)
		return true
	})
	result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, svix.Retryable, result.Class)
	require.Equal(t, delivery.CauseSvixAnswer, result.Cause, "it is not taken for the 409 of a message")
	require.False(t, result.Sent)
}

func TestAnApplicationThatWasDeletedIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	require.NoError(t, w.admin.Application.Delete(t.Context(), shop))
	w.register(t, models.EndpointIn{})
	require.NoError(t, w.admin.Application.Delete(t.Context(), shop))
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	require.Equal(t, []string{shop}, w.fake.Applications())
}

// Many first messages in many processes, each handed over by two of them at once: one application, and each event once.
func TestManyAtOnceArriveOnceEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	var clients []*svix.Client
	for range 4 {
		clients = append(clients, w.client(t, svix.Options{MaxConns: 8}))
	}
	var messages []svix.Message
	for range 100 {
		messages = append(messages, newMessage())
	}
	hand := func(message svix.Message, client *svix.Client) {
		for range 100 {
			switch result := client.HandOver(t.Context(), shop, message, yes); result.Class {
			case svix.Accepted:
				return
			case svix.Retryable:
				require.Contains(t, []delivery.Cause{delivery.CauseSvixUnconfirmed, delivery.CauseSvixServerError}, result.Cause, "%+v", result)
			default:
				t.Errorf("%+v", result)
			}
		}
		t.Errorf("%s is never accepted", message.EventID)
	}
	// The first of all, for the application; its endpoint is there for the others.
	var first sync.WaitGroup
	for i := range 20 {
		first.Go(func() { hand(newMessage(), clients[i%len(clients)]) })
	}
	first.Wait()
	require.Equal(t, []string{shop}, w.fake.Applications())
	require.LessOrEqual(t, w.fake.Requests(createApplication), 2*len(clients))
	w.register(t, models.EndpointIn{})

	var all sync.WaitGroup
	for i, message := range messages {
		all.Go(func() { hand(message, clients[i%len(clients)]) })
		all.Go(func() { hand(message, clients[(i+1)%len(clients)]) })
	}
	all.Wait()
	w.settle(t)
	got := map[string]int{}
	for _, each := range w.merchant.all() {
		got[each.eventID]++
	}
	require.Len(t, got, len(messages))
	for event, times := range got {
		require.Equal(t, 1, times, event)
	}
}

// Nothing dies of a wrong token: it waits, uses up no attempt, and arrives with the right one.
func TestAWrongTokenLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	wrong := w.client(t, svix.Options{Token: "wrong", Mending: 5 * time.Second})
	err := wrong.Check(t.Context())
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	require.ErrorIs(t, err, svix.ErrRefused)
	require.EqualError(t, err, "Svix cannot be used: svix_unauthorized, status 401: Invalid token: SVIX_TOKEN or SVIX_URL is wrong")
	var messages []svix.Message
	for range 10 {
		message := newMessage()
		messages = append(messages, message)
		result := wrong.HandOver(t.Context(), shop, message, yes)
		require.Equal(t, svix.Unauthorized, result.Class)
		require.Equal(t, 5*time.Second, result.RetryIn)
		require.False(t, result.Counts())
		require.False(t, result.Sent)
	}
	right := w.client(t, svix.Options{})
	require.NoError(t, right.Check(t.Context()))
	for _, each := range messages {
		require.Equal(t, svix.Accepted, right.HandOver(t.Context(), shop, each, yes).Class)
	}
	w.settle(t)
	require.Len(t, w.merchant.all(), len(messages))
}

// A token can end while the application is known.
func TestATokenThatEndsIsToldByTheMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	w.fake.SetTokens()
	require.Equal(t, svix.Unauthorized, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	w.fake.SetTokens(token)
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
}

func TestAnAddressThatIsNotSvixLosesNothing(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	client, err := svix.New(svix.Options{Token: token, BaseURL: server.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	result := client.HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, svix.Unauthorized, result.Class)
	require.Equal(t, delivery.CauseSvixAddress, result.Cause)
	require.ErrorContains(t, client.Check(t.Context()), "svix_address, status 404")
}

// With the redirect the token would go along.
func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	client, err := svix.New(svix.Options{Token: token, BaseURL: server.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.Equal(t, delivery.CauseSvixAddress, client.HandOver(t.Context(), shop, newMessage(), yes).Cause)
	require.Error(t, client.Check(t.Context()))
	require.False(t, followed.Load())
}

func TestABodyOfAMebibyteArrivesAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	message := newMessage()
	message.Body = fmt.Appendf(nil, `{"event_id":"%s","text":"%s"}`, message.EventID, strings.Repeat("x", 1<<20-64))
	require.Equal(t, svix.Accepted, w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes).Class)
	w.settle(t)
	require.Equal(t, string(message.Body), w.merchant.all()[0].body)
}

func TestABodyThatSvixDoesNotTakeIsTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	message := newMessage()
	message.Body = fmt.Appendf(nil, `{"text":"%s"}`, strings.Repeat("x", 3<<20))
	result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Terminal, result.Class)
	require.Equal(t, delivery.CauseSvixTooLarge, result.Cause)
	require.Equal(t, http.StatusRequestEntityTooLarge, result.StatusCode)
	require.Empty(t, w.fake.Messages(shop))
}

func TestAnEventTypeThatSvixDoesNotTakeIsTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	message := newMessage()
	message.EventType = "payment succeeded"
	result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Terminal, result.Class)
	require.Equal(t, delivery.CauseSvixRefused, result.Cause)
	require.Contains(t, result.Detail, "body.eventType")
}

// The SDK puts an id into the path as it is.
func TestAMerchantIDThatIsNoneToSvixIsNotSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	for _, id := range []string{"", ".", "..", "a/b", "a b", "a?b", "é", "app_1", "{msg_id}", strings.Repeat("m", 257)} {
		result := client.HandOver(t.Context(), id, newMessage(), yes)
		require.Equal(t, svix.Terminal, result.Class, id)
		require.Equal(t, delivery.CauseSvixRefused, result.Cause)
		require.False(t, result.Sent)
	}
	require.Empty(t, w.fake.Applications())
	for _, id := range []string{"a", "m.1", "A_b-c.D", "..a", strings.Repeat("m", 256)} {
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), id, newMessage(), yes).Class, id)
	}
}

func TestTheThreeChangesOfAPaymentAreThreeMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	for range 3 {
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	}
	w.settle(t)
	require.Len(t, w.merchant.all(), 3)
}

func TestTheAddressMayHaveAPathAndASlash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	server := httptest.NewServer(http.StripPrefix("/svix", w.fake))
	t.Cleanup(server.Close)
	client := w.client(t, svix.Options{BaseURL: server.URL + "/svix/"})
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	require.NoError(t, client.Check(t.Context()))
}

func TestSettingsThatCannotBeUsedAreRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"svix:8071", "ftp://svix", "http://", "http://a:b@svix", "http://svix?x=1", "http://svix#x", "http://svix:port"} {
		_, err := svix.New(svix.Options{Token: token, BaseURL: address})
		require.Equal(t, fault.Invalid, fault.ClassOf(err), address)
	}
	for _, each := range []string{"", "testsk secret", "testsk_secret\n", "testsk_sécret"} {
		_, err := svix.New(svix.Options{Token: each})
		require.Equal(t, fault.Invalid, fault.ClassOf(err))
		require.NotContains(t, err.Error(), "testsk")
	}
	_, err := svix.New(svix.Options{Token: "testsk_x.eu"}) // Cloud, by its region
	require.NoError(t, err)
}

func TestATokenIsNotPrinted(t *testing.T) {
	t.Parallel()
	client, err := svix.New(svix.Options{Token: "testsk_hidden"})
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v", client, client), "testsk_hidden")
}

func TestClassesHaveNames(t *testing.T) {
	t.Parallel()
	for class, name := range map[svix.Class]string{
		svix.Accepted: "accepted", svix.Retryable: "retryable", svix.Terminal: "terminal",
		svix.Unauthorized: "unauthorized", svix.NotStarted: "not_started",
	} {
		require.Equal(t, name, class.String())
	}
}

// Whatever answers for the application, no message goes out before it is there.
func TestAnApplicationThatCannotBeMadeKeepsTheMessageBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		class  svix.Class
	}{
		"an error":            {say(500, "{}"), svix.Retryable},
		"a page":              {say(200, "<html>"), svix.Retryable},
		"nothing":             {say(204, ""), svix.Retryable},
		"another one":         {say(200, `{"id":"app_2","uid":"another","name":"x"}`), svix.Retryable},
		"one without a uid":   {say(200, `{"id":"app_2","name":"x"}`), svix.Retryable},
		"it may not":          {say(403, "{}"), svix.Unauthorized},
		"it is no good":       {say(422, `{"detail":[{"loc":["body","uid"],"msg":"no"}]}`), svix.Terminal},
		"a broken connection": {breakOff(200), svix.Retryable},
	} {
		for when, known := range map[string]bool{"at first": false, "when it was deleted": true} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, svixtest.Options{})
				client := w.client(t, svix.Options{})
				if known {
					require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
					require.NoError(t, w.admin.Application.Delete(t.Context(), shop))
				}
				w.fake.Intercept(func(out http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != "/api/v1/app" {
						return false
					}
					test.answer(out, r)
					return true
				})
				message := newMessage()
				result := client.HandOver(t.Context(), shop, message, yes)
				require.Equal(t, test.class, result.Class, "%+v", result)
				require.False(t, result.Sent)
				w.fake.Intercept(nil)
				require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
				require.Len(t, w.fake.Messages(shop), 1)
			})
		}
	}
}

// One who waits for another's request waits no longer than its own time.
func TestWaitingForAnApplicationEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	asked := make(chan struct{})
	w.fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		io.Copy(io.Discard, r.Body)
		close(asked)
		<-r.Context().Done()
		return true
	})
	first, end := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { client.HandOver(first, shop, newMessage(), yes) })
	<-asked
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	result := client.HandOver(short, shop, newMessage(), yes)
	require.Equal(t, delivery.CauseSvixTimeout, result.Cause)
	require.Equal(t, "another message of the merchant is asking for its application", result.Detail)
	end()
	all.Wait()
}

// The guard stands in the same place where there is TLS.
func TestOverTLSTheGuardIsAskedAfterTheHandshake(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	server := httptest.NewTLSServer(w.fake)
	t.Cleanup(server.Close)
	client := w.client(t, svix.Options{BaseURL: server.URL})
	result := client.HandOver(t.Context(), shop, newMessage(), yes)
	require.Equal(t, delivery.CauseSvixUnreachable, result.Cause, "the authority is not known")
	require.Contains(t, result.Detail, "certificate")
	client.Trust(server.Certificate())
	require.Equal(t, svix.NotStarted, client.HandOver(t.Context(), shop, newMessage(), func() error { return errors.New("not held") }).Class)
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, newMessage(), yes).Class)
	w.settle(t)
	require.Len(t, w.merchant.all(), 1)
}
