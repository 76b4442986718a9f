package intake

import "github.com/hookline/hookline/internal/event"

// Limits of a batch: larger ones gain nothing and take longer (measured at 16, 64 and 256 events).
const (
	maxBatchEvents = 64
	maxBatchBytes  = 1 << 20
)

// item is a decoded record that waits for a batch.
type item struct {
	ref    event.Ref
	record event.Record
	origin *partition
}

// size is about what the pointer takes in a batch.
func (i item) size() int {
	return 160 + len(i.ref.Type) + len(i.ref.ObjectType) + len(i.ref.ObjectID) + len(i.ref.MerchantID) + len(i.ref.Traceparent)
}

// queue holds what waits, and cuts batches that are fair across merchants: each gets one event in turn, so that one
// that floods fills only what the others leave.
type queue struct {
	byMerchant map[string]*lane
	ring       []*lane // lanes with something in them, in the order in which they are served
	length     int
}

type lane struct {
	merchant string
	items    []item
}

func newQueue() *queue { return &queue{byMerchant: map[string]*lane{}} }

func (q *queue) add(i item) {
	l := q.byMerchant[i.ref.MerchantID]
	if l == nil {
		l = &lane{merchant: i.ref.MerchantID}
		q.byMerchant[l.merchant] = l
		q.ring = append(q.ring, l)
	}
	l.items = append(l.items, i)
	q.length++
}

// cut takes the next batch out of the queue; it is empty only when the queue is.
func (q *queue) cut() []item {
	batch := make([]item, 0, min(q.length, maxBatchEvents))
	bytes := 0
	for len(q.ring) > 0 && len(batch) < maxBatchEvents {
		l := q.ring[0]
		next := l.items[0]
		if len(batch) > 0 && bytes+next.size() > maxBatchBytes {
			break
		}
		bytes += next.size()
		batch = append(batch, next)
		l.items[0] = item{} // lets go of the record
		l.items = l.items[1:]
		q.length--
		q.ring = q.ring[1:]
		if len(l.items) == 0 {
			delete(q.byMerchant, l.merchant)
			continue
		}
		q.ring = append(q.ring, l)
	}
	return batch
}

// drop removes what came from the partition, and returns how much that was.
func (q *queue) drop(p *partition) int {
	kept := newQueue()
	for _, l := range q.ring {
		for _, i := range l.items {
			if i.origin != p {
				kept.add(i)
			}
		}
	}
	dropped := q.length - kept.length
	*q = *kept
	return dropped
}
