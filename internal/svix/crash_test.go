package svix_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/svix/svix-webhooks/go/models"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

// The server dies, or fails, at each of its steps, and so does our process: whatever happens, the event comes to the
// merchant, and once.
func TestWhereverItCrashesTheEventArrivesOnce(t *testing.T) {
	t.Parallel()
	const crash = 0
	for name, test := range map[string]struct {
		faults []svixtest.Fault
		// between happens after the first attempt, whose result is lost with our process where forgotten says so.
		between   func(w *world)
		forgotten bool

		first       svix.Class
		causes      []string // of all attempts
		messages    int      // at Svix
		replacement int
	}{
		"nothing happens": {
			first: svix.Accepted, causes: []string{"svix_accepted"}, messages: 1,
		},
		"the server crashes before it commits": {
			faults: []svixtest.Fault{{At: svixtest.BeforeCommit, Status: crash}},
			causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1,
		},
		"the database fails": {
			faults: []svixtest.Fault{{At: svixtest.BeforeCommit, Status: http.StatusInternalServerError}},
			causes: []string{"svix_error", "svix_accepted"}, messages: 1,
		},
		"the server crashes between commit and queue": {
			faults: []svixtest.Fault{{At: svixtest.AfterCommit, Status: crash}},
			causes: []string{"svix_unreachable", "svix_unconfirmed", "svix_accepted"}, messages: 2, replacement: 1,
		},
		"the queue fails": {
			faults: []svixtest.Fault{{At: svixtest.AfterCommit, Status: http.StatusInternalServerError}},
			causes: []string{"svix_error", "svix_unconfirmed", "svix_accepted"}, messages: 2, replacement: 1,
		},
		"the queue fails for the message and its first replacement": {
			faults: []svixtest.Fault{{At: svixtest.AfterCommit, Status: http.StatusInternalServerError}, {At: svixtest.AfterCommit, Status: crash}},
			causes: []string{"svix_error", "svix_unconfirmed", "svix_unreachable", "svix_unconfirmed", "svix_accepted"}, messages: 3, replacement: 2,
		},
		"the server crashes between queue and answer": {
			faults: []svixtest.Fault{{At: svixtest.AfterQueueing, Status: crash}},
			causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1,
		},
		"the answer cannot be kept": {
			faults: []svixtest.Fault{{At: svixtest.AfterQueueing, Status: http.StatusInternalServerError}},
			causes: []string{"svix_error", "svix_accepted"}, messages: 1,
		},
		"the server crashes between the kept answer and ours": {
			faults: []svixtest.Fault{{At: svixtest.AfterCaching, Status: crash}},
			causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1,
		},
		"we crash before the answer is written down": {
			forgotten: true,
			first:     svix.Accepted, causes: []string{"svix_accepted", "svix_accepted"}, messages: 1,
		},
		"we crash, and are back after twelve hours": {
			forgotten: true, between: func(w *world) { w.fake.Advance(12*time.Hour + time.Second) },
			first: svix.Accepted, causes: []string{"svix_accepted", "svix_accepted"}, messages: 1,
		},
		"we crash, and the server loses its cache": {
			forgotten: true, between: func(w *world) { w.fake.LoseCache() },
			first: svix.Accepted, causes: []string{"svix_accepted", "svix_accepted"}, messages: 1,
		},
		"we crash, and come back with another token": {
			forgotten: true, between: func(w *world) { w.fake.SetTokens("another") },
			first: svix.Accepted, causes: []string{"svix_accepted", "svix_accepted"}, messages: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{Retries: []time.Duration{}})
			w.register(t, models.EndpointIn{})
			w.fake.Inject(test.faults...)
			message := newMessage()

			var results []svix.Result
			now := token
			if test.forgotten {
				lost := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
				results = append(results, lost)
				w.settle(t)
				if test.between != nil {
					test.between(w)
				}
				if name == "we crash, and come back with another token" {
					now = "another"
				}
			}
			// Each attempt is another process's.
			results = append(results, w.settledBy(t, message, func() *svix.Client { return w.client(t, svix.Options{Token: now}) })...)
			w.settle(t)

			require.Equal(t, test.first, results[0].Class)
			var causes []string
			for _, each := range results {
				causes = append(causes, string(each.Cause))
				require.True(t, each.Sent, "%+v", each)
			}
			require.Equal(t, test.causes, causes)
			last := results[len(results)-1]
			require.Equal(t, svix.Accepted, last.Class)
			require.Equal(t, test.replacement, last.Replacement)

			got := w.merchant.all()
			require.Len(t, got, 1, "the merchant gets the event once")
			require.Equal(t, message.EventID.String(), got[0].eventID)
			require.Equal(t, string(message.Body), got[0].body, "byte for byte")
			require.Equal(t, got[0].svixID, last.MessageID, "the message that was accepted is the one that came")
			require.Len(t, w.fake.Messages(shop), test.messages)
		})
	}
}

// Any series of failures, one at each try, with or without a restart of either side in between.
func TestWhateverTheSeriesOfFailuresTheEventArrivesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{Retries: []time.Duration{}})
	w.register(t, models.EndpointIn{})
	ours := w.client(t, svix.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		w.fake.Heal()
		for range rapid.IntRange(0, 5).Draw(rt, "faults") { // each may take a replacement, and there are five
			w.fake.Inject(svixtest.Fault{
				At:     svixtest.Moment(rapid.IntRange(int(svixtest.BeforeCommit), int(svixtest.AfterCaching)).Draw(rt, "at")),
				Status: rapid.SampledFrom([]int{0, 500, 503}).Draw(rt, "status"),
			})
		}
		message := newMessage()
		attempts, accepted := 0, false
		for !accepted {
			result := ours.HandOver(t.Context(), shop, message, yes)
			attempts++
			require.Less(rt, attempts, 20)
			require.Contains(rt, []svix.Class{svix.Accepted, svix.Retryable}, result.Class, "%+v", result)
			// What was accepted may be forgotten, with our process.
			accepted = result.Class == svix.Accepted && !rapid.Bool().Draw(rt, "forgotten")
			w.settle(t)
			w.fake.Advance(result.RetryIn)
			if rapid.Bool().Draw(rt, "the cache is lost") {
				w.fake.LoseCache()
			}
		}
		require.Equal(rt, 1, w.merchant.times(message.EventID))
	})
}

// The kept answer names the message, so that no look is needed: one request.
func TestAKeptAnswerIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	message := newMessage()
	first := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
	again := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
	require.Equal(t, http.StatusAccepted, again.StatusCode)
	require.Equal(t, first.MessageID, again.MessageID)
	require.Equal(t, 1, w.fake.Requests(createMessage))
	w.settle(t)
}

// This is the one duplicate that the hand-over allows itself, and it is counted: Svix held the message for longer than the
// grace, and its acceptance was never answered.
func TestAQueueSlowerThanTheGraceCostsOneDuplicateThatIsCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	message := newMessage()
	w.fake.Hold()
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterQueueing})

	require.Equal(t, delivery.CauseSvixUnreachable, client.HandOver(t.Context(), shop, message, yes).Cause)
	unconfirmed := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, delivery.CauseSvixUnconfirmed, unconfirmed.Cause)
	require.False(t, unconfirmed.Counts(), "waiting uses up no attempt")
	w.fake.Advance(grace / 2)
	half := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, delivery.CauseSvixUnconfirmed, half.Cause)
	require.InDelta(t, (grace / 2).Seconds(), half.RetryIn.Seconds(), 5, "what is left of the grace")
	w.fake.Advance(half.RetryIn)
	replaced := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Accepted, replaced.Class)
	require.Equal(t, 1, replaced.Replacement)
	for range 3 { // and it stays at one
		require.Equal(t, replaced.MessageID, client.HandOver(t.Context(), shop, message, yes).MessageID)
	}
	w.fake.Release()
	w.settle(t)
	require.Equal(t, 2, w.merchant.times(message.EventID))
	require.Len(t, w.fake.Messages(shop), 2)
	require.Equal(t, message.EventID.String()+".r1", w.fake.Messages(shop)[1].EventID)
}

func TestAQueueFasterThanTheGraceCostsNoDuplicate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	message := newMessage()
	w.fake.Hold()
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterQueueing})
	client.HandOver(t.Context(), shop, message, yes)
	waiting := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, delivery.CauseSvixUnconfirmed, waiting.Cause)
	w.fake.Release()
	w.settle(t)
	w.fake.Advance(waiting.RetryIn)
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	require.Equal(t, 1, w.merchant.times(message.EventID))
	require.Len(t, w.fake.Messages(shop), 1)
}

// A failed first attempt is an attempt: the message was queued, and Svix goes on with it.
func TestAMessageWhoseFirstAttemptFailedIsNotReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{Retries: []time.Duration{time.Hour}})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	message := newMessage()
	w.merchant.answers(http.StatusInternalServerError)
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterQueueing})
	client.HandOver(t.Context(), shop, message, yes)
	require.Eventually(t, func() bool {
		messages := w.fake.Messages(shop)
		return len(messages) == 1 && len(messages[0].Attempts) == 1
	}, 5*time.Second, time.Millisecond)
	w.fake.Advance(24 * time.Hour)
	result := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Accepted, result.Class)
	require.Equal(t, 0, result.Replacement)
	require.Len(t, w.fake.Messages(shop), 1)
}

// What an orphan's endpoints are decides whether anything is missing.
func TestAnOrphanIsReplacedOnlyWhereSomebodyWantsIt(t *testing.T) {
	t.Parallel()
	disabled, id := true, "the-type"
	for name, test := range map[string]struct {
		endpoints []models.EndpointIn
		later     []models.EndpointIn
		replaced  bool
	}{
		"there is no endpoint":                    {},
		"the endpoint is disabled":                {endpoints: []models.EndpointIn{{Disabled: &disabled}}},
		"the endpoint takes another type":         {endpoints: []models.EndpointIn{{FilterTypes: []string{"payment.failed"}}}},
		"the endpoint takes channels only":        {endpoints: []models.EndpointIn{{Channels: []string{"vip"}}}},
		"the endpoint came later":                 {later: []models.EndpointIn{{}}},
		"the endpoint takes the type":             {endpoints: []models.EndpointIn{{FilterTypes: []string{"payment.failed", "payment.succeeded"}, Uid: &id}}, replaced: true},
		"the second endpoint takes it":            {endpoints: []models.EndpointIn{{Disabled: &disabled}, {}}, replaced: true},
		"it is behind a whole page of disabled":   {endpoints: append(many(250, models.EndpointIn{Disabled: &disabled}), models.EndpointIn{}), replaced: true},
		"a whole page is disabled, and then none": {endpoints: many(250, models.EndpointIn{Disabled: &disabled})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			for _, each := range test.endpoints {
				w.register(t, each)
			}
			client := w.client(t, svix.Options{})
			w.fake.Inject(svixtest.Fault{At: svixtest.AfterCommit})
			message := newMessage()
			require.Equal(t, delivery.CauseSvixUnreachable, client.HandOver(t.Context(), shop, message, yes).Cause)
			w.fake.Advance(grace + time.Second)
			for _, each := range test.later {
				w.register(t, each)
			}
			result := client.HandOver(t.Context(), shop, message, yes)
			require.Equal(t, svix.Accepted, result.Class)
			require.Equal(t, test.replaced, result.Replacement == 1)
			w.settle(t)
			require.Equal(t, test.replaced, w.merchant.times(message.EventID) == 1)
		})
	}
}

func many(n int, endpoint models.EndpointIn) []models.EndpointIn {
	out := make([]models.EndpointIn, n)
	for i := range out {
		out[i] = endpoint
	}
	return out
}

// Svix that loses every message is not asked for ever more of them.
func TestReplacementsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	message := newMessage()
	for range 6 {
		w.fake.Inject(svixtest.Fault{At: svixtest.AfterCommit, Status: http.StatusInternalServerError})
		require.Equal(t, delivery.CauseSvixServerError, client.HandOver(t.Context(), shop, message, yes).Cause)
		w.fake.Advance(grace + time.Second)
	}
	result := client.HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Retryable, result.Class)
	require.True(t, result.Counts())
	require.Len(t, w.fake.Messages(shop), 6)
}

func TestTheIDOfAnotherEventIsToldFromOurOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	message := newMessage()
	_, err := w.admin.Message.Create(t.Context(), shop, models.MessageIn{
		EventType: "something.else", EventId: new(message.EventID.String()), Payload: map[string]any{"event_id": "x"},
	}, nil)
	require.NoError(t, err)
	result := w.client(t, svix.Options{}).HandOver(t.Context(), shop, message, yes)
	require.Equal(t, svix.Terminal, result.Class)
	require.Equal(t, delivery.CauseSvixConflict, result.Cause)
	w.settle(t)
}

// A replay is to be sent again, so it is another message; and of its own it is one.
func TestAReplayIsAMessageOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	live := newMessage()
	replay := live
	replay.Generation = 7
	for range 2 {
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, live, yes).Class)
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, replay, yes).Class)
	}
	w.settle(t)
	require.Equal(t, 2, w.merchant.times(live.EventID))
}

// Each of the reads that look into a 409 can fail. Nothing is concluded then, nothing is created, and the next attempt looks
// again.
func TestALookIntoAConflictThatFailsConcludesNothing(t *testing.T) {
	t.Parallel()
	notFound := `{"code":"not_found","detail":"Entity not found"}`
	for _, read := range []string{"/msg/{id}", "/msg/{id}/endpoint", "/endpoint"} {
		for name, test := range map[string]struct {
			answer http.HandlerFunc
			class  svix.Class
		}{
			"500":                    {say(500, "{}"), svix.Retryable},
			"404":                    {say(404, notFound), svix.Retryable},
			"404 of an intermediary": {say(404, "<html>"), svix.Unauthorized},
			"401":                    {say(401, "{}"), svix.Unauthorized},
			"429":                    {say(429, "{}", "Retry-After", "3"), svix.Retryable},
			"a page":                 {say(200, "<html>"), svix.Retryable},
			"a broken connection":    {breakOff(200), svix.Retryable},
			"null":                   {say(200, "null"), svix.Retryable},
			"another object":         {say(200, `{"done":true,"eventId":"other","id":"msg_2"}`), svix.Retryable},
			"nothing":                {say(204, ""), svix.Retryable},
		} {
			t.Run(read+" answers "+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, svixtest.Options{})
				w.register(t, models.EndpointIn{})
				client := w.client(t, svix.Options{})
				message := newMessage()
				w.fake.Inject(svixtest.Fault{At: svixtest.AfterCommit})
				client.HandOver(t.Context(), shop, message, yes)
				w.fake.Advance(grace + time.Second)
				path := "/api/v1/app/" + shop + strings.ReplaceAll(read, "{id}", message.EventID.String())
				w.fake.Intercept(func(out http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodGet || r.URL.Path != path {
						return false
					}
					test.answer(out, r)
					return true
				})
				result := client.HandOver(t.Context(), shop, message, yes)
				require.Equal(t, test.class, result.Class, "%+v", result)
				require.Len(t, w.fake.Messages(shop), 1, "nothing is created")
				w.fake.Intercept(nil)
				result = client.HandOver(t.Context(), shop, message, yes)
				require.Equal(t, svix.Accepted, result.Class)
				w.settle(t)
				require.Equal(t, 1, w.merchant.times(message.EventID))
			})
		}
	}
}
