package restate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/signing"
)

const svixSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// newsBook is what follows from Svix's news, in memory.
type newsBook struct {
	mu     sync.Mutex
	away   int // how many calls fail
	looked []delivery.Key
	told   []event.Operational
}

var errLedgerAway = errors.New("the ledger is away")

func (b *newsBook) LookAtHandedOver(_ context.Context, eventID uuid.UUID, generation int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away > 0 {
		b.away--
		return errLedgerAway
	}
	b.looked = append(b.looked, delivery.Key{EventID: eventID, Generation: generation})
	return nil
}

func (b *newsBook) Tell(_ context.Context, e event.Operational) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away > 0 {
		b.away--
		return false, errLedgerAway
	}
	for _, each := range b.told {
		if each.ID == e.ID {
			return false, nil
		}
	}
	b.told = append(b.told, e)
	return true, nil
}

func (b *newsBook) fail(times int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = times
}

func (b *newsBook) looks() []delivery.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]delivery.Key(nil), b.looked...)
}

func (b *newsBook) tales() []event.Operational {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]event.Operational(nil), b.told...)
}

// news is an operational webhook with the headers of Svix.
func news(t *testing.T, id, secret, body string) http.Header {
	t.Helper()
	key, err := signing.ParseSecret(secret)
	require.NoError(t, err)
	now := time.Now()
	return http.Header{
		"Svix-Id": {id}, "Svix-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Svix-Signature": {signing.Header([]signing.Secret{key}, id, now, []byte(body))},
	}
}

// hear sends the news as the door does, and again straight at Restate's ingress, where no key drops repetitions.
func (w *callbackWorld) hear(t *testing.T, id, body string) {
	t.Helper()
	header := news(t, id, svixSecret, body)
	e, err := callback.Parse(callback.Svix, header, []byte(body))
	if err != nil {
		e = callback.Event{Provider: callback.Svix, ID: id}
	}
	require.NoError(t, w.client.ForwardCallback(t.Context(), e, header, []byte(body)))
	status, answer := w.post(t, "/WebhookCallbackRouter/OnEvent", "application/json", header, []byte(body))
	require.Equal(t, http.StatusOK, status, answer)
}

// msg is an id that no other test's Restate knows.
func msg() string { return "msg_" + uuid.NewString() }

func TestWhatSvixGaveUpIsLookedAt(t *testing.T) { //nolint:paralleltest // as the callbacks' tests
	w := newCallbackWorld(t)
	id := uuid.New()
	exhausted := func(eventID string) string {
		return fmt.Sprintf(`{"type":"message.attempt.exhausted","data":{"appId":"app_1","appUid":"shop","endpointId":"ep_1","msgId":"msg_1","msgEventId":%q}}`, eventID)
	}
	w.news.fail(2)
	w.hear(t, msg(), exhausted(id.String()+".g7.r1"))
	want := delivery.Key{EventID: id, Generation: 7}
	require.Equal(t, []delivery.Key{want, want}, w.news.looks(), "as often as it is said: it only asks")
	w.hear(t, msg(), exhausted("order-17"))
	require.Len(t, w.news.looks(), 2)
	w.hear(t, msg(), `{"type":"message.attempt.recovered","data":{"appUid":"shop","msgEventId":"`+id.String()+`"}}`)
	w.hear(t, msg(), `{"type":"endpoint.created","data":{"appUid":"shop","endpointId":"ep_1"}}`)
	require.Len(t, w.news.looks(), 2)
	require.Empty(t, w.news.tales())
	require.Empty(t, w.graves.all())
	for outcome, n := range map[callback.Outcome]float64{callback.Looked: 2, callback.NotOurs: 2, callback.NoChange: 4} {
		require.InDelta(t, n, w.counted(callback.Svix, string(outcome)), 0, outcome)
	}
}

func TestTheMerchantHearsOnceOfAnEndpointThatSvixDisabled(t *testing.T) { //nolint:paralleltest // as the callbacks' tests
	w := newCallbackWorld(t)
	const disabled = `{"type":"endpoint.disabled","data":{"appId":"app_1","appUid":"shop","endpointId":"ep_1","failSince":"2026-02-23T12:00:00Z"}}`
	id := msg()
	w.news.fail(1)
	w.hear(t, id, disabled)
	w.hear(t, id, disabled)
	require.Len(t, w.news.tales(), 1)
	told := w.news.tales()[0]
	require.Equal(t, []string{"shop", catalogue.EndpointDisabled}, []string{told.MerchantID, told.Type})
	known, found := catalogue.Lookup(told.Type)
	require.True(t, found)
	require.NoError(t, known.ValidateData(told.Data), "payments-api takes it: %s", told.Data)
	var data map[string]any
	require.NoError(t, json.Unmarshal(told.Data, &data))
	require.Equal(t, []any{"ep_1", "2026-02-23T12:00:00Z"}, []any{data["endpoint_id"], data["failing_since"]})

	w.hear(t, msg(), disabled)
	require.Len(t, w.news.tales(), 2, "it was enabled, and is disabled again")
	w.hear(t, msg(), `{"type":"endpoint.disabled","data":{"appUid":"shop","endpointId":"ep_1","trigger":"manual"}}`)
	w.hear(t, msg(), `{"type":"endpoint.disabled","data":{"appId":"app_2","appUid":null,"endpointId":"ep_1"}}`)
	require.Len(t, w.news.tales(), 2)
}

func TestNewsThatCannotBeReadIsADeadRecordAndAStrangersIsRefused(t *testing.T) { //nolint:paralleltest // as the callbacks' tests
	w := newCallbackWorld(t)
	w.hear(t, msg(), `{"type":"endpoint.disabled","data":{}}`)
	records := w.graves.all()
	require.Len(t, records, 1)
	require.Equal(t, []string{delivery.ReasonCallbackUndecodable, "callbacks/svix"}, []string{records[0].Reason, records[0].Topic})
	_, err := w.client.RedriveCallback(t.Context(), records[0].ID)
	require.Error(t, err)

	// A record of an older worker that did not know the type.
	require.NoError(t, w.graves.Bury(t.Context(), delivery.DeadRecord{
		Topic: "callbacks/svix", Reason: delivery.ReasonCallbackUnknownType, Key: []byte(`{"Svix-Id":"` + msg() + `","Svix-Timestamp":"1","Svix-Signature":"v1,x"}`),
		Value: []byte(`{"type":"endpoint.disabled","data":{"appUid":"shop","endpointId":"ep_1"}}`),
	}))
	outcome, err := w.client.RedriveCallback(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, callback.Told, outcome)
	require.Len(t, w.news.tales(), 1)

	const body = `{"type":"endpoint.disabled","data":{"appUid":"shop","endpointId":"ep_1"}}`
	header := news(t, msg(), acmeSecret, body)
	header.Set(headerProvider, callback.Svix)
	status, _ := w.post(t, "/WebhookCallbackRouter/OnEvent", "application/json", header, []byte(body))
	require.Equal(t, http.StatusUnauthorized, status)
	require.Len(t, w.news.tales(), 1)
	require.InDelta(t, 1, w.counted(callback.Svix, outcomeBadSignature), 0)
}
