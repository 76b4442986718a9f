package restate

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

type subscriptions struct {
	Subscriptions []struct {
		ID, Source, Sink string
		Options          map[string]string
	}
}

func TestTheSubscriptionIsMadeOnceAndHandsEachRecordToProcess(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	const topic, group = "events-by-subscription", "dispatcher"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	producer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	write := func(key, value []byte) int64 {
		record, err := producer.ProduceSync(t.Context(), &kgo.Record{Key: key, Value: value}).First()
		require.NoError(t, err)
		return record.Offset
	}

	first, second := ref(), ref()
	processed := make(chan []event.Ref, 4)
	for _, each := range []event.Ref{first, second} {
		w.scripts.onProcess(each.ID, func(_ context.Context, _ string, refs []event.Ref) (dispatch.Result, error) {
			processed <- refs
			return dispatch.Result{}, nil
		})
	}
	buried := make(chan delivery.DeadRecord, 4)
	down := true
	w.scripts.onBury(topic, func(record delivery.DeadRecord) error {
		if down { // one record at a time, and a run after the other
			down = false
			return fmt.Errorf("the ledger cannot be reached")
		}
		buried <- record
		return nil
	})
	write([]byte("joes-tshirt-shop"), recordOfEvent(first)) // before the group's first commit

	registrar := w.registrar(Subscription{Brokers: cluster.ListenAddrs(), Topic: topic, Group: group})
	require.NoError(t, registrar.ensure(t.Context()))
	mine := func() subscriptions {
		var known subscriptions
		ask(t, http.MethodGet, w.admin+"/subscriptions?"+url.Values{"source": {"kafka://" + kafkaCluster + "/" + topic}}.Encode(), nil, &known)
		return known
	}
	known := mine()
	require.Len(t, known.Subscriptions, 1)
	require.Equal(t, group, known.Subscriptions[0].Options["group.id"])
	require.Equal(t, "earliest", known.Subscriptions[0].Options["auto.offset.reset"])
	t.Cleanup(func() {
		require.Less(t, ask(t, http.MethodDelete, w.admin+"/subscriptions/"+known.Subscriptions[0].ID, nil, nil), 300)
		require.Less(t, ask(t, http.MethodDelete, w.admin+"/kafka-clusters/"+kafkaCluster+"?force=true", nil, nil), 300)
	})
	require.NoError(t, registrar.ensure(t.Context()))
	require.Equal(t, known, mine(), "a second check subscribes nothing")

	require.Equal(t, []event.Ref{first}, receive(t, processed))
	poison := []byte("\x00\xff no event")
	key := []byte{0xfb, 0xff, 0x00, 'k'} // what base64 writes differently for URLs
	offset := write(key, poison)
	record := receive(t, buried)
	require.Contains(t, record.Detail, "not a record of domain_events")
	record.Detail = ""
	require.Equal(t, delivery.DeadRecord{Topic: topic, Partition: 0, Offset: offset, Reason: delivery.ReasonUndecodable, Key: key, Value: poison}, record)

	write(nil, recordOfEvent(second))
	require.Equal(t, []event.Ref{second}, receive(t, processed), "the subscription goes on")

	write(nil, nil)
	tombstone := receive(t, buried)
	require.Equal(t, offset+2, tombstone.Offset)
	require.Empty(t, tombstone.Value)
	require.Empty(t, tombstone.Key)
}

func recordOfEvent(r event.Ref) []byte {
	return fmt.Appendf(nil, `{"id":"%s","sequence":7,"txid":%d,"event_type":"%s","object_type":"%s","object_id":"%s","object_version":%d,"merchant_id":"%s","payload":{"amount":1000},"traceparent":"%s"}`,
		r.ID, r.TxID, r.Type, r.ObjectType, r.ObjectID, r.ObjectVersion, r.MerchantID, r.Traceparent)
}

func TestSentAttemptsArrive(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	list := delivery.AttemptList{EndpointID: uuid.New(), Number: 4, Tickets: []delivery.Ticket{{EventID: uuid.New(), Generation: 9, Epoch: 7}}}
	arrived := make(chan delivery.AttemptList, 1)
	w.scripts.onAttempt(list.EndpointID, func(_ context.Context, _ string, got delivery.AttemptList) (dispatch.Result, error) {
		arrived <- got
		return dispatch.Result{}, nil
	})
	require.NoError(t, w.client.SendAttempt(t.Context(), list))
	require.Equal(t, list, receive(t, arrived))
}
