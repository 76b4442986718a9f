package relay

import (
	"context"
	"sync"
)

// window bounds what is on its way to Kafka. When it is full the stream is not read any further, and the rest
// waits where it is safe: in the WAL. It is read again when a quarter of the window is free, not at every
// record: else each would travel alone. One goroutine acquires, any release.
type window struct {
	maxRecords, maxBytes int

	mu             sync.Mutex
	records, bytes int
	freed          chan struct{}
}

func newWindow(maxRecords, maxBytes int) *window {
	return &window{maxRecords: maxRecords, maxBytes: maxBytes, freed: make(chan struct{}, 1)}
}

// acquire waits until a record of size bytes fits in. One that is larger than the window fits into an empty one.
func (w *window) acquire(ctx context.Context, size int) error {
	for {
		w.mu.Lock()
		if w.records == 0 || (w.records < w.maxRecords && w.bytes+size <= w.maxBytes) {
			w.records++
			w.bytes += size
			w.mu.Unlock()
			return nil
		}
		w.mu.Unlock()
		select {
		case <-w.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *window) release(size int) {
	w.mu.Lock()
	w.records--
	w.bytes -= size
	roomy := w.records <= w.maxRecords*3/4 && w.bytes <= w.maxBytes/4*3
	w.mu.Unlock()
	if roomy {
		select {
		case w.freed <- struct{}{}:
		default:
		}
	}
}

// inFlight is the number of records in the window.
func (w *window) inFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records
}
