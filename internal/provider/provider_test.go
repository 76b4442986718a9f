package provider_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/provider"
)

const secret = "whsec_provider"

var paymentID = uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")

// door answers the deliveries in turn with the statuses, the last one for ever, and verifies every one.
type door struct {
	t        *testing.T
	statuses []int
	header   http.Header

	mu   sync.Mutex
	got  []callback.Event
	last time.Time
	wait []time.Duration // between the deliveries
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.last.IsZero() {
		d.wait = append(d.wait, time.Since(d.last))
	}
	d.last = time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		d.t.Error(err)
	}
	var providers callback.Providers
	if err := providers.UnmarshalText([]byte("stripe=" + secret)); err != nil {
		d.t.Error(err)
	}
	if err := providers.Verify("stripe", r.Header, body, time.Now()); err != nil {
		d.t.Error(err)
	}
	e, err := callback.Parse("stripe", r.Header, body)
	if err != nil {
		d.t.Error(err)
	}
	d.got = append(d.got, e)
	for name, values := range d.header {
		w.Header()[name] = values
	}
	w.WriteHeader(d.statuses[min(len(d.got), len(d.statuses))-1])
}

func deliver(ctx context.Context, t *testing.T, d *door, e provider.Event) (int, error) {
	t.Helper()
	d.t = t
	server := httptest.NewServer(d)
	defer server.Close()
	p := provider.New(server.URL, secret, 1)
	defer p.Close()
	return p.Deliver(ctx, e)
}

func TestAnEventIsDeliveredUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	created := time.Unix(1770000000, 0).UTC()
	d := &door{statuses: []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusAccepted}, header: http.Header{"Retry-After": {"1"}}}
	sent, err := deliver(t.Context(), t, d, provider.Event{
		ID: "evt_1", Type: "charge.dispute.closed", Created: created, PaymentID: paymentID, ObjectStatus: "won",
	})
	require.NoError(t, err)
	require.Equal(t, 3, sent)
	require.Equal(t, callback.Event{
		Provider: "stripe", ID: "evt_1", Type: "charge.dispute.closed", OccurredAt: created, PaymentID: paymentID,
		Change: callback.Change{To: payment.StatusSucceeded, From: []payment.Status{payment.StatusDisputed}},
		State:  "won",
	}, d.got[0])
	require.Equal(t, d.got[0], d.got[2])
	for _, wait := range d.wait {
		require.GreaterOrEqual(t, wait, time.Second, "Retry-After")
	}
}

func TestABodyIsOfStripesForm(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]provider.Event{
		`"object":"charge","refunded":true,"metadata":`:                                   {Type: "charge.refunded"},
		`"object":"dispute","status":"won","metadata":`:                                   {Type: "charge.dispute.closed", ObjectStatus: "won"},
		`"object":"payment_intent","metadata":`:                                           {Type: "payment_intent.succeeded"},
		`"object":"checkout.session","status":"complete","payment_status":"paid",`:        {Type: "checkout.session.completed"},
		`"object":"checkout.session","status":"complete","payment_status":"unpaid",`:      {Type: "checkout.session.completed", ObjectStatus: "unpaid"},
		`"metadata":{"payment_id":"01890a5d-ac96-774b-bcce-b302099a8057"}}}}`:             {Type: "invoice.paid", PaymentID: paymentID},
		`{"id":"evt_1","object":"event","type":"charge.failed","created":1770000000,"dat`: {ID: "evt_1", Type: "charge.failed", Created: time.Unix(1770000000, 0)},
	} {
		body, err := e.Body()
		require.NoError(t, err)
		require.Contains(t, string(body), want)
	}
}

func TestARefusalIsNotRepeated(t *testing.T) {
	t.Parallel()
	sent, err := deliver(t.Context(), t, &door{statuses: []int{http.StatusUnauthorized}}, provider.Event{ID: "evt_1", Type: "t"})
	require.EqualError(t, err, "event evt_1 was refused with 401")
	require.Equal(t, 1, sent)
}

func TestADoorThatIsNotThereIsTriedAgainUntilTheEnd(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	p := provider.New(server.URL, secret, 1)
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	sent, err := p.Deliver(ctx, provider.Event{ID: "evt_1", Type: "t"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 2, sent)
}
