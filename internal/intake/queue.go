package intake

import (
	"slices"

	"github.com/hookline/hookline/internal/event"
)

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

// class says in whose company an event travels.
type class int

const (
	// quiet merchants have little open, or no more than everybody else: their events go in batches of their own, which do
	// not wait for those of busy ones.
	quiet class = iota
	// busy merchants have a backlog that is many times as large as what the others have open. The latest event of it waits
	// for those before it however it travels.
	busy
	classes
)

// When a merchant is busy. Where all have much to do nobody is: two kinds of batches would only be smaller ones.
const (
	// busyEvents is how much a merchant may have open and be quiet, whatever the others have: a quarter of a batch.
	busyEvents = maxBatchEvents / 4
	// busyFrom is how many times as much as the others have open, in the mean, makes a merchant busy, and busyUntil how many
	// times as much lets it stay so.
	busyFrom, busyUntil = 4, 2
	// floodFrom is how much open makes a merchant busy as soon as one with no more than busyEvents is there, however many
	// others flood, too; and floodUntil is how much lets it stay so.
	floodFrom, floodUntil = maxBatchEvents, maxBatchEvents / 2
)

// queue holds what waits, and cuts batches that are fair across merchants: each gets one event in turn, so that one
// that floods fills only what the others leave, and only batches that those do not wait for.
type queue struct {
	lanes   map[string]*lane // by merchant, of those with something open
	rings   [classes][]*lane // lanes with something that waits, in the order in which they are served
	waiting [classes]int     // events
	open    int              // of all lanes

	// Counted when classes are told apart: lanes with no more than busyEvents open, and those that are quiet.
	small, quiet int
}

type lane struct {
	merchant string
	class    class
	items    []item // what waits
	open     int    // what waits, and what was cut and has not ended
}

func newQueue() *queue { return &queue{lanes: map[string]*lane{}} }

// length is how many events wait.
func (q *queue) length() int { return q.waiting[quiet] + q.waiting[busy] }

// add returns the class that the event's merchant was of when classes were last told apart.
func (q *queue) add(i item) class {
	l := q.lanes[i.ref.MerchantID]
	if l == nil {
		l = &lane{merchant: i.ref.MerchantID}
		q.lanes[l.merchant] = l
	}
	if len(l.items) == 0 {
		q.rings[l.class] = append(q.rings[l.class], l)
	}
	l.items = append(l.items, i)
	l.open++
	q.open++
	q.waiting[l.class]++
	return l.class
}

// classify tells the classes apart. It is called when events have been added, once for many.
func (q *queue) classify() {
	q.small, q.quiet = 0, 0
	for _, l := range q.lanes {
		if l.open <= busyEvents {
			q.small++
		}
		if l.class == quiet {
			q.quiet++
		}
	}
	var moved [classes][]*lane
	for c := range classes {
		moving := func(l *lane) bool { return q.classOf(l) != c }
		if !slices.ContainsFunc(q.rings[c], moving) {
			continue
		}
		q.rings[c] = slices.DeleteFunc(q.rings[c], func(l *lane) bool {
			if !moving(l) {
				return false
			}
			moved[c] = append(moved[c], l)
			return true
		})
	}
	for c, lanes := range moved {
		for _, l := range lanes {
			l.class = q.classOf(l)
			q.rings[l.class] = append(q.rings[l.class], l)
			q.waiting[c] -= len(l.items)
			q.waiting[l.class] += len(l.items)
		}
	}
}

// classOf compares a lane with the others. Among several that flood none is far above the mean: what counts then is that
// somebody small is there, and not how many flood. Where all are busy they stay so: it costs nothing while they are among
// themselves, and the next quiet event finds its way clear.
func (q *queue) classOf(l *lane) class {
	times, flood, company := busyFrom, floodFrom, q.small > 0
	if l.class == busy {
		times, flood, company = busyUntil, floodUntil, q.small > 0 || q.quiet == 0
	}
	switch {
	case l.open > flood && company:
		return busy
	case l.open > busyEvents && l.open*(len(q.lanes)-1) > times*(q.open-l.open):
		return busy
	default:
		return quiet
	}
}

// underWay is how many batches what was cut of the busy lanes fills.
func (q *queue) underWay() int {
	events := 0
	for _, l := range q.rings[busy] {
		events += l.open - len(l.items)
	}
	return (events + maxBatchEvents - 1) / maxBatchEvents
}

// cut takes the next batch of the class out of the queue; it is empty only when nothing of the class waits. Each of its
// items is told to ended later.
func (q *queue) cut(c class) []item {
	batch := make([]item, 0, min(q.waiting[c], maxBatchEvents))
	bytes := 0
	for len(q.rings[c]) > 0 && len(batch) < maxBatchEvents {
		l := q.rings[c][0]
		next := l.items[0]
		if len(batch) > 0 && bytes+next.size() > maxBatchBytes {
			break
		}
		bytes += next.size()
		batch = append(batch, next)
		l.items[0] = item{} // lets go of the record
		l.items = l.items[1:]
		q.waiting[c]--
		q.rings[c] = q.rings[c][1:]
		if len(l.items) > 0 {
			q.rings[c] = append(q.rings[c], l)
		} else {
			l.items = nil
		}
	}
	return batch
}

// ended says that what was cut is not under way any more.
func (q *queue) ended(i item) { q.close(q.lanes[i.ref.MerchantID], 1) }

func (q *queue) close(l *lane, n int) {
	l.open -= n
	q.open -= n
	if l.open == 0 {
		delete(q.lanes, l.merchant)
	}
}

// drop removes what waits and came from the partition, and returns how much that was.
func (q *queue) drop(p *partition) int {
	before := q.length()
	for c := range q.rings {
		q.rings[c] = slices.DeleteFunc(q.rings[c], func(l *lane) bool {
			length := len(l.items)
			l.items = slices.DeleteFunc(l.items, func(i item) bool { return i.origin == p })
			dropped := length - len(l.items)
			q.waiting[c] -= dropped
			q.close(l, dropped)
			return len(l.items) == 0
		})
	}
	return before - q.length()
}
