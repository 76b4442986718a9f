package deliver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
)

// received posts to the endpoint's path and user at a server and returns what that gets.
func received(t *testing.T, url func(server string) string, headers map[string]string) *http.Request {
	t.Helper()
	got := make(chan *http.Request, 1)
	server := merchant(t, func(_ http.ResponseWriter, r *http.Request) { got <- r })
	e := endpoint(url(server.URL))
	e.Headers = headers
	response := newClient(t).Post(t.Context(), e, message(), 1, allow)
	require.Equal(t, delivery.CauseOK, response.Cause)
	return <-got
}

func same(server string) string { return server }

func TestAnEndpointsOwnHeadersAreSentAndOursWin(t *testing.T) {
	t.Parallel()
	r := received(t, same, map[string]string{
		"authorization": "Bearer abc", "X-Tenant": "acme, inc.", "x-empty": "",
		"Webhook-Id": "forged", "webhook-signature": "v1,forged", "Webhook-New": "forged", "svix-id": "forged",
		"content-type": "text/plain", "Content-Length": "1", "content-encoding": "gzip", "HOST": "elsewhere.example", "User-Agent": "Mozilla",
		"Transfer-Encoding": "chunked", "Connection": "close", "Accept-Encoding": "gzip", "Cookie": "a=b", "Idempotency-Key": "k", "Expect": "100-continue",
	})
	require.Equal(t, "Bearer abc", r.Header.Get("Authorization"))
	require.Equal(t, "acme, inc.", r.Header.Get("X-Tenant"))
	require.Equal(t, []string{""}, r.Header.Values("X-Empty"))
	require.Equal(t, []string{eventID.String()}, r.Header.Values("Webhook-Id"))
	require.NotContains(t, r.Header.Get("Webhook-Signature"), "forged")
	require.Equal(t, []string{"application/json"}, r.Header.Values("Content-Type"))
	require.EqualValues(t, len(body), r.ContentLength)
	require.Empty(t, r.TransferEncoding)
	require.False(t, r.Close)
	require.True(t, strings.HasPrefix(r.UserAgent(), "Hookline/"))
	require.True(t, strings.HasPrefix(r.Host, "127.0.0.1:"))
	for _, name := range []string{"Webhook-New", "Svix-Id", "Content-Encoding", "Accept-Encoding", "Cookie", "Idempotency-Key", "Expect"} {
		require.Empty(t, r.Header.Values(name), name)
	}
}

func TestTheUserOfTheURLIsAnAuthorizationAndNothingElse(t *testing.T) {
	t.Parallel()
	withUser := func(user string) func(string) string {
		return func(server string) string {
			return strings.Replace(server, "http://", "http://"+user+"@", 1) + "/hooks?a=b"
		}
	}
	r := received(t, withUser("jo%40shop:p%3Ass"), nil)
	user, password, ok := r.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "jo@shop", user)
	require.Equal(t, "p:ss", password)
	require.Equal(t, "/hooks?a=b", r.RequestURI)
	require.NotContains(t, r.Host, "@")
	require.Empty(t, r.Referer())

	r = received(t, withUser("jo"), nil)
	user, password, ok = r.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "jo", user)
	require.Empty(t, password)

	r = received(t, withUser("jo:secret"), map[string]string{"authorization": "Bearer abc"})
	require.Equal(t, []string{"Bearer abc"}, r.Header.Values("Authorization"))
}

func TestNoAnswerOfOursTellsWhatIsToBeKept(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://hush:hush@127.0.0.1:1/hush", "http://hush:hush@[::1/hush", "hush://hush:hush@127.0.0.1/hush", "https://hush.invalid:99999/hush"} {
		for _, value := range []string{"hush", "hush\r\n"} {
			e := endpoint(url)
			e.Headers = map[string]string{"X-Hush": value}
			response := newClient(t).Post(t.Context(), e, message(), 1, allow)
			require.NotEqual(t, delivery.CauseOK, response.Cause)
			require.NotContains(t, strings.ToLower(string(response.Answer)), "hush")
		}
	}
}

func TestReservedHeadersAreKnownInAnyCase(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"webhook-id", "Webhook-Anything", "SVIX-ID", "content-type", "Content-Length", "host", "Connection", "Keep-Alive", "Proxy-Authorization",
		"TE", "Trailer", "transfer-encoding", "Upgrade", "Cookie", "User-Agent", "Expect", "Idempotency-Key", "X-Idempotency-Key", "X-Forwarded-For",
		"Metadata-Flavor", "X-aws-ec2-metadata-token",
	} {
		require.True(t, deliver.ReservedHeader(name), name)
		require.Equal(t, fault.Invalid, fault.ClassOf(deliver.CheckHeader(name, "value")), name)
	}
	for _, name := range []string{"Authorization", "X-Api-Key", "X-Webhook-Id", "X-Host", "Traceparent", "Contents", "webhook"} {
		require.False(t, deliver.ReservedHeader(name), name)
		require.NoError(t, deliver.CheckHeader(name, "value"), name)
	}
}

func TestWhatIsNoHeaderIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", " ", "a b", "a:", ":authority", "a\r\nb", "grüße", "a\x00", "a(b)"} {
		require.Equal(t, fault.Invalid, fault.ClassOf(deliver.CheckHeader(name, "value")), "%q", name)
	}
	for _, value := range []string{"", "a b", "a\tb", "!~", `"quoted"`} {
		require.NoError(t, deliver.CheckHeader("x", value), "%q", value)
	}
	for _, value := range []string{" a", "a ", "\ta", "a\r\nb: c", "a\nb", "a\x00", "a\x7f", "grüße", "\xff", "\u2028"} {
		err := deliver.CheckHeader("x-name", value)
		require.Equal(t, fault.Invalid, fault.ClassOf(err), "%q", value)
		require.NotContains(t, err.Error(), "x-name")
	}
}

func TestWhatPassesTheCheckArrivesAsItIs(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	server := merchant(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header })
	client := newClient(t)
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching("[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}"), rapid.String()).Draw(r, "name")
		value := rapid.OneOf(rapid.StringMatching("[ -~\t]{0,20}"), rapid.String()).Draw(r, "value")
		if deliver.CheckHeader(name, value) != nil {
			return
		}
		e := endpoint(server.URL)
		e.Headers = map[string]string{name: value}
		require.Equal(r, delivery.CauseOK, client.Post(t.Context(), e, message(), 1, allow).Cause)
		require.Equal(r, []string{value}, (<-got).Values(name))
	})
}
