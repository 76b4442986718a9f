package intake

import "github.com/hookline/hookline/internal/event"

// partition follows the records of one assigned partition and tells how far they are done without a gap.
type partition struct {
	open []openRecord // in offset order
	head int          // index of the first that is not done
	held int          // records taken and not finished, waiting or under way
	next int64        // the least offset that can come
}

type openRecord struct {
	record event.Record
	done   bool
}

// take adds a record; its offset is not below next.
func (p *partition) take(record event.Record) {
	record.Key, record.Value = nil, nil // the offset is all that is needed from here on
	p.open = append(p.open, openRecord{record: record})
	p.held++
	p.next = record.Offset + 1
}

// finish marks the record at offset as done. It returns the last record of the finished prefix when that grew.
func (p *partition) finish(offset int64) (event.Record, bool) {
	low, high := p.head, len(p.open)
	for low < high { // offsets rise, with holes where a log was compacted or a transaction aborted
		middle := (low + high) / 2
		if p.open[middle].record.Offset < offset {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(p.open) || p.open[low].record.Offset != offset {
		return event.Record{}, false
	}
	p.open[low].done = true
	grown := false
	var last event.Record
	for p.head < len(p.open) && p.open[p.head].done {
		last, grown = p.open[p.head].record, true
		p.head++
	}
	if p.head > 1024 && p.head*2 > len(p.open) {
		p.open = append(p.open[:0], p.open[p.head:]...)
		p.head = 0
	}
	return last, grown
}
