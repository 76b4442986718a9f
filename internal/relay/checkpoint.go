package relay

import (
	"sync"
	"time"

	"github.com/hookline/hookline/internal/wal"
)

// checkpoint knows how far a stream may be confirmed: to the end of the last transaction before which, itself
// included, Kafka has acknowledged every record. It belongs to one connection, as what was not confirmed
// comes again on the next one. It is safe for concurrent use.
type checkpoint struct {
	mu        sync.Mutex
	queue     []*transaction // in the order of their commits; the last one can be open
	confirmed wal.LSN
}

// transaction is one that is not confirmed yet.
type transaction struct {
	pending     int  // records without an acknowledgement
	committed   bool // all of its records are known
	end         wal.LSN
	committedAt time.Time
}

// begin opens a transaction. Its records may be produced at once: the server sends only what is committed.
func (c *checkpoint) begin(committedAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, &transaction{committedAt: committedAt})
}

// add counts a record of the open transaction in, to be acknowledged on what it returns.
func (c *checkpoint) add() *transaction {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.queue[len(c.queue)-1]
	t.pending++
	return t
}

// commit closes the open transaction, which ends at end.
func (c *checkpoint) commit(end wal.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.queue[len(c.queue)-1]
	t.committed, t.end = true, end
	c.advance()
}

// acknowledge counts a record out.
func (c *checkpoint) acknowledge(t *transaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.pending--
	c.advance()
}

// keepAlive says that the server has sent everything up to sent, which therefore counts as the end of the
// last transaction: so the position follows traffic that is not ours, and an idle table pins no WAL.
func (c *checkpoint) keepAlive(sent wal.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.confirmed = max(c.confirmed, sent)
		return
	}
	if t := c.queue[len(c.queue)-1]; t.committed {
		t.end = max(t.end, sent)
	}
}

func (c *checkpoint) advance() {
	for len(c.queue) > 0 && c.queue[0].committed && c.queue[0].pending == 0 {
		c.confirmed = max(c.confirmed, c.queue[0].end)
		c.queue[0] = nil
		c.queue = c.queue[1:]
	}
}

// position is what may be confirmed, 0 while nothing may.
func (c *checkpoint) position() wal.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confirmed
}

// open says whether the stream is in the middle of a transaction.
func (c *checkpoint) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) > 0 && !c.queue[len(c.queue)-1].committed
}

// oldest is when the oldest transaction that is not confirmed was committed; zero where there is none.
func (c *checkpoint) oldest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return time.Time{}
	}
	return c.queue[0].committedAt
}
