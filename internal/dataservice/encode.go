package dataservice

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"

	"github.com/hookline/hookline/internal/event"
)

// buffers are kept between requests: an answer has the size of a batch's payloads.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxKept keeps one huge answer from holding its memory for ever.
const maxKept = 1 << 20

// writePayloads writes the answer to a request for payloads. The documents are PostgreSQL's own text of
// jsonb and go out as they are: json.Marshal would read each of them again to check and to compact it, which
// costs as much as all the rest of a request.
func writePayloads(w io.Writer, answers []event.Payload) {
	buffer := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is put there
	out := (*buffer)[:0]
	out = append(out, `{"events":[`...)
	for i, each := range answers {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendPayload(out, each)
	}
	out = append(out, "]}\n"...)
	w.Write(out)
	if cap(out) <= maxKept {
		*buffer = out
		buffers.Put(buffer)
	}
}

// appendPayload appends what json.Marshal would make of the payload, but for white space in its documents.
func appendPayload(out []byte, p event.Payload) []byte {
	out = append(out, `{"event_id":"`...)
	out = append(out, p.EventID.String()...)
	out = append(out, `","visibility":"`...)
	out = append(out, p.Visibility...)
	out = append(out, '"')
	if p.Visibility != event.Visible {
		return append(out, '}')
	}
	out = append(out, `,"event_type":`...)
	out = appendString(out, p.Type)
	out = append(out, `,"object_version":`...)
	out = strconv.AppendInt(out, p.ObjectVersion, 10)
	out = append(out, `,"occurred_at":"`...)
	out = append(out, p.OccurredAt...)
	out = append(out, '"')
	if p.Payment != nil {
		out = append(out, `,"payment":`...)
		out = append(out, p.Payment...)
	}
	out = append(out, `,"snapshot":`...)
	out = append(out, p.Snapshot...)
	return append(out, '}')
}

func appendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, err := json.Marshal(s)
			if err != nil { // a string always can be
				text = []byte(`""`)
			}
			return append(out, text...)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}
