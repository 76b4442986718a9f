package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
)

// shelf stands in for the stack between the API and the merchants: it keeps a payment's events until all are there, and
// sends them then, in the order that it is told to.
type shelf struct {
	*retrier
	order func(merchant string, events []uuid.UUID) []uuid.UUID

	mu   sync.Mutex
	kept map[string][]uuid.UUID
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/info" {
		s.retrier.ServeHTTP(w, r)
		return
	}
	var in struct {
		MerchantID string `json:"merchant_id"`
		Status     string `json:"status"`
		Version    int64  `json:"if_version"`
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	id, status := strings.TrimPrefix(r.URL.Path, "/payments/"), http.StatusOK
	switch {
	case err != nil:
	case r.Method == http.MethodPatch:
		err = s.pool.QueryRow(r.Context(), "update payments set status = $2 where id = $1 and version = $3 returning id", id, in.Status, in.Version).Scan(&id)
	default:
		status = http.StatusCreated
		err = s.pool.QueryRow(r.Context(), "insert into payments (merchant_id, amount, currency, status) values ($1, 1000, 'USD', $2) returning id", in.MerchantID, in.Status).Scan(&id)
	}
	var event uuid.UUID
	var merchant, document string
	if err == nil {
		err = s.pool.QueryRow(r.Context(), "select id, merchant_id, payload::text from domain_events where object_id = $1 order by object_version desc limit 1", id).
			Scan((*[16]byte)(&event), &merchant, &document)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	s.kept[id] = append(s.kept[id], event)
	all := s.kept[id]
	s.mu.Unlock()
	if len(all) == 1+len(changes()) {
		s.sends.Go(func() {
			for _, event := range s.order(merchant, all) {
				s.deliver(merchant, event)
			}
		})
	}
	w.WriteHeader(status)
	io.WriteString(w, document)
}

func runOrderedOn(t *testing.T, order func(merchant string, events []uuid.UUID) []uuid.UUID) (Ordered, string) {
	t.Helper()
	s := &shelf{retrier: &retrier{}, order: order, kept: map[string][]uuid.UUID{}}
	s.instead = func(to delivery.Endpoint, event uuid.UUID) {
		for number := 1; ; number++ {
			if cause, _ := s.attempt(context.WithoutCancel(t.Context()), to, event, number); cause == delivery.CauseOK {
				return
			}
		}
	}
	o := onFake(t, s.retrier)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	var out bytes.Buffer
	o.API, o.Payments, o.Out = strings.TrimPrefix(server.URL, "http://"), 3, &out
	o.patience = time.Second
	scenario, err := FindScenario("ordered")
	require.NoError(t, err)
	outcome, err := scenario.Run(t.Context(), o)
	require.NoError(t, err)
	outcome.Print(&out)
	result, is := outcome.(Ordered)
	require.True(t, is)
	behaviours, left := leftBehind(t, o)
	require.Empty(t, behaviours)
	if result.Lost+result.Parallel.Lost == 0 {
		require.Empty(t, left)
	}
	return result, out.String()
}

// swapped has the third and the fourth the other way round.
func swapped(events []uuid.UUID) []uuid.UUID {
	events[2], events[3] = events[3], events[2]
	return events
}

func TestViolationsAreCountedForBothMerchantsAndFailOnlyTheOneWhoAskedForAnOrder(t *testing.T) {
	t.Parallel()
	r, out := runOrderedOn(t, func(merchant string, events []uuid.UUID) []uuid.UUID {
		if strings.HasPrefix(merchant, "by-parallel") {
			return swapped(events)
		}
		return events
	})
	require.NoError(t, r.Err())
	require.Equal(t, []int{21, 21, 0, 0, 0}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates, r.OrderViolations})
	require.Equal(t, []int{21, 21, 0, 0, 3}, []int{r.Parallel.Created, r.Parallel.Delivered, r.Parallel.Lost, r.Parallel.Duplicates, r.Parallel.OrderViolations})
	require.Contains(t, out, "order violations")

	line, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(line), `{"scenario":"ordered","payments":3,"created":21,"delivered":21,"lost":0,"duplicates":0,"order_violations":0,`)
}

func TestAViolationWhereAnOrderWasAskedForFailsTheScenario(t *testing.T) {
	t.Parallel()
	r, _ := runOrderedOn(t, func(_ string, events []uuid.UUID) []uuid.UUID { return swapped(events) })
	require.EqualError(t, r.Err(), "3 webhooks were accepted before an earlier one of their payment")
}

func TestALossFailsTheOrderedScenario(t *testing.T) {
	t.Parallel()
	r, _ := runOrderedOn(t, func(_ string, events []uuid.UUID) []uuid.UUID { return events[1:] })
	require.EqualError(t, r.Err(), "6 of 42 webhooks did not arrive")
	require.Zero(t, r.OrderViolations, "what did not come is lost, and not late")
}

func TestOnlyTheFirstAcceptanceOfAnEventHasAPlaceInTheOrder(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	events := []load.Event{
		{ID: uuid.UUID{2}, ObjectID: "p", Committed: at(2)},
		{ID: uuid.UUID{1}, ObjectID: "p", Committed: at(1)},
		{ID: uuid.UUID{3}, ObjectID: "p", Committed: at(3)},
		{ID: uuid.UUID{4}, ObjectID: "q", Committed: at(4)},
	}
	acks := map[uuid.UUID]load.Ack{{1}: {Times: 2, First: at(11)}, {2}: {Times: 1, First: at(12)}, {3}: {Times: 1, First: at(13)}, {4}: {Times: 1, First: at(9)}}
	require.Zero(t, outOfOrder(events, acks))
	acks[uuid.UUID{1}] = load.Ack{Times: 1, First: at(14)}
	require.Equal(t, 2, outOfOrder(events, acks), "both that came before the first one")
}
