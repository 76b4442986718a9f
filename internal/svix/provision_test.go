package svix_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/messageid"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

func TestAnEndpointAtSvixIsMadeOnceAndPutRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	client := w.client(t, svix.Options{})
	const first, second = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	target := svix.Target{UID: "main", URL: "http://127.0.0.1:1/webhooks", Secret: first}
	w.fake.RaceApplication()
	require.NoError(t, client.Provision(t.Context(), "other", target))
	require.NoError(t, client.Provision(t.Context(), "other", target))
	require.Equal(t, 1, w.fake.Requests("POST /api/v1/app/{app_id}/endpoint"), "it is as it is wanted")
	for _, change := range []svix.Target{{UID: "main", URL: "http://127.0.0.1:2/webhooks", Secret: first}, {UID: "main", URL: "http://127.0.0.1:2/webhooks", Secret: second}} {
		require.NoError(t, client.Provision(t.Context(), "other", change))
		list, err := w.admin.Endpoint.List(t.Context(), "other", nil)
		require.NoError(t, err)
		require.Len(t, list.Data, 1)
		require.Equal(t, change.URL, list.Data[0].Url)
		secret, err := w.admin.Endpoint.GetSecret(t.Context(), "other", "main")
		require.NoError(t, err)
		require.Equal(t, change.Secret, secret.Key)
	}
	require.Equal(t, fault.Invalid, fault.ClassOf(client.Provision(t.Context(), "..", target)))
	w.fake.SetTokens("another")
	require.ErrorContains(t, client.Provision(t.Context(), "other", target), "making an application at Svix: status code 401")
}

func TestMessagesAreThoseOfEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	want := map[messageid.Message]bool{}
	for range 255 { // more than a page
		message := newMessage()
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
		want[messageid.Message{EventID: message.EventID}] = true
	}
	_, err := w.admin.Message.Create(t.Context(), shop, models.MessageIn{EventType: "a", EventId: new("order-" + uuid.NewString()), Payload: map[string]any{}}, nil)
	require.NoError(t, err)
	got, err := client.Messages(t.Context(), shop, time.Now().Add(-time.Minute))
	require.NoError(t, err)
	require.Len(t, got, len(want))
	for _, each := range got {
		require.True(t, want[each])
	}
	none, err := client.Messages(t.Context(), shop, time.Now().Add(time.Minute))
	require.NoError(t, err)
	require.Empty(t, none)
}
