package svixtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
	"go.uber.org/goleak"

	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/svix/svixtest"
	"github.com/hookline/hookline/internal/svix/svixtest/contract"
)

const (
	token = "testsk_fixed"
	app   = "shop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// document is Svix's OpenAPI document.
var document = sync.OnceValues(func() (*contract.Document, error) { return contract.Read(os.Getenv("SVIX_OPENAPI")) })

type server struct {
	*svixtest.Server
	url string
	api *sdk.Svix

	mu  sync.Mutex
	got []string // the svix-ids that a merchant got
}

// start starts a server with an application that has an endpoint.
func start(t *testing.T, opts svixtest.Options, statuses ...int) *server {
	t.Helper()
	opts.Tokens = []string{token}
	if opts.LockKept == 0 {
		opts.LockKept = 30 * time.Millisecond
	}
	if os.Getenv("SVIX_OPENAPI") == "" {
		t.Log("requests and answers are not validated: SVIX_OPENAPI does not name Svix's OpenAPI document")
	} else {
		document, err := document()
		require.NoError(t, err)
		opts.Around = func(next http.Handler) http.Handler {
			return document.Around(next, func(err error) { t.Error(err) })
		}
	}
	s := &server{Server: svixtest.New(context.Background(), opts)}
	listening := httptest.NewServer(s.Server)
	merchant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(statuses) > 0 {
			status := statuses[0]
			statuses = statuses[1:]
			if status != http.StatusOK {
				w.WriteHeader(status)
				return
			}
		}
		s.got = append(s.got, r.Header.Get("Svix-Id"))
	}))
	t.Cleanup(func() {
		listening.Close()
		s.Close()
		merchant.Close()
	})
	s.url = listening.URL
	s.api = s.client(t, token)
	_, err := s.api.Application.GetOrCreate(t.Context(), models.ApplicationIn{Name: app, Uid: new(app)}, nil)
	require.NoError(t, err)
	_, err = s.api.Endpoint.Create(t.Context(), app, models.EndpointIn{Url: merchant.URL, Uid: new("ep-main")}, nil)
	require.NoError(t, err)
	return s
}

func (s *server) client(t *testing.T, token string) *sdk.Svix {
	t.Helper()
	base, err := url.Parse(s.url)
	require.NoError(t, err)
	// Over a kept connection net/http would repeat what breaks.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	api, err := sdk.New(token, &sdk.SvixOptions{ServerUrl: base, HTTPClient: client, RetrySchedule: &[]time.Duration{}})
	require.NoError(t, err)
	return api
}

func (s *server) create(t *testing.T, api *sdk.Svix, eventID, key string) (string, int) {
	t.Helper()
	in := models.MessageIn{EventType: "a.b", Payload: map[string]any{"x": 1}}
	if eventID != "" {
		in.EventId = &eventID
	}
	opts := &sdk.MessageCreateOptions{}
	if key != "" {
		opts.IdempotencyKey = &key
	}
	out, err := api.Message.Create(t.Context(), app, in, opts)
	if err == nil {
		return out.Id, http.StatusAccepted
	}
	if refused, ok := errors.AsType[*sdk.Error](err); ok {
		return "", refused.Status()
	}
	return "", 0
}

func (s *server) settle(t *testing.T) []string {
	t.Helper()
	require.Eventually(t, func() bool { return s.Pending() == 0 }, 5*time.Second, time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.got...)
}

// What one of the two marks alone does about a repeated message, at each step that a crash can come after. Together they
// do what internal/svix promises.
func TestWhatEachMarkDoesAboutARepeatedMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault   svixtest.Fault
		between func(s *server)
		// With the eventId alone, and with the idempotency key alone: the status of the second try, and how often the
		// merchant gets it after both.
		eventStatus, eventTimes, keyStatus, keyTimes int
	}{
		"before the commit":        {fault: svixtest.Fault{At: svixtest.BeforeCommit}, eventStatus: 202, eventTimes: 1, keyStatus: 202, keyTimes: 1},
		"after the commit":         {fault: svixtest.Fault{At: svixtest.AfterCommit}, eventStatus: 409, eventTimes: 0, keyStatus: 202, keyTimes: 1},
		"a 500 after the commit":   {fault: svixtest.Fault{At: svixtest.AfterCommit, Status: 500}, eventStatus: 409, eventTimes: 0, keyStatus: 202, keyTimes: 1},
		"after the queue":          {fault: svixtest.Fault{At: svixtest.AfterQueueing}, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 2},
		"after the answer is kept": {fault: svixtest.Fault{At: svixtest.AfterCaching}, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 1},
		"after all of it":          {eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 1},
		"after twelve hours":       {between: func(s *server) { s.Advance(12 * time.Hour) }, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 2},
		"after the cache is lost":  {between: func(s *server) { s.LoseCache() }, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 2},
		"a 429 before all of it":   {fault: svixtest.Fault{At: svixtest.BeforeCommit, Status: 429, RetryAfter: "1"}, eventStatus: 202, eventTimes: 1, keyStatus: 202, keyTimes: 1},
		"it is only slow":          {fault: svixtest.Fault{Delay: time.Millisecond}, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 1},
		"after hundreds of days":   {between: func(s *server) { s.Advance(400 * 24 * time.Hour) }, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 2},
		"just before twelve hours": {between: func(s *server) { s.Advance(12*time.Hour - time.Minute) }, eventStatus: 409, eventTimes: 1, keyStatus: 202, keyTimes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for mark, want := range map[string]struct{ status, times int }{
				"event": {test.eventStatus, test.eventTimes}, "key": {test.keyStatus, test.keyTimes},
			} {
				s := start(t, svixtest.Options{})
				s.Inject(test.fault)
				marks := [2]string{"evt-1", ""}
				if mark == "key" {
					marks = [2]string{"", "key-1"}
				}
				s.create(t, s.api, marks[0], marks[1])
				s.settle(t)
				if test.between != nil {
					test.between(s)
				}
				_, status := s.create(t, s.api, marks[0], marks[1])
				require.Equal(t, want.status, status, mark)
				require.Len(t, s.settle(t), want.times, mark)
			}
		})
	}
}

func TestTheKeyCountsByTokenAndPath(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	s.SetTokens(token, "another")
	first, _ := s.create(t, s.api, "", "k")
	again, _ := s.create(t, s.api, "", "k")
	require.Equal(t, first, again)
	other, _ := s.create(t, s.client(t, "another"), "", "k")
	require.NotEqual(t, first, other)
	s.settle(t)
}

// Two at once with one key are one message: the second waits for the first.
func TestTheKeyHoldsASecondRequestBack(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{LockKept: 5 * time.Second})
	s.Inject(svixtest.Fault{Delay: 50 * time.Millisecond})
	var both sync.WaitGroup
	var ids [2]string
	for i := range ids {
		both.Go(func() { ids[i], _ = s.create(t, s.api, "", "k") })
	}
	both.Wait()
	require.NotEmpty(t, ids[0])
	require.Equal(t, ids[0], ids[1])
	require.Len(t, s.settle(t), 1)
}

func TestARefusalGivesTheKeyBack(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{LockKept: time.Minute})
	s.Inject(svixtest.Fault{At: svixtest.BeforeCommit, Status: 500})
	_, status := s.create(t, s.api, "", "k")
	require.Equal(t, 500, status)
	_, status = s.create(t, s.api, "", "k")
	require.Equal(t, 202, status)
	s.settle(t)
}

// The 409 does not say which message is there, and the eventId finds it.
func TestAConflictDoesNotNameTheMessage(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	id, _ := s.create(t, s.api, "evt-1", "")
	s.settle(t)
	_, err := s.api.Message.Create(t.Context(), app, models.MessageIn{
		EventType: "a.b", EventId: new("evt-1"), Payload: map[string]any{"another": true},
	}, nil)
	refused, ok := errors.AsType[*sdk.Error](err)
	require.True(t, ok)
	require.JSONEq(t, `{"code":"conflict","detail":"A conflict has occurred"}`, string(refused.Body()))
	found, err := s.api.Message.Get(t.Context(), app, "evt-1", nil)
	require.NoError(t, err)
	require.Equal(t, id, found.Id)
	require.Equal(t, map[string]any{"x": 1.0}, found.Payload)
	found, err = s.api.Message.Get(t.Context(), app, id, &sdk.MessageGetOptions{WithContent: new(false)})
	require.NoError(t, err)
	require.Empty(t, found.Payload)
	_, err = s.api.Application.GetOrCreate(t.Context(), models.ApplicationIn{Name: "b", Uid: new("b")}, nil)
	require.NoError(t, err)
	_, err = s.api.Message.Create(t.Context(), "b", models.MessageIn{EventType: "a.b", EventId: new("evt-1"), Payload: map[string]any{}}, nil)
	require.NoError(t, err, "of another application it is another")
}

// What somebody who follows a message to its end reads.
func TestADestinationShowsItsRetriesAndItsEnd(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{Retries: []time.Duration{50 * time.Millisecond}}, 500, 200)
	s.Hold()
	id, _ := s.create(t, s.api, "evt-1", "")
	destinations := func() []models.MessageEndpointOut {
		out, err := s.api.MessageAttempt.ListAttemptedDestinations(t.Context(), app, "evt-1", nil)
		require.NoError(t, err)
		return out.Data
	}
	require.Empty(t, destinations(), "queued is not attempted")
	s.Release()
	require.Eventually(t, func() bool { return len(destinations()) == 1 }, 5*time.Second, time.Millisecond)
	s.settle(t)
	require.Equal(t, models.MESSAGESTATUS_SUCCESS, destinations()[0].Status)
	require.Nil(t, destinations()[0].NextAttempt)
	attempts, err := s.api.MessageAttempt.ListByMsg(t.Context(), app, id, nil)
	require.NoError(t, err)
	require.Len(t, attempts.Data, 2)
	require.EqualValues(t, 200, attempts.Data[0].ResponseStatusCode, "the newest first")
	require.EqualValues(t, 500, attempts.Data[1].ResponseStatusCode)
	failed, err := s.api.MessageAttempt.ListByEndpoint(t.Context(), app, "ep-main",
		&sdk.MessageAttemptListByEndpointOptions{Status: new(models.MESSAGESTATUS_FAIL)})
	require.NoError(t, err)
	require.Len(t, failed.Data, 1)
	one, err := s.api.MessageAttempt.Get(t.Context(), app, id, failed.Data[0].Id, nil)
	require.NoError(t, err)
	require.Equal(t, failed.Data[0].Id, one.Id)
}

func TestAFailureWithoutRetriesIsTheEnd(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{Retries: []time.Duration{}}, 500)
	s.create(t, s.api, "evt-1", "")
	require.Empty(t, s.settle(t))
	out, err := s.api.MessageAttempt.ListAttemptedDestinations(t.Context(), app, "evt-1", nil)
	require.NoError(t, err)
	require.Equal(t, models.MESSAGESTATUS_FAIL, out.Data[0].Status)
	require.Nil(t, out.Data[0].NextAttempt)
}

func TestAFailureWithARetryAheadSaysWhen(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{}, 500) // the first retry is in 5 s
	s.create(t, s.api, "evt-1", "")
	require.Eventually(t, func() bool {
		out, err := s.api.MessageAttempt.ListAttemptedDestinations(t.Context(), app, "evt-1", nil)
		return err == nil && len(out.Data) == 1 && out.Data[0].Status == models.MESSAGESTATUS_FAIL && out.Data[0].NextAttempt != nil
	}, 5*time.Second, time.Millisecond)
}

// news is where operational webhooks arrive.
type news struct {
	mu  sync.Mutex
	got []map[string]any
}

func (n *news) of(eventType string) []map[string]any {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []map[string]any
	for _, each := range n.got {
		if each["type"] == eventType {
			out = append(out, each["data"].(map[string]any))
		}
	}
	return out
}

func TestOperationalWebhooksTellOfWhatWasGivenUpAndDisabled(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	key, err := signing.ParseSecret(secret)
	require.NoError(t, err)
	verifier, err := sdk.NewWebhook(secret)
	require.NoError(t, err)
	told, refused := &news{}, false
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		var one map[string]any
		told.mu.Lock()
		defer told.mu.Unlock()
		switch {
		case err != nil || json.Unmarshal(body, &one) != nil:
			t.Errorf("%s: %v", body, err)
		case !refused:
			refused = true
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			told.got = append(told.got, one)
		}
	}))
	t.Cleanup(door.Close)
	s := start(t, svixtest.Options{
		Retries: []time.Duration{time.Millisecond}, Operational: svixtest.Operational{URL: door.URL, Secret: key},
	}, 200, 500, 500, 500, 500, 500, 500)
	require.Eventually(t, func() bool { return len(told.of("endpoint.created")) == 1 }, 10*time.Second, time.Millisecond, "at the second try")

	create := func(eventID string) {
		id, status := s.create(t, s.api, eventID, "")
		require.Equal(t, http.StatusAccepted, status)
		require.NotEmpty(t, id)
		require.Eventually(t, func() bool { return s.Pending() == 0 }, 10*time.Second, time.Millisecond)
	}
	create("e0")
	create("e1")
	require.Eventually(t, func() bool { return len(told.of("message.attempt.exhausted")) == 1 }, 10*time.Second, time.Millisecond)
	one := told.of("message.attempt.exhausted")[0]
	require.Equal(t, []any{app, "e1"}, []any{one["appUid"], one["msgEventId"]})
	require.EqualValues(t, 500, one["lastAttempt"].(map[string]any)["responseStatusCode"])
	s.Advance(119 * time.Hour)
	create("e2")
	require.Eventually(t, func() bool { return len(told.of("message.attempt.exhausted")) == 2 }, 10*time.Second, time.Millisecond)
	require.Empty(t, told.of("endpoint.disabled"))
	s.Advance(2 * time.Hour)
	create("e3")
	require.Eventually(t, func() bool { return len(told.of("endpoint.disabled")) == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, []any{app, "ep-main"}, []any{told.of("endpoint.disabled")[0]["appUid"], told.of("endpoint.disabled")[0]["endpointUid"]})
	require.NotEmpty(t, told.of("endpoint.disabled")[0]["failSince"])
	list, err := s.api.Endpoint.List(t.Context(), app, nil)
	require.NoError(t, err)
	require.True(t, *list.Data[0].Disabled)
}

func TestWhatTheQueueLosesIsNeverAttempted(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	s.Hold()
	s.create(t, s.api, "evt-1", "")
	require.Equal(t, 1, s.Pending())
	s.LoseQueue()
	s.Release()
	require.Empty(t, s.settle(t))
	require.Empty(t, s.Messages(app)[0].Attempts)
}

func TestADisabledOrDeletedEndpointGetsNothing(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	_, err := s.api.Endpoint.Patch(t.Context(), app, "ep-main", models.EndpointPatch{Disabled: new(true)})
	require.NoError(t, err)
	s.create(t, s.api, "evt-1", "")
	require.Empty(t, s.settle(t))
	_, err = s.api.Endpoint.Patch(t.Context(), app, "ep-main", models.EndpointPatch{Disabled: new(false)})
	require.NoError(t, err)
	s.create(t, s.api, "evt-2", "")
	require.Len(t, s.settle(t), 1)
	require.NoError(t, s.api.Endpoint.Delete(t.Context(), app, "ep-main"))
	s.create(t, s.api, "evt-3", "")
	require.Len(t, s.settle(t), 1)
	out, err := s.api.MessageAttempt.ListAttemptedDestinations(t.Context(), app, "evt-2", nil)
	require.NoError(t, err)
	require.Len(t, out.Data, 1, "attempts go on naming it")
}

func TestListsHavePages(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	for i := range 4 {
		_, err := s.api.Endpoint.Create(t.Context(), app, models.EndpointIn{
			Url: "http://127.0.0.1:1/", Uid: new(fmt.Sprintf("e%d", i)), FilterTypes: []string{"never"},
		}, nil)
		require.NoError(t, err)
	}
	var uids []string
	var cursor *string
	for pages := 0; ; pages++ {
		require.Less(t, pages, 3)
		page, err := s.api.Endpoint.List(t.Context(), app, &sdk.EndpointListOptions{Limit: new(uint64(2)), Iterator: cursor})
		require.NoError(t, err)
		for _, each := range page.Data {
			uids = append(uids, *each.Uid)
		}
		if cursor = page.Iterator; page.Done {
			break
		}
	}
	require.Equal(t, []string{"ep-main", "e0", "e1", "e2", "e3"}, uids)
	s.create(t, s.api, "evt-1", "")
	messages, err := s.api.Message.List(t.Context(), app, nil)
	require.NoError(t, err)
	require.Len(t, messages.Data, 1)
	apps, err := s.api.Application.List(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, apps.Data, 1)
	s.settle(t)
}

func TestTheSecretOfAnEndpointVerifiesItsWebhooks(t *testing.T) {
	t.Parallel()
	s := start(t, svixtest.Options{})
	type webhook struct {
		header http.Header
		body   []byte
	}
	got := make(chan webhook, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- webhook{r.Header, body}
	}))
	t.Cleanup(receiver.Close)
	_, err := s.api.Endpoint.Create(t.Context(), app, models.EndpointIn{Url: receiver.URL, Uid: new("drawn")}, nil)
	require.NoError(t, err)
	secret, err := s.api.Endpoint.GetSecret(t.Context(), app, "drawn")
	require.NoError(t, err)
	id, _ := s.create(t, s.api, "evt-1", "")
	s.settle(t)
	received := <-got
	verifier, err := sdk.NewWebhook(secret.Key)
	require.NoError(t, err)
	require.NoError(t, verifier.Verify(received.body, received.header))
	require.Equal(t, id, received.header.Get("Svix-Id"))
	require.JSONEq(t, `{"x":1}`, string(received.body))
}

// Refusals have one of two forms.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method, path, token, body string
		status                    int
		code                      string
	}{
		"a wrong token":              {"GET", "/api/v1/app", "wrong", "", 401, "authentication_failed"},
		"no application":             {"POST", "/api/v1/app/none/msg", token, `{"eventType":"a","payload":{}}`, 404, "not_found"},
		"no message":                 {"GET", "/api/v1/app/shop/msg/none", token, "", 404, "not_found"},
		"no endpoint":                {"GET", "/api/v1/app/shop/endpoint/none", token, "", 404, "not_found"},
		"an endpoint twice":          {"POST", "/api/v1/app/shop/endpoint", token, `{"url":"http://x","uid":"ep-main"}`, 409, "conflict"},
		"an application twice":       {"POST", "/api/v1/app", token, `{"name":"x","uid":"shop"}`, 409, "conflict"},
		"an eventId with a colon":    {"POST", "/api/v1/app/shop/msg", token, `{"eventType":"a","payload":{},"eventId":"t:1:2"}`, 422, ""},
		"an eventId of the server":   {"POST", "/api/v1/app/shop/msg", token, `{"eventType":"a","payload":{},"eventId":"msg_x"}`, 422, ""},
		"no event type":              {"POST", "/api/v1/app/shop/msg", token, `{"payload":{}}`, 422, ""},
		"a payload that is a list":   {"POST", "/api/v1/app/shop/msg", token, `{"eventType":"a","payload":[]}`, 422, ""},
		"what is no JSON":            {"POST", "/api/v1/app/shop/msg", token, `{`, 422, ""},
		"filters that are empty":     {"POST", "/api/v1/app/shop/endpoint", token, `{"url":"http://x","filterTypes":[]}`, 422, ""},
		"a secret that is too short": {"POST", "/api/v1/app/shop/endpoint", token, `{"url":"http://x","secret":"whsec_AAAA"}`, 422, ""},
		"an endpoint without a URL":  {"POST", "/api/v1/app/shop/endpoint", token, `{}`, 422, ""},
		"an URL of another scheme":   {"POST", "/api/v1/app/shop/endpoint", token, `{"url":"ftp://x"}`, 422, ""},
		"an application's own uid":   {"POST", "/api/v1/app", token, `{"name":"x","uid":"app_x"}`, 422, ""},
		"no name":                    {"POST", "/api/v1/app", token, `{}`, 422, ""},
		"a page too long":            {"GET", "/api/v1/app/shop/msg?limit=251", token, "", 422, ""},
		"a body too long":            {"POST", "/api/v1/app/shop/msg", token, `{"x":"` + string(bytes.Repeat([]byte("x"), 2<<20)) + `"}`, 413, "payload_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, svixtest.Options{})
			request := httptest.NewRequest(test.method, test.path, bytes.NewReader([]byte(test.body)))
			request.Header.Set("Authorization", "Bearer "+test.token)
			request.Header.Set("Content-Type", "application/json")
			answer := httptest.NewRecorder()
			s.ServeHTTP(answer, request)
			require.Equal(t, test.status, answer.Code, answer.Body)
			var said struct {
				Code   string          `json:"code"`
				Detail json.RawMessage `json:"detail"`
			}
			require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &said))
			require.Equal(t, test.code, said.Code)
			require.NotEmpty(t, said.Detail)
		})
	}
}
