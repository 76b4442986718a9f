package callback_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/svix/messageid"
)

func newsHeader() http.Header {
	return http.Header{"Svix-Id": {"msg_1"}, "Svix-Timestamp": {"1"}, "Svix-Signature": {"v1,x"}}
}

func TestNewsOfSvixIsRead(t *testing.T) {
	t.Parallel()
	const id = "01900000-0000-7000-8000-000000000001"
	exhausted := func(eventID string) string {
		return `{"type":"message.attempt.exhausted","data":{"appId":"app_1","appUid":"shop","endpointId":"ep_1","msgId":"msg_9","msgEventId":` + eventID +
			`,"lastAttempt":{"id":"atmpt_1","responseStatusCode":500,"timestamp":"2026-02-23T12:00:00Z"}}}`
	}
	message := func(generation int64, replacement int) *messageid.Message {
		return &messageid.Message{EventID: uuid.MustParse(id), Generation: generation, Replacement: replacement}
	}
	for body, want := range map[string]callback.News{
		exhausted(`"` + id + `"`):       {Type: callback.SvixExhausted, MerchantID: "shop", EndpointID: "ep_1", Message: message(0, 0)},
		exhausted(`"` + id + `.g7.r2"`): {Type: callback.SvixExhausted, MerchantID: "shop", EndpointID: "ep_1", Message: message(7, 2)},
		exhausted(`"order-1"`):          {Type: callback.SvixExhausted, MerchantID: "shop", EndpointID: "ep_1"},
		exhausted(`null`):               {Type: callback.SvixExhausted, MerchantID: "shop", EndpointID: "ep_1"},
		`{"type":"endpoint.disabled","data":{"appId":"app_1","appUid":"shop","endpointId":"ep_1","endpointUid":null,"failSince":"2026-02-23T13:00:00+01:00"}}`: {
			Type: callback.SvixEndpointDisabled, MerchantID: "shop", EndpointID: "ep_1", Failing: time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC),
		},
		`{"type":"endpoint.disabled","data":{"appId":"app_1","appUid":null,"endpointId":"ep_1","trigger":"manual"}}`: {
			Type: callback.SvixEndpointDisabled, EndpointID: "ep_1", ByHand: true,
		},
		`{"type":"something.new"}`: {Type: "something.new"},
	} {
		want.ID = "msg_1"
		got, err := callback.ParseNews(newsHeader(), []byte(body))
		require.NoError(t, err, body)
		require.Equal(t, want, got, body)
	}
}

func TestWhatIsNoNewsOfSvixIsMalformed(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", "[]", "x", `{}`, `{"type":""}`, `{"type":"a\u0000"}`, `{"type":7}`, `{"type":"a","data":{"appUid":7}}`, `{"type":"a","data":{"appUid":"a\nb"}}`,
		`{"type":"endpoint.disabled","data":{"appUid":"shop"}}`, `{"type":"endpoint.disabled","data":{"endpointId":"e","failSince":"soon"}}`,
	} {
		_, err := callback.ParseNews(newsHeader(), []byte(body))
		require.Equal(t, fault.Malformed, fault.ClassOf(err), body)
	}
	_, err := callback.ParseNews(http.Header{}, []byte(`{"type":"a"}`))
	require.Equal(t, fault.Malformed, fault.ClassOf(err))
}
