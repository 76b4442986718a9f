package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/demo"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/stack"
)

// story is the answer to GET /payments/{id}/history.
type story struct {
	Payment   payment.Payment
	Callbacks []callback.Entry
}

func (s *running) story(t require.TestingT, ctx context.Context, id string) (out story) { //nolint:revive // T first, as everywhere
	call(t, ctx, http.MethodGet, s.status.Address(stack.PaymentsAPI), "/payments/"+id+"/history", "", &out)
	return out
}

// tell sends a callback of Stripe's and returns the status of the answer.
func tell(t *testing.T, url, body, signature string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Stripe-Signature", signature)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

func TestCallbacksOfTheDemoAreAppliedOnceWhileTheWorkerIsKilled(t *testing.T) {
	s := start(t)
	stdout, stderr, err := hookline(t, s.dir, []string{fmt.Sprintf("HOOKLINE_PORT_OFFSET=%d", s.offset)},
		"demo", "--scenario", "callbacks", "--payments", "12", "--json")
	require.NoError(t, err, stdout+stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var got demo.Callbacks
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &got), stdout)
	require.Equal(t, 12, got.Payments)
	require.Equal(t, 12, got.PaymentsRight)
	require.Positive(t, got.Callbacks.Applied)
	require.Equal(t, got.Callbacks.Changes, got.Callbacks.Applied)
	require.Equal(t, 3*got.Callbacks.Distinct, got.Callbacks.Accepted)
	require.Equal(t, got.Events, got.Delivered)
	require.Zero(t, got.Lost+got.Unexplained+got.InvalidSignatures)
	require.Positive(t, got.DownSeconds)
}

func TestACallbackStraightAtRestateIsBelievedForItsSignatureAlone(t *testing.T) {
	s := start(t)
	whole, err := stack.ReadStatus(t.Context(), s.state()) // it has the secret, which is not printed
	require.NoError(t, err)
	straight := "http://" + s.status.Address(stack.Restate) + "/WebhookCallbackRouter/OnStripeEvent"
	door := "http://" + s.status.Address(stack.PaymentsAPI) + "/callbacks/stripe"
	var paid payment.Payment
	call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments", `{"amount":1000,"currency":"USD","status":"pending"}`, &paid)
	id := paid.ID.String()
	body := `{"id":"evt_1","type":"payment_intent.succeeded","created":1770000000,"data":{"object":{"metadata":{"payment_id":"` + id + `"}}}}`

	require.Equal(t, http.StatusUnauthorized, tell(t, straight, body, callback.StripeSignature("whsec_else", time.Now(), []byte(body))))
	require.Regexp(t, `(?m)^hookline_callbacks_total\{[^}]*outcome="bad_signature"[^}]*provider="stripe"[^}]*\} 1$`, s.metrics(t, stack.WebhookWorker))
	before := s.story(t, t.Context(), id)
	require.Equal(t, payment.StatusPending, before.Payment.Status)
	require.EqualValues(t, 1, before.Payment.Version)
	require.Empty(t, before.Callbacks)

	require.Equal(t, http.StatusOK, tell(t, straight, body, callback.StripeSignature(whole.CallbackSecret, time.Now(), []byte(body))))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		after := s.story(c, t.Context(), id)
		require.Equal(c, payment.StatusSucceeded, after.Payment.Status)
		require.Len(c, after.Callbacks, 1)
		require.Equal(c, callback.Applied, after.Callbacks[0].Outcome)
	}, time.Minute, 50*time.Millisecond)
	after := s.story(t, t.Context(), id)
	require.EqualValues(t, 2, after.Payment.Version)
	require.Equal(t, "evt_1", after.Callbacks[0].EventID)
	require.Equal(t, callback.Stripe, after.Callbacks[0].Provider)
	require.Equal(t, payment.StatusSucceeded, after.Callbacks[0].Status)

	// At the door: what is signed is kept, whatever it is.
	for _, body := range []string{"", "{", `{"id":"evt_2"}`} {
		require.Equal(t, http.StatusAccepted, tell(t, door, body, callback.StripeSignature(whole.CallbackSecret, time.Now(), []byte(body))), body)
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		stdout, stderr, err := hookline(t, s.dir, nil, "dead", "list", "--reason", delivery.ReasonCallbackUndecodable, "--json")
		require.NoError(c, err, stderr)
		var listed struct {
			Records []struct{ ID int64 } `json:"dead_records"`
		}
		require.NoError(c, json.Unmarshal([]byte(stdout), &listed), stdout)
		require.Len(c, listed.Records, 3)
	}, time.Minute, 50*time.Millisecond)
}

func (s *running) metrics(t *testing.T, component string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.status.Address(component)+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(content)
}
