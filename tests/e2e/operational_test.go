package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/simulator"
	"github.com/hookline/hookline/internal/stack"
)

// newsroom is a merchant's server for operational events. It keeps every request, also a second one of a webhook.
type newsroom struct {
	url string

	mu       sync.Mutex
	verifier signing.Verifier
	got      []news
}

type news struct {
	EventID   string `json:"event_id"`
	EventType string `json:"event_type"`
	Snapshot  struct {
		EndpointID   uuid.UUID  `json:"endpoint_id"`
		Reason       string     `json:"reason"`
		DisabledAt   time.Time  `json:"disabled_at"`
		FailingSince *time.Time `json:"failing_since"`
	} `json:"snapshot"`

	webhookID string
	verified  error
}

func newNewsroom(t *testing.T) *newsroom {
	t.Helper()
	n := &newsroom{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got news
		if err != nil || json.Unmarshal(body, &got) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		got.webhookID, got.verified = r.Header.Get("Webhook-Id"), n.verifier.Verify(r.Header, body, time.Now())
		n.got = append(n.got, got)
	}))
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

func (n *newsroom) received() []news {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]news(nil), n.got...)
}

func TestAnEndpointThatIsGoneIsDisabledItsMerchantToldOnceAndWhatWasParkedArrives(t *testing.T) {
	s := start(t, "RECONCILE_INTERVAL=200ms")
	manager, pool := s.endpointsOf(t)
	simulated := s.status.Address(stack.MerchantSimulator)
	shop := load.NewMerchant(simulated)
	const merchantID = "retired"
	require.NoError(t, shop.Behave(t.Context(), simulator.Behaviour{Merchant: merchantID, Status: http.StatusGone}))
	gone, _, err := manager.Add(t.Context(), endpoint.Spec{
		MerchantID: merchantID, URL: "http://" + simulated + "/webhooks/" + merchantID, Secret: s.simulatorsSecret(t, manager),
	})
	require.NoError(t, err)
	newsroom := newNewsroom(t)
	told, secret, err := manager.Add(t.Context(), endpoint.Spec{MerchantID: merchantID, URL: newsroom.url, EventTypes: []string{"endpoint.*"}})
	require.NoError(t, err)
	newsroom.mu.Lock()
	newsroom.verifier, err = signing.ParseVerifier(secret)
	newsroom.mu.Unlock()
	require.NoError(t, err)

	pay := func() {
		var payment struct{ ID string }
		call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments",
			`{"merchant_id":"`+merchantID+`","amount":1000,"currency":"USD"}`, &payment)
	}
	// inState waits until as many deliveries to the endpoint are in the state, and there is no other.
	inState := func(id uuid.UUID, state delivery.State, want int) {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			var all, in int
			err := pool.QueryRow(t.Context(), "select count(*), count(*) filter (where state = $2) from delivery.deliveries where endpoint_id = $1",
				[16]byte(id), string(state)).Scan(&all, &in)
			require.NoError(c, err)
			require.Equal(c, []int{want, want}, []int{all, in})
		}, time.Minute, 20*time.Millisecond)
	}
	pay()
	inState(gone.ID, delivery.Parked, 1)
	shown, err := manager.Get(t.Context(), gone.ID)
	require.NoError(t, err)
	require.False(t, shown.Enabled)
	require.Equal(t, endpoint.DisabledGone, shown.DisabledReason)
	inState(told.ID, delivery.Succeeded, 1)
	pay() // which nobody sends, as long as it is disabled
	inState(gone.ID, delivery.Parked, 2)
	var attempts int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from delivery.attempts where endpoint_id = $1", [16]byte(gone.ID)).Scan(&attempts))
	require.Equal(t, 1, attempts)

	require.NoError(t, shop.Behave(t.Context(), simulator.Behaviour{Merchant: merchantID}))
	stdout, stderr, err := hookline(t, s.dir, nil, "endpoints", "enable", gone.ID.String())
	require.NoError(t, err, stderr)
	require.Contains(t, stdout, "2 parked deliveries are sent, the oldest first")
	inState(gone.ID, delivery.Succeeded, 2)
	invalid, err := shop.InvalidSignatures(t.Context())
	require.NoError(t, err)
	require.Zero(t, invalid)

	got := newsroom.received()
	require.Len(t, got, 1, "what became of the other deliveries is no news")
	require.NoError(t, got[0].verified)
	require.Equal(t, got[0].webhookID, got[0].EventID)
	require.Equal(t, "endpoint.disabled", got[0].EventType)
	require.Equal(t, gone.ID, got[0].Snapshot.EndpointID)
	require.Equal(t, endpoint.DisabledGone, got[0].Snapshot.Reason)
	require.True(t, shown.DisabledAt.Equal(got[0].Snapshot.DisabledAt))
	require.Nil(t, got[0].Snapshot.FailingSince)
	inState(told.ID, delivery.Succeeded, 1)
}
