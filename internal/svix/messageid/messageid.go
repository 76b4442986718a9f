// Package messageid is how an event's message is called at Svix: what was handed over finds itself again by it.
package messageid

import (
	"errors"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Message says which message of an event it is.
type Message struct {
	EventID uuid.UUID
	// Generation is 0, or the replay's id.
	Generation int64
	// Replacement is 0 for the event's own message. Above, it stands in for one that Svix seemed to have lost.
	Replacement int
}

// String is Svix's eventId: the event's id, with .g and the generation and .r and the replacement where they are not 0.
func (m Message) String() string {
	id := m.EventID.String()
	if m.Generation != 0 {
		id += ".g" + strconv.FormatInt(m.Generation, 10)
	}
	if m.Replacement != 0 {
		id += ".r" + strconv.Itoa(m.Replacement)
	}
	return id
}

var errNotOurs = errors.New("it is no message of an event")

// Parse reads what String wrote, and nothing else: an application may have messages that others created.
func Parse(text string) (Message, error) {
	var m Message
	id, rest, _ := strings.Cut(text, ".")
	var err error
	if m.EventID, err = uuid.Parse(id); err != nil {
		return Message{}, errNotOurs
	}
	for part := range strings.SplitSeq(rest, ".") {
		if number, ok := strings.CutPrefix(part, "g"); ok {
			m.Generation, _ = strconv.ParseInt(number, 10, 64) // one that is none is not written so
		} else if number, ok := strings.CutPrefix(part, "r"); ok {
			m.Replacement, _ = strconv.Atoi(number)
		}
	}
	if m.String() != text || m.Generation < 0 || m.Replacement < 0 {
		return Message{}, errNotOurs
	}
	return m, nil
}
