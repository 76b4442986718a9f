package deliver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A framework's error page prints the request.
func TestAnAnswerThatRepeatsTheRequestTellsNoSecret(t *testing.T) {
	t.Parallel()
	var signature string
	server := merchant(t, func(w http.ResponseWriter, r *http.Request) {
		signature = r.Header.Get("Webhook-Signature")
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s %s\n%v\ntoken %s", r.Method, r.RequestURI, r.Header, r.URL.Query().Get("token"))
		w.Write([]byte(strings.Repeat(" ", 800) + r.Header.Get("X-Api-Key"))) // over the edge of what is kept
	})
	e := endpoint(strings.Replace(server.URL, "://", "://alice:wonderland@", 1) + "/hooks?token=a%20secret%20token&v=1")
	e.Headers = map[string]string{"X-Api-Key": "the-key-of-the-shop"}
	response := newClient(t).Post(t.Context(), e, message(), 1, allow)
	require.Equal(t, http.StatusInternalServerError, response.StatusCode)
	kept := string(response.Answer)
	require.Contains(t, kept, "POST /hooks?[redacted]")
	for _, secret := range []string{"wonderland", "alice", "a%20secret%20token", "a secret token", "the-key-of-the-shop", "YWxpY2U6d29uZGVybGFuZA", signature} {
		require.NotContains(t, kept, secret)
	}
}
