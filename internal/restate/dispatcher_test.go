package restate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

func TestDispatchReturnsWhenTheInvocationHasEnded(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	batch := []event.Ref{ref(), ref(), ref()}
	began, end := make(chan []event.Ref, 1), make(chan struct{})
	var owned atomic.Value
	w.scripts.onProcess(batch[0].ID, func(_ context.Context, owner string, refs []event.Ref) (dispatch.Result, error) {
		owned.Store(owner)
		began <- refs
		<-end
		return dispatch.Result{}, nil
	})
	returned := make(chan error, 1)
	go func() { returned <- w.client.Dispatch(t.Context(), uuid.NewString(), batch) }()
	require.Equal(t, batch, receive(t, began))
	select {
	case err := <-returned:
		require.Fail(t, "it returned before the end", "%v", err)
	default:
	}
	close(end)
	require.NoError(t, receive(t, returned))
	require.True(t, strings.HasPrefix(owned.Load().(string), "inv_"), "the owner is the invocation: %v", owned.Load())
}

func TestOneKeyRunsOnce(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	one := ref()
	var runs atomic.Int32
	w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
		runs.Add(1)
		return dispatch.Result{}, nil
	})
	key := uuid.NewString()
	var calls sync.WaitGroup
	for range 3 { // beside each other
		calls.Go(func() {
			if err := w.client.Dispatch(t.Context(), key, []event.Ref{one}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	require.NoError(t, w.client.Dispatch(t.Context(), key, []event.Ref{one}))
	require.EqualValues(t, 1, runs.Load())
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
	require.EqualValues(t, 2, runs.Load())
}

func TestAnInvocationThatAnOperatorEndsIsAConflict(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	for _, verb := range []string{"kill", "cancel"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			one := ref()
			owners, release := make(chan string, 2), make(chan struct{})
			defer close(release)
			var second atomic.Bool
			w.scripts.onProcess(one.ID, func(_ context.Context, owner string, _ []event.Ref) (dispatch.Result, error) {
				owners <- owner
				if !second.Load() {
					<-release
				}
				return dispatch.Result{}, nil
			})
			key := uuid.NewString()
			returned := make(chan error, 1)
			go func() { returned <- w.client.Dispatch(t.Context(), key, []event.Ref{one}) }()
			owner := receive(t, owners)
			require.Less(t, ask(t, http.MethodPatch, w.admin+"/invocations/"+owner+"/"+verb, nil, nil), 300)
			if verb == "cancel" {
				release <- struct{}{} // a cancelled invocation ends its step first
			}
			require.Equal(t, fault.Conflict, fault.ClassOf(receive(t, returned)))

			second.Store(true)
			require.Equal(t, fault.Conflict, fault.ClassOf(w.client.Dispatch(t.Context(), key, []event.Ref{one})), "its key has that answer for ever")
			require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
			require.NotEqual(t, owner, receive(t, owners))
		})
	}
}

func TestWhatIsNotTheInvocationsOwnFailureIsUnavailable(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, test := range map[string]struct {
		url    string
		handle http.HandlerFunc
	}{
		"refused": {url: gone.URL},
		"not registered": {handle: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Restate-Error-Source", "ingress")
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte(`{"code":404,"message":"service 'WebhookDispatcher' not found"}`))
		}},
		"a proxy in between": {handle: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }},
		"cut off":            {handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := test.url
			if test.handle != nil {
				server := httptest.NewServer(test.handle)
				defer server.Close()
				url = server.URL
			}
			client := NewClient(url, 1)
			defer client.Close()
			err := client.Dispatch(t.Context(), "key", []event.Ref{ref()})
			require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%v", err)
		})
	}
	t.Run("given up by the caller", func(t *testing.T) {
		t.Parallel()
		w := theWorker(t)
		one := ref()
		ctx, giveUp := context.WithCancel(t.Context())
		var entered atomic.Bool
		w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
			if entered.CompareAndSwap(false, true) {
				giveUp()
				return dispatch.Result{}, errors.New("once more")
			}
			return dispatch.Result{}, nil
		})
		key := uuid.NewString()
		require.Equal(t, fault.Unavailable, fault.ClassOf(w.client.Dispatch(ctx, key, []event.Ref{one})))
		require.NoError(t, w.client.Dispatch(t.Context(), key, []event.Ref{one}), "the invocation went on, and tells how it ended")
	})
}

func TestInputThatIsNoBatchEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ingressOf(t)+"/WebhookDispatcher/Process", bytes.NewReader([]byte("no batch")))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.GreaterOrEqual(t, response.StatusCode, 400)
	require.Contains(t, string(answer), "the input is not a batch")
	require.NotNil(t, w)
}

func line(id, endpoint uuid.UUID) dispatch.Line {
	return dispatch.Line{
		EventID: id, EndpointID: endpoint, Epoch: 3, Number: 1, State: delivery.Retrying, Cause: delivery.CauseStatus,
		StatusCode: 503, LatencyMS: 12, Next: 2, RetryInMS: 300, Attempted: true,
	}
}

func TestFollowUpsAreDelayedAttempts(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	first, second := ref(), ref()
	slow, fast := uuid.New(), uuid.New()
	type arrival struct {
		list  delivery.AttemptList
		owner string
		at    time.Time
	}
	arrivals := map[uuid.UUID]chan arrival{slow: make(chan arrival, 1), fast: make(chan arrival, 1)}
	for endpoint, arrived := range arrivals {
		w.scripts.onAttempt(endpoint, func(_ context.Context, owner string, list delivery.AttemptList) (dispatch.Result, error) {
			arrived <- arrival{list, owner, time.Now()}
			if list.Number == 3 {
				return dispatch.Result{}, nil
			}
			again := line(first.ID, endpoint)
			again.Number, again.Next, again.Epoch, again.RetryInMS = 2, 3, 4, 10
			return dispatch.Result{Deliveries: []dispatch.Line{again}}, nil
		})
	}
	var processed time.Time
	w.scripts.onProcess(first.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
		processed = time.Now()
		late, done := line(first.ID, slow), line(first.ID, fast)
		late.RetryInMS = 1000
		done.State = delivery.Succeeded
		return dispatch.Result{Deliveries: []dispatch.Line{line(first.ID, fast), late, line(second.ID, fast), done}}, nil
	})
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{first, second}))

	soon := receive(t, arrivals[fast])
	require.GreaterOrEqual(t, soon.at.Sub(processed), 290*time.Millisecond)
	require.Equal(t, delivery.AttemptList{
		EndpointID: fast, Number: 2, Tickets: []delivery.Ticket{{EventID: first.ID, Epoch: 3}, {EventID: second.ID, Epoch: 3}},
	}, soon.list)
	again := receive(t, arrivals[fast])
	require.Equal(t, delivery.AttemptList{EndpointID: fast, Number: 3, Tickets: []delivery.Ticket{{EventID: first.ID, Epoch: 4}}}, again.list)
	require.NotEqual(t, soon.owner, again.owner)
	require.GreaterOrEqual(t, receive(t, arrivals[slow]).at.Sub(processed), 990*time.Millisecond)
}

func TestWhatTheLedgerDidNotTakeIsRecordedBeforeAnythingFollows(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	one := ref()
	endpoint := uuid.New()
	owned := line(one.ID, endpoint)
	owned.Unrecorded, owned.BodySHA256, owned.RetryInMS = true, bytes.Repeat([]byte{7}, 32), 0
	var (
		mu     sync.Mutex
		steps  []string
		owners = map[string]bool{}
	)
	note := func(step, owner string) int {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, step)
		if owner != "" {
			owners[owner] = true
		}
		return len(steps)
	}
	w.scripts.onProcess(one.ID, func(_ context.Context, owner string, _ []event.Ref) (dispatch.Result, error) {
		note("deliver", owner)
		return dispatch.Result{Deliveries: []dispatch.Line{owned}}, nil
	})
	w.scripts.onRecord(one.ID, func(_ context.Context, owner string, result dispatch.Result) error {
		if len(result.Deliveries) != 1 || !bytes.Equal(result.Deliveries[0].BodySHA256, owned.BodySHA256) {
			t.Errorf("record got %+v", result)
		}
		if note("record", owner) < 4 {
			return errors.New("the ledger is still down")
		}
		return nil
	})
	attempted := make(chan struct{})
	w.scripts.onAttempt(endpoint, func(context.Context, string, delivery.AttemptList) (dispatch.Result, error) {
		note("attempt", "")
		close(attempted)
		return dispatch.Result{}, nil
	})
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
	receive(t, attempted)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"deliver", "record", "record", "record", "attempt"}, steps, "the journaled step is not run again")
	require.Len(t, owners, 1)
}

func TestAStepThatFailsOrPanicsIsRunAgain(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	for name, fail := range map[string]func() error{
		"an error": func() error { return errors.New("the ledger cannot be reached") },
		"a panic":  func() error { panic("a defect") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := ref()
			var runs atomic.Int32
			owners := make(chan string, 3)
			w.scripts.onProcess(one.ID, func(_ context.Context, owner string, _ []event.Ref) (dispatch.Result, error) {
				owners <- owner
				if runs.Add(1) < 3 {
					return dispatch.Result{}, fail()
				}
				return dispatch.Result{}, nil
			})
			require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one}))
			require.EqualValues(t, 3, runs.Load())
			first := receive(t, owners)
			require.Equal(t, first, receive(t, owners), "a second execution has the first one's name")
		})
	}
}
