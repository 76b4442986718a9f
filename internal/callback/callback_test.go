package callback_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/signing"
)

var paymentID = uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")

// stripeEvent reads an event of the type; behind a slash may be the status of its object. A charge is refunded as a whole.
func stripeEvent(t require.TestingT, name string) callback.Event {
	name, status, _ := strings.Cut(name, "/")
	return stripeObject(t, name, fmt.Sprintf(`{"status":%q,"refunded":true,"metadata":{"payment_id":%q}}`, status, paymentID))
}

func stripeObject(t require.TestingT, name, object string) callback.Event {
	e, err := callback.Parse(callback.Stripe, nil, fmt.Appendf(nil, `{"id":"evt_1","type":%q,"created":1770000000,"data":{"object":%s}}`, name, object))
	require.NoError(t, err)
	return e
}

// standardEvent reads an event of a provider that signs as Standard Webhooks says.
func standardEvent(t require.TestingT, name string) callback.Event {
	e, err := callback.Parse("acme", http.Header{"Webhook-Id": {"msg_1"}}, fmt.Appendf(nil, `{"type":%q,"data":{"payment_id":%q}}`, name, paymentID))
	require.NoError(t, err)
	return e
}

func providers(t testing.TB, text string) callback.Providers {
	t.Helper()
	var p callback.Providers
	require.NoError(t, p.UnmarshalText([]byte(text)))
	return p
}

// The vector is of Stripe's own documentation of the scheme: what is signed is "t.body", keyed with the secret's text.
// https://docs.stripe.com/webhooks#verify-manually
func TestStripesSignature(t *testing.T) {
	t.Parallel()
	// echo -n '1492774577.{"id":"evt_1","object":"event"}' | openssl dgst -sha256 -hmac whsec_test_secret
	const want = "654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543"
	body := []byte(`{"id":"evt_1","object":"event"}`)
	at := time.Unix(1492774577, 0)
	require.Equal(t, "t=1492774577,v1="+want, callback.StripeSignature("whsec_test_secret", at, body))

	p := providers(t, "stripe=whsec_old,stripe=whsec_test_secret")
	verify := func(header string, body []byte, now time.Time) error {
		return p.Verify(callback.Stripe, http.Header{"Stripe-Signature": {header}}, body, now)
	}
	good := "t=1492774577,v1=" + want
	require.NoError(t, verify(good, body, at))
	require.NoError(t, verify(good+",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39", body, at.Add(callback.Tolerance)))
	require.NoError(t, verify("t=1492774577,v1=00,v1="+want, body, at), "while Stripe rotates there are two")
	require.NoError(t, p.VerifyAnyAge(callback.Stripe, http.Header{"Stripe-Signature": {good}}, body))
	for name, err := range map[string]error{
		"no header":        p.Verify(callback.Stripe, http.Header{}, body, at),
		"old":              verify(good, body, at.Add(callback.Tolerance+time.Second)),
		"from the future":  verify(good, body, at.Add(-callback.Tolerance-time.Second)),
		"another body":     verify(good, append(body, ' '), at),
		"another time":     verify(strings.Replace(good, "577", "578", 1), body, at),
		"another scheme":   verify("t=1492774577,v0="+want, body, at),
		"no time":          verify("v1="+want, body, at),
		"two times":        verify("t=1492774577,"+good, body, at),
		"no number":        verify("t=now,v1="+want, body, at),
		"a padded number":  verify("t=01492774577,v1="+want, body, at),
		"no signature":     verify("t=1492774577", body, at),
		"another provider": p.Verify("acme", http.Header{"Stripe-Signature": {good}}, body, at),
		"old, other body":  p.VerifyAnyAge(callback.Stripe, http.Header{"Stripe-Signature": {good}}, []byte("{}")),
	} {
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "whsec_", name)
	}
}

func TestOtherProvidersSignAsStandardWebhooksSays(t *testing.T) {
	t.Parallel()
	text, err := signing.NewSecret(signing.Ed25519)
	require.NoError(t, err)
	secret, err := signing.ParseSecret(text)
	require.NoError(t, err)
	p := providers(t, "acme="+secret.Verifier())
	body, at := []byte(`{"type":"payment.succeeded"}`), time.Unix(1770000000, 0)
	header := http.Header{
		"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {"1770000000"}, "Webhook-Signature": {secret.Sign("msg_1", at, body)},
	}
	require.NoError(t, p.Verify("acme", header, body, at))
	require.Error(t, p.Verify("acme", header, body, at.Add(time.Hour)))
	require.NoError(t, p.VerifyAnyAge("acme", header, body))
	require.Error(t, p.VerifyAnyAge("acme", header, []byte("{}")))
	svix := http.Header{"Svix-Id": header["Webhook-Id"], "Svix-Timestamp": header["Webhook-Timestamp"], "Svix-Signature": header["Webhook-Signature"]}
	require.NoError(t, p.VerifyAnyAge("acme", svix, body))
	require.Error(t, p.VerifyAnyAge("acme", http.Header{}, body))
	require.Error(t, p.Verify("stripe", header, body, at))
}

func TestBadProvidersAreNamedAndNotQuoted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      "part 1",
		"stripe":                "part 1",
		"stripe=whsec_a,":       "part 2",
		"stripe=whsec_a,Acme=b": "part 2",
		"acme=not-a-secret":     "part 1 of the list, a secret of acme",
		"acme=whsec_c2VjcmV0":   "part 1 of the list, a secret of acme",
		"a/b=whsec_a":           "part 1",
		"stripe=":               "part 1",
	} {
		var p callback.Providers
		err := p.UnmarshalText([]byte(text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "c2VjcmV0")
	}
	p := providers(t, "stripe=whsec_a,stripe=whsec_b")
	require.Equal(t, "stripe", fmt.Sprint(p))
	require.True(t, p.Has("stripe"))
	require.False(t, p.Has("acme"))
}

func TestParseFindsThePaymentAndTheChange(t *testing.T) {
	t.Parallel()
	e := stripeEvent(t, "charge.refunded")
	require.Equal(t, callback.Event{
		Provider: "stripe", ID: "evt_1", Type: "charge.refunded", OccurredAt: time.Unix(1770000000, 0).UTC(), PaymentID: paymentID,
		Change: callback.Change{To: payment.StatusRefunded, From: []payment.Status{payment.StatusSucceeded, payment.StatusDisputed}},
		State:  "refunded",
	}, e)
	require.Equal(t, "stripe:evt_1", e.Key())
	for name, object := range map[string]string{
		"metadata":     `{"metadata":{"payment_id":"%s"}}`,
		"reference":    `{"client_reference_id":"%s","metadata":{}}`,
		"subscription": `{"payment_intent":"pi_1","subscription_details":{"metadata":{"payment_id":"%s"}}}`,
		"parent":       `{"payment_intent":"pi_1","parent":{"type":"subscription_details","subscription_details":{"metadata":{"payment_id":"%s"}}}}`,
		"no parent":    `{"parent":null,"metadata":{"payment_id":"%s"}}`,
		"expanded":     `{"metadata":{"payment_id":"order-7"},"payment_intent":{"id":"pi_1","metadata":{"payment_id":"%s"}}}`,
		"null intent":  `{"payment_intent":null,"metadata":{"payment_id":"%s"}}`,
	} {
		e, err := callback.Parse(callback.Stripe, nil, []byte(`{"id":"evt_1","type":"invoice.paid","data":{"object":`+fmt.Sprintf(object, paymentID)+`}}`))
		require.NoError(t, err, name)
		require.Equal(t, paymentID, e.PaymentID, name)
	}
	unknown := stripeEvent(t, "customer.created")
	require.False(t, unknown.Change.Known())
	require.False(t, unknown.Silent)

	standard, err := callback.Parse("acme", http.Header{"Webhook-Id": {"msg_1"}},
		fmt.Appendf(nil, `{"type":"payment.failed","timestamp":"2026-01-02T03:04:05Z","data":{"payment_id":%q}}`, paymentID))
	require.NoError(t, err)
	require.Equal(t, callback.Event{
		Provider: "acme", ID: "msg_1", Type: "payment.failed", OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), PaymentID: paymentID,
		Change: callback.Change{To: payment.StatusFailed, From: payment.StatusFailed.Sources()},
	}, standard)
	for _, kind := range []string{"payment.pending", "payment.lost", "invoice.paid"} {
		e, err := callback.Parse("acme", http.Header{"Webhook-Id": {"msg_1"}}, fmt.Appendf(nil, `{"type":%q}`, kind))
		require.NoError(t, err)
		require.False(t, e.Change.Known(), kind)
		require.Equal(t, uuid.Nil, e.PaymentID)
	}
}

// A charge is "refunded" by a part, and a session "completed" before it is paid.
func TestATypeIsReadWithItsObject(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, object string
		to           payment.Status // none: the type is known, and changes nothing
	}{
		{"charge.refunded", `{"refunded":true,"status":"succeeded"}`, payment.StatusRefunded},
		{"charge.refunded", `{"refunded":false,"amount_refunded":1,"status":"succeeded"}`, ""},
		{"charge.refunded", `{}`, ""},
		{"checkout.session.completed", `{"payment_status":"paid","status":"complete"}`, payment.StatusSucceeded},
		{"checkout.session.completed", `{"payment_status":"no_payment_required"}`, payment.StatusSucceeded},
		{"checkout.session.completed", `{"payment_status":"unpaid","status":"complete"}`, ""},
		{"checkout.session.async_payment_succeeded", `{"payment_status":"paid"}`, payment.StatusSucceeded},
		{"checkout.session.async_payment_failed", `{"payment_status":"unpaid"}`, payment.StatusFailed},
		{"charge.dispute.closed", `{"status":"won"}`, payment.StatusSucceeded},
		{"charge.dispute.closed", `{"status":"needs_response"}`, ""},
		{"payment_intent.created", `{}`, ""},
		{"payment_intent.requires_action", `{}`, ""},
		{"charge.updated", `{}`, ""},
	} {
		e := stripeObject(t, test.name, test.object)
		require.Equal(t, test.to, e.Change.To, "%s of %s", test.name, test.object)
		require.Equal(t, test.to == "", e.Silent, "%s of %s", test.name, test.object)
	}
}

func TestAnEventThatWasKeptIsReadByThePresentCode(t *testing.T) {
	t.Parallel()
	wide := []payment.Status{payment.StatusPending, payment.StatusProcessing, payment.StatusDisputed}
	kept := callback.Event{Provider: "acme", Type: "payment.succeeded", Change: callback.Change{To: payment.StatusSucceeded, From: wide}}
	require.Equal(t, standardEvent(t, "payment.succeeded").Change, kept.Again().Change)

	kept = stripeEvent(t, "charge.dispute.closed/lost")
	change := kept.Change
	kept.Change = callback.Change{}
	require.Equal(t, change, kept.Again().Change)

	kept = stripeObject(t, "charge.refunded", `{"refunded":false}`)
	kept.Change, kept.Silent = change, false
	require.True(t, kept.Again().Silent)

	for _, name := range []string{"charge.dispute.closed", "charge.refunded", "an.other"} { // without the state, the type says too little
		kept = callback.Event{Provider: callback.Stripe, Type: name, Change: change}
		require.Equal(t, kept, kept.Again())
	}
}

func TestWhatIsNoCallbackIsMalformed(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", "[]", "null", "{", `{"type":"charge.refunded"}`, `{"id":"evt_1"}`, `{"id":7,"type":"x"}`,
		`{"id":"` + strings.Repeat("e", 256) + `","type":"x"}`, `{"id":"e","type":"` + strings.Repeat("x", 256) + `"}`,
		`{"id":"evt\u0000","type":"x"}`, `{"id":"evt","type":"x\u0007"}`, `{"id":"evt\ud800","type":"x"}`, "{\"id\":\"evt\xff\",\"type\":\"x\"}",
	} {
		_, err := callback.Parse(callback.Stripe, nil, []byte(body))
		require.Equal(t, fault.Malformed, fault.ClassOf(err), body)
	}
	_, err := callback.Parse("acme", http.Header{"Webhook-Id": {"msg_1"}}, []byte(`{"type":"payment.failed","timestamp":"yesterday"}`))
	require.Equal(t, fault.Malformed, fault.ClassOf(err))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"evt_1","type":"charge.refunded","created":1770000000,"data":{"object":{"payment_intent":{"metadata":{}}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, provider := range []string{callback.Stripe, "acme"} {
			e, err := callback.Parse(provider, http.Header{"Webhook-Id": {"msg_1"}}, body)
			if err != nil {
				require.Equal(t, fault.Malformed, fault.ClassOf(err))
				continue
			}
			require.NotEmpty(t, e.ID)
			require.NotEmpty(t, e.Type)
		}
	})
}
