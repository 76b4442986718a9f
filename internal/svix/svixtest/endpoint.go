package svixtest

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/hookline/hookline/internal/signing"
)

type endpoint struct {
	endpointOut
	secret  signing.Secret
	deleted bool
	// failingSince is when the first message after the last success ended without one; nil where none has.
	failingSince *time.Time
}

type endpointOut struct {
	ID          string            `json:"id"`
	UID         *string           `json:"uid,omitempty"`
	URL         string            `json:"url"`
	Description string            `json:"description"`
	Disabled    bool              `json:"disabled"`
	EventTypes  []string          `json:"eventTypes"`
	FilterTypes []string          `json:"filterTypes"` // the same, by its former name, which the SDK reads
	Channels    []string          `json:"channels"`
	Metadata    map[string]string `json:"metadata"`
	Version     int               `json:"version"`
	CreatedAt   time.Time         `json:"createdAt"`
	UpdatedAt   time.Time         `json:"updatedAt"`
}

// wants is the server's own rule for a message without channels.
func (e *endpoint) wants(eventType string) bool {
	return !e.Disabled && !e.deleted && len(e.Channels) == 0 && (e.EventTypes == nil || slices.Contains(e.EventTypes, eventType))
}

type endpointIn struct {
	URL         *string           `json:"url"`
	UID         *string           `json:"uid"`
	Description *string           `json:"description"`
	Disabled    *bool             `json:"disabled"`
	EventTypes  []string          `json:"eventTypes"`
	FilterTypes []string          `json:"filterTypes"`
	Channels    []string          `json:"channels"`
	Metadata    map[string]string `json:"metadata"`
	Secret      *string           `json:"secret"`
}

func (in *endpointIn) apply(e *endpoint) error {
	if in.URL != nil {
		if parsed, err := url.Parse(*in.URL); err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") {
			return invalid("endpoint URL schemes must be http or https", "body", "url")
		}
		e.URL = *in.URL
	}
	if in.Description != nil {
		e.Description = *in.Description
	}
	if in.Disabled != nil {
		e.Disabled = *in.Disabled
	}
	if in.EventTypes == nil {
		in.EventTypes = in.FilterTypes
	}
	if in.EventTypes != nil {
		if len(in.EventTypes) == 0 {
			return invalid("filterTypes can't be empty, it must have at least one item.", "body", "filterTypes")
		}
		e.EventTypes, e.FilterTypes = in.EventTypes, in.EventTypes
	}
	if in.Channels != nil {
		e.Channels = in.Channels
	}
	if in.Metadata != nil {
		e.Metadata = in.Metadata
	}
	return nil
}

func (s *Server) createEndpoint(w http.ResponseWriter, r *http.Request) error {
	var in endpointIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.URL == nil {
		return invalid("missing field `url`", "body")
	}
	if err := checkUID(in.UID, "ep_", "body", "uid"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return err
	}
	if in.UID != nil && app.endpoint(*in.UID) != nil {
		return errConflict
	}
	now := s.clock().UTC()
	made := &endpoint{endpointOut: endpointOut{
		ID: newID("ep_"), UID: in.UID, Metadata: map[string]string{}, Version: 1, CreatedAt: now, UpdatedAt: now,
	}}
	if err := in.apply(made); err != nil {
		return err
	}
	if in.Secret == nil {
		drawn, err := signing.NewSecret(signing.HMAC)
		if err != nil {
			return err
		}
		in.Secret = &drawn
	}
	if made.secret, err = signing.ParseSecret(*in.Secret); err != nil {
		return invalid(err.Error(), "body", "secret")
	}
	app.endpoints = append(app.endpoints, made)
	s.tellOfEndpoint(typeEndpointCreated, app, made)
	writeJSON(w, http.StatusCreated, made.endpointOut)
	return nil
}

// endpoint finds one by id or uid.
func (a *application) endpoint(name string) *endpoint {
	i := slices.IndexFunc(a.endpoints, func(e *endpoint) bool {
		return !e.deleted && (e.ID == name || e.UID != nil && *e.UID == name)
	})
	if i < 0 {
		return nil
	}
	return a.endpoints[i]
}

// foundEndpoint finds the endpoint of the request's path; the caller holds the lock.
func (s *Server) foundEndpoint(r *http.Request) (*endpoint, error) {
	app, err := s.found(r)
	if err != nil {
		return nil, err
	}
	if e := app.endpoint(r.PathValue("endpoint_id")); e != nil {
		return e, nil
	}
	return nil, errNotFound
}

func (s *Server) listEndpoints(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return err
	}
	var out []endpointOut
	for _, each := range app.endpoints {
		if !each.deleted {
			out = append(out, each.endpointOut)
		}
	}
	return list(w, r, out, func(e endpointOut) string { return e.ID })
}

func (s *Server) getEndpoint(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.foundEndpoint(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, e.endpointOut)
	return nil
}

func (s *Server) patchEndpoint(w http.ResponseWriter, r *http.Request) error {
	var in endpointIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.foundEndpoint(r)
	if err != nil {
		return err
	}
	if err := in.apply(e); err != nil {
		return err
	}
	e.UpdatedAt = s.clock().UTC()
	writeJSON(w, http.StatusOK, e.endpointOut)
	return nil
}

func (s *Server) deleteEndpoint(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.foundEndpoint(r)
	if err != nil {
		return err
	}
	e.deleted = true // attempts go on naming it
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) getSecret(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.foundEndpoint(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"key": e.secret.Verifier()})
	return nil
}
