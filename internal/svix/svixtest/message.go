package svixtest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

type message struct {
	id, eventID, eventType string
	body                   []byte // as the merchant gets it
	createdAt              time.Time
	attempts               []*attempt
}

type messageOut struct {
	ID        string          `json:"id"`
	EventID   *string         `json:"eventId,omitempty"`
	EventType string          `json:"eventType"`
	Payload   json.RawMessage `json:"payload"`
	Channels  []string        `json:"channels"`
	Timestamp time.Time       `json:"timestamp"`
}

func (m *message) out(r *http.Request) messageOut {
	out := messageOut{ID: m.id, EventType: m.eventType, Payload: json.RawMessage("{}"), Timestamp: m.createdAt}
	if m.eventID != "" {
		out.EventID = &m.eventID
	}
	if r.URL.Query().Get("with_content") != "false" {
		out.Payload = m.body
	}
	return out
}

type messageIn struct {
	EventType string          `json:"eventType"`
	EventID   *string         `json:"eventId"`
	Payload   json.RawMessage `json:"payload"`
	Extra     struct {
		RawPayload *string `json:"rawPayload"`
	} `json:"transformationsParams"`
}

func (in *messageIn) check() error {
	if len(in.EventType) > 256 || !limited.MatchString(in.EventType) {
		return invalid("String must match the following pattern: [a-zA-Z0-9\\-_.].", "body", "eventType")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(in.Payload), []byte("{")) {
		return invalid("the payload must be an object", "body", "payload")
	}
	return checkUID(in.EventID, "msg_", "body", "eventId")
}

// createMessage commits the message, then queues it, then answers.
func (s *Server) createMessage(w http.ResponseWriter, r *http.Request) error {
	var in messageIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := in.check(); err != nil {
		return err
	}
	if err := s.creatable(r, in); err != nil {
		return err
	}
	s.nextFault(r)
	if s.strike(r, BeforeCommit, w) {
		return nil
	}
	app, made, err := s.commit(r, in)
	if err != nil {
		return err
	}
	if s.strike(r, AfterCommit, w) {
		return nil
	}
	s.enqueue(app, made)
	if s.strike(r, AfterQueueing, w) {
		return nil
	}
	writeJSON(w, http.StatusAccepted, made.out(r))
	return nil
}

// creatable refuses what commit would: a fault is for a message that would be made.
func (s *Server) creatable(r *http.Request, in messageIn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err == nil && in.EventID != nil && app.byEventID[*in.EventID] != nil {
		err = errConflict
	}
	return err
}

func (s *Server) commit(r *http.Request, in messageIn) (*application, *message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return nil, nil, err
	}
	made := &message{id: newID("msg_"), eventType: in.EventType, body: in.Payload, createdAt: s.clock().UTC()}
	if in.Extra.RawPayload != nil {
		made.body = []byte(*in.Extra.RawPayload)
	}
	if in.EventID != nil {
		if app.byEventID[*in.EventID] != nil {
			return nil, nil, errConflict
		}
		made.eventID = *in.EventID
		app.byEventID[made.eventID] = made
	}
	app.messages = append(app.messages, made)
	return app, made, nil
}

// foundMessage finds the message of the request's path, by id or eventId; the caller holds the lock.
func (s *Server) foundMessage(r *http.Request) (*application, *message, error) {
	app, err := s.found(r)
	if err != nil {
		return nil, nil, err
	}
	name := r.PathValue("msg_id")
	if m := app.byEventID[name]; m != nil {
		return app, m, nil
	}
	if i := slices.IndexFunc(app.messages, func(m *message) bool { return m.id == name }); i >= 0 {
		return app, app.messages[i], nil
	}
	return nil, nil, errNotFound
}

func (s *Server) listMessages(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return err
	}
	var out []messageOut
	for _, each := range slices.Backward(app.messages) { // the newest first
		out = append(out, each.out(r))
	}
	return list(w, r, out, func(m messageOut) string { return m.ID })
}

func (s *Server) getMessage(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, m, err := s.foundMessage(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, m.out(r))
	return nil
}

// Message is what the server holds of one.
type Message struct {
	ID, EventID, EventType string
	Body                   []byte
	Attempts               []Attempt
}

// Attempt is a delivery that has ended.
type Attempt struct {
	Endpoint   string
	StatusCode int // 0 without an answer
}

// Messages returns those of the application with the uid, in the order in which they were created.
func (s *Server) Messages(uid string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	app := s.application(uid)
	if app == nil {
		return nil
	}
	var out []Message
	for _, each := range app.messages {
		m := Message{ID: each.id, EventID: each.eventID, EventType: each.eventType, Body: bytes.Clone(each.body)}
		for _, a := range each.attempts {
			m.Attempts = append(m.Attempts, Attempt{Endpoint: a.EndpointID, StatusCode: a.StatusCode})
		}
		out = append(out, m)
	}
	return out
}
