package callback

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/svix/messageid"
)

// The types of Svix's operational webhooks that something follows from, https://docs.svix.com/incoming-webhooks.
const (
	SvixExhausted        = "message.attempt.exhausted"
	SvixEndpointDisabled = "endpoint.disabled"
)

// News is what an operational webhook of Svix says.
type News struct {
	ID   string `json:"id"` // svix-id: the same at every repetition
	Type string `json:"type"`
	// MerchantID is the uid of the application; empty for one that is not ours.
	MerchantID string `json:"merchant_id,omitempty"`
	EndpointID string `json:"endpoint_id,omitempty"` // Svix's
	// Message is the event's message; nil where there is none, or where it is nothing that was handed over.
	Message *messageid.Message `json:"message,omitempty"`
	// Failing is since when the endpoint has failed; zero where Svix does not say.
	Failing time.Time `json:"failing,omitzero"`
	// ByHand says that somebody disabled the endpoint.
	ByHand bool `json:"by_hand,omitempty"`
}

// What becomes of news, beside NoChange: of a type that nothing follows from, or of what somebody did by hand.
const (
	Looked  Outcome = "looked"   // Svix is asked what became of the message
	Told    Outcome = "told"     // the merchant hears of its endpoint by an event
	NotOurs Outcome = "not_ours" // it is about an application, or a message, that others made
)

// ParseNews reads an operational webhook of Svix whose signature was verified. A fault.Malformed says that it is not one.
func ParseNews(header http.Header, body []byte) (News, error) {
	var e struct {
		Type string `json:"type"`
		Data struct {
			AppUID     string     `json:"appUid"`
			EndpointID string     `json:"endpointId"`
			MsgEventID string     `json:"msgEventId"`
			FailSince  *time.Time `json:"failSince"`
			Trigger    string     `json:"trigger"` // of Svix Cloud: manual or automatic
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return News{}, fault.Wrap(err, fault.Malformed, "the body is no operational webhook of Svix")
	}
	n := News{ID: signing.ID(header), Type: e.Type, MerchantID: e.Data.AppUID, EndpointID: e.Data.EndpointID, ByHand: e.Data.Trigger == "manual"}
	if !validText(n.ID) || !validText(n.Type) {
		return News{}, fault.New(fault.Malformed, "an operational webhook has an id and a type of 1 to %d bytes each, without control characters", maxID)
	}
	for _, text := range []string{n.MerchantID, n.EndpointID} {
		if text != "" && !validText(text) {
			return News{}, fault.New(fault.Malformed, "an operational webhook names an application or endpoint that is none")
		}
	}
	if e.Type == SvixEndpointDisabled && n.EndpointID == "" {
		return News{}, fault.New(fault.Malformed, "an operational webhook of type %s names an endpoint", e.Type)
	}
	if message, err := messageid.Parse(e.Data.MsgEventID); err == nil {
		n.Message = &message
	}
	if e.Data.FailSince != nil {
		n.Failing = e.Data.FailSince.UTC()
	}
	return n, nil
}
