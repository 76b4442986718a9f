package svixtest

import (
	"encoding/json"
	"time"

	"github.com/hookline/hookline/internal/signing"
)

// Operational is where the server tells what it does by itself. The real one has an application for that, in an
// organization of its own; here it is a setting.
type Operational struct {
	URL    string
	Secret signing.Secret
}

// The types of what is told. The real server has more.
const (
	typeEndpointCreated  = "endpoint.created"
	typeEndpointDisabled = "endpoint.disabled"
	typeExhausted        = "message.attempt.exhausted"
)

// endpointNews is the data of an event about an endpoint.
type endpointNews struct {
	AppID       string     `json:"appId"`
	AppUID      string     `json:"appUid,omitempty"`
	EndpointID  string     `json:"endpointId"`
	EndpointUID *string    `json:"endpointUid,omitempty"`
	FailSince   *time.Time `json:"failSince,omitempty"`
}

// attemptNews is the data of an event about a message at an endpoint.
type attemptNews struct {
	AppID       string      `json:"appId"`
	AppUID      string      `json:"appUid,omitempty"`
	EndpointID  string      `json:"endpointId"`
	MessageID   string      `json:"msgId"`
	EventID     string      `json:"msgEventId,omitempty"`
	LastAttempt lastAttempt `json:"lastAttempt"`
}

type lastAttempt struct {
	ID         string    `json:"id"`
	StatusCode int       `json:"responseStatusCode"`
	Timestamp  time.Time `json:"timestamp"`
}

// tell posts an event to where operational webhooks go, and tries again as with any other. The caller holds the lock.
func (s *Server) tell(eventType string, data any) {
	if s.opts.Operational.URL == "" {
		return
	}
	body, err := json.Marshal(map[string]any{"type": eventType, "data": data})
	if err != nil {
		return // it is made of texts and times
	}
	m := &message{id: newID("msg_"), eventType: eventType, body: body, createdAt: s.clock().UTC()}
	to := &endpoint{endpointOut: endpointOut{ID: newID("ep_"), URL: s.opts.Operational.URL}, secret: s.opts.Operational.Secret}
	s.start(func() { s.deliver(nil, m, to) })
}

func (s *Server) tellOfEndpoint(eventType string, app *application, e *endpoint) {
	s.tell(eventType, endpointNews{AppID: app.id, AppUID: app.uid, EndpointID: e.ID, EndpointUID: e.UID, FailSince: e.failingSince})
}

// exhausted tells that the attempt was the last one of its message, and disables an endpoint of which every message has
// ended so for long enough. The caller holds the lock.
func (s *Server) exhausted(app *application, m *message, to *endpoint, last *attempt) {
	s.tell(typeExhausted, attemptNews{
		AppID: app.id, AppUID: app.uid, EndpointID: to.ID, MessageID: m.id, EventID: m.eventID,
		LastAttempt: lastAttempt{ID: last.ID, StatusCode: last.StatusCode, Timestamp: last.Timestamp},
	})
	if to.failingSince == nil {
		to.failingSince = &last.Timestamp
		return
	}
	if last.Timestamp.Sub(*to.failingSince) > disableAfter && !to.Disabled && !to.deleted {
		to.Disabled = true
		s.tellOfEndpoint(typeEndpointDisabled, app, to)
	}
}
