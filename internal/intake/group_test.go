package intake_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/intake"
	"github.com/hookline/hookline/internal/kafka"
)

const (
	topic      = "webhook-events"
	group      = "webhook-dispatcher"
	partitions = 6
)

// broker is a cluster with the topic in it.
type broker struct {
	*kfake.Cluster
	client *kgo.Client
}

func newBroker(t *testing.T) broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return broker{cluster, client}
}

// write returns the ids of n new events.
func (b broker) write(t *testing.T, n int) []uuid.UUID {
	t.Helper()
	ids := make([]uuid.UUID, n)
	records := make([]*kgo.Record, n)
	for i := range n {
		ids[i] = uuid.New()
		merchant := fmt.Sprintf("merchant-%d", i%17)
		records[i] = &kgo.Record{Key: []byte(merchant), Value: fmt.Appendf(nil,
			`{"id":"%s","txid":7,"event_type":"payment.succeeded","object_type":"payment","object_id":"p%d","object_version":1,"merchant_id":"%s"}`, ids[i], i, merchant)}
	}
	require.NoError(t, b.client.ProduceSync(t.Context(), records...).FirstErr())
	return ids
}

// writeUntil goes on writing until a member that has joined has partitions of its own, and reads them.
func (b broker) writeUntil(t *testing.T, reads func() bool) []uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	for began := time.Now(); !reads(); {
		require.Less(t, time.Since(began), 30*time.Second, "it reads nothing")
		ids = append(ids, b.write(t, 20)...)
	}
	return ids
}

// uncommitted is how many records the group would read again.
func (b broker) uncommitted(t *testing.T) int64 {
	t.Helper()
	admin := kadm.NewClient(b.client)
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	require.NoError(t, err)
	commits, err := admin.FetchOffsets(t.Context(), group)
	require.NoError(t, err)
	left := int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		left += end.Offset
		if commit, found := commits.Lookup(topic, end.Partition); found {
			left -= commit.At
		}
	})
	return left
}

// delivered counts what the members of a group handed over.
type delivered struct {
	mu    sync.Mutex
	times map[uuid.UUID]int
}

func newDelivered() *delivered { return &delivered{times: map[uuid.UUID]int{}} }

func (d *delivered) add(batch []event.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ref := range batch {
		d.times[ref.ID]++
	}
}

func (d *delivered) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.times)
}

func (d *delivered) missing(ids []uuid.UUID) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, id := range ids {
		if d.times[id] == 0 {
			n++
		}
	}
	return n
}

// member is one worker's intake.
type member struct {
	delivered *delivered
	batches   atomic.Int32
	frozen    chan struct{} // closed: its calls do not end
	thawed    chan struct{} // closed: but now they do
	stop      context.CancelFunc
	ended     chan struct{}
	err       error
}

func (m *member) Dispatch(ctx context.Context, _ string, batch []event.Ref) error {
	m.batches.Add(1)
	select { // what an invocation takes
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-m.frozen:
		<-m.thawed
		return nil // as late as that, it was somebody else's
	default:
		m.delivered.add(batch)
		return nil
	}
}

func (*member) Bury(context.Context, delivery.DeadRecord) error {
	return errors.New("no record is dead")
}

func (b broker) join(t *testing.T, d *delivered) *member {
	t.Helper()
	m := &member{delivered: d, frozen: make(chan struct{}), thawed: make(chan struct{}), ended: make(chan struct{})}
	in := intake.New(m, m, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	consumer, err := kafka.NewConsumer(t.Context(), kafka.Config{Brokers: b.ListenAddrs(), Topic: topic}, group, in, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	m.stop = stop
	go func() { defer close(m.ended); m.err = in.Run(ctx, consumer) }()
	t.Cleanup(func() { stop(); <-m.ended })
	return m
}

func (m *member) leave(t *testing.T) {
	t.Helper()
	m.stop()
	<-m.ended
	require.NoError(t, m.err)
}

func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 10*time.Millisecond, message)
}

func TestAGroupSkipsNothingWhenMembersComeAndLeave(t *testing.T) {
	t.Parallel()
	b, d := newBroker(t), newDelivered()
	ids := b.write(t, 2000) // before the group is there: it begins at the topic's start
	first := b.join(t, d)
	eventually(t, func() bool { return d.count() > 100 }, "the first member reads")
	second := b.join(t, d)
	ids = append(ids, b.writeUntil(t, func() bool { return second.batches.Load() >= 3 })...)
	ids = append(ids, b.write(t, 2000)...)
	first.leave(t) // with batches under way
	eventually(t, func() bool { return d.missing(ids) == 0 }, "every record is handed over")
	second.leave(t)
	require.Zero(t, b.uncommitted(t), "and every offset committed")
}

func TestARestartResumesWhereTheGroupStopped(t *testing.T) {
	t.Parallel()
	b, before := newBroker(t), newDelivered()
	old := b.write(t, 500)
	m := b.join(t, before)
	eventually(t, func() bool { return before.missing(old) == 0 }, "all is handed over")
	m.leave(t)
	require.Zero(t, b.uncommitted(t))

	fresh, after := b.write(t, 100), newDelivered()
	m = b.join(t, after)
	eventually(t, func() bool { return after.missing(fresh) == 0 }, "what came meanwhile is read")
	m.leave(t)
	require.Equal(t, len(fresh), after.count(), "and nothing is read again")
}

// A member is killed while it has batches under way: it commits nothing more and says nothing, and the group notices
// when its session has run out. Then it turns out that it was only frozen.
func TestAKilledMembersRecordsAreReadByTheOthers(t *testing.T) {
	t.Parallel()
	b, d := newBroker(t), newDelivered()

	// The broker hears nothing of the member whose heartbeats came first, once that is cut off.
	var (
		mu     sync.Mutex
		doomed string
		cut    bool
	)
	silenced := func(memberID string) bool {
		mu.Lock()
		defer mu.Unlock()
		if doomed == "" {
			doomed = memberID
		}
		return cut && memberID == doomed
	}
	b.ControlKey(int16(kmsg.Heartbeat), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		heartbeat := request.(*kmsg.HeartbeatRequest)
		return heartbeat.ResponseKind(), nil, silenced(heartbeat.MemberID)
	})
	b.ControlKey(int16(kmsg.OffsetCommit), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		commit := request.(*kmsg.OffsetCommitRequest)
		if !silenced(commit.MemberID) {
			return nil, nil, false
		}
		response := commit.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, requested := range commit.Topics {
			answer := kmsg.NewOffsetCommitResponseTopic()
			answer.Topic, answer.TopicID = requested.Topic, requested.TopicID
			for _, p := range requested.Partitions {
				partition := kmsg.NewOffsetCommitResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.CoordinatorNotAvailable.Code
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})

	ids := b.write(t, 1000)
	frozen := b.join(t, d)
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return doomed != "" && d.count() > 0 }, "the first member reads, and its heart beats")
	other := b.join(t, d)
	eventually(t, func() bool { return d.missing(ids) == 0 }, "all is read")
	ids = append(ids, b.writeUntil(t, func() bool { return other.batches.Load() > 0 })...)

	close(frozen.frozen)
	ids = append(ids, b.write(t, 1000)...)
	mu.Lock()
	cut = true
	mu.Unlock()
	eventually(t, func() bool { return d.missing(ids) == 0 }, "the other one reads what the killed one had")

	mu.Lock()
	cut = false
	mu.Unlock()
	close(frozen.thawed)
	frozen.stop()
	<-frozen.ended // whether it could say goodbye or not
	other.leave(t)
	require.Zero(t, b.uncommitted(t), "the member that is gone committed nothing that the other one had not done")
}

func TestLeavingDoesNotWaitForABrokerThatIsGone(t *testing.T) {
	t.Parallel()
	b, d := newBroker(t), newDelivered()
	ids := b.write(t, 100)
	in := intake.New(nil, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	consumer, err := kafka.NewConsumer(t.Context(), kafka.Config{Brokers: b.ListenAddrs(), Topic: topic}, group, in, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var once sync.Once
	for d.missing(ids) == len(ids) {
		consumer.Poll(t.Context(), 10, func(records []event.Record) {
			for _, r := range records {
				consumer.Mark(r)
			}
			once.Do(func() { d.add([]event.Ref{{ID: ids[0]}}) })
		})
	}
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.ErrorContains(t, consumer.Close(ctx), "committing offsets")
	require.Less(t, time.Since(began), 5*time.Second)
}
