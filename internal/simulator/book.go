package simulator

import (
	"sync"
	"time"
)

// keptLatest is how many receipts stay in memory for /stats; the file has them all.
const keptLatest = 100

// Stats are the counts since the last reset, over restarts of the simulator where it has a receipts file.
type Stats struct {
	Total             int       `json:"total"`      // accepted, repeated ones included
	Unique            int       `json:"unique"`     // different ids of a Receipt among them
	Duplicates        int       `json:"duplicates"` // Total - Unique
	InvalidSignatures int       `json:"invalid_signatures"`
	FailedOnPurpose   int       `json:"failed_on_purpose"`
	Latest            []Receipt `json:"latest"` // newest first; accepted ones only
}

// Seen is what the merchant knows of one id, as a Receipt has it.
type Seen struct {
	ID       string `json:"id"`
	Accepted int    `json:"accepted"` // how often
	// FirstAt is when it was accepted first.
	FirstAt time.Time `json:"first_at"`
}

// book is the merchant's memory: the receipts file, and the counts over it. It is safe for concurrent use.
//
// Its memory grows by about 100 bytes for each webhook-id until a reset.
type book struct {
	mu       sync.Mutex
	journal  *journal // nil where there is no file
	accepted map[string]seen
	stats    Stats // without Latest
	latest   [keptLatest]Receipt
	next     int // where in latest the next one goes
}

type seen struct {
	times int
	first int64 // Unix microseconds
}

// openBook reads the receipts file at path back; an empty path keeps no file. It returns how many lines of it could
// not be read.
func openBook(path string) (*book, int, error) {
	b := &book{accepted: map[string]seen{}}
	if path == "" {
		return b, 0, nil
	}
	var err error
	var unreadable int
	b.journal, unreadable, err = openJournal(path, func(r Receipt) { b.count(r) })
	return b, unreadable, err
}

// add makes the receipt durable and counts it. It reports whether the id had been accepted before. After an error
// nothing is counted.
func (b *book) add(r Receipt) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.journal != nil {
		if err := b.journal.append(r); err != nil {
			return false, err
		}
	}
	return b.count(r), nil
}

func (b *book) count(r Receipt) bool {
	switch r.Outcome {
	case InvalidSignature:
		b.stats.InvalidSignatures++
		return false
	case FailedOnPurpose:
		b.stats.FailedOnPurpose++
		return false
	case Accepted:
	}
	b.stats.Total++
	before, again := b.accepted[r.ID]
	if again {
		b.stats.Duplicates++
	} else {
		b.stats.Unique++
		before.first = r.ReceivedAt.UnixMicro()
	}
	before.times++
	b.accepted[r.ID] = before
	b.latest[b.next%keptLatest] = r
	b.next++
	return again
}

// read returns the counts and the latest n receipts.
func (b *book) read(n int) Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	n = min(n, keptLatest, b.next)
	s.Latest = make([]Receipt, n)
	for i := range n {
		s.Latest[i] = b.latest[(b.next-1-i)%keptLatest]
	}
	return s
}

// lookUp returns what is known of those of the ids that were accepted.
func (b *book) lookUp(ids []string) []Seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := make([]Seen, 0, len(ids))
	for _, id := range ids {
		if s, ok := b.accepted[id]; ok {
			found = append(found, Seen{ID: id, Accepted: s.times, FirstAt: time.UnixMicro(s.first).UTC()})
		}
	}
	return found
}

// reset forgets everything and empties the file.
func (b *book) reset() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.journal != nil {
		if err := b.journal.clear(); err != nil {
			return err
		}
	}
	clear(b.accepted)
	clear(b.latest[:])
	b.stats, b.next = Stats{}, 0
	return nil
}

// close closes the file; receipts after it fail.
func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.journal == nil {
		return nil
	}
	return b.journal.file.Close()
}
