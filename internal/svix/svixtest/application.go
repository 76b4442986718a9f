package svixtest

import (
	"net/http"
	"slices"
	"time"
)

type application struct {
	id, uid, name string
	metadata      map[string]string
	createdAt     time.Time
	endpoints     []*endpoint
	messages      []*message
	byEventID     map[string]*message
}

type applicationOut struct {
	ID        string            `json:"id"`
	UID       *string           `json:"uid,omitempty"`
	Name      string            `json:"name"`
	Metadata  map[string]string `json:"metadata"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`
}

func (a *application) out() applicationOut {
	out := applicationOut{ID: a.id, Name: a.name, Metadata: a.metadata, CreatedAt: a.createdAt, UpdatedAt: a.createdAt}
	if a.uid != "" {
		out.UID = &a.uid
	}
	return out
}

// application finds one by id or uid; the caller holds the lock.
func (s *Server) application(name string) *application {
	i := slices.IndexFunc(s.apps, func(a *application) bool { return a.id == name || a.uid == name && name != "" })
	if i < 0 {
		return nil
	}
	return s.apps[i]
}

func (s *Server) listApplications(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]applicationOut, len(s.apps))
	for i, each := range s.apps {
		out[i] = each.out()
	}
	return list(w, r, out, func(a applicationOut) string { return a.ID })
}

type applicationIn struct {
	Name     string            `json:"name"`
	UID      *string           `json:"uid"`
	Metadata map[string]string `json:"metadata"`
}

func (s *Server) createApplication(w http.ResponseWriter, r *http.Request) error {
	var in applicationIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.Name == "" {
		return invalid("the name must not be empty", "body", "name")
	}
	if err := checkUID(in.UID, "app_", "body", "uid"); err != nil {
		return err
	}
	// The server looks, and inserts in another statement: who comes in between wins.
	if in.UID != nil {
		s.mu.Lock()
		there := s.application(*in.UID)
		s.mu.Unlock()
		if there != nil && r.URL.Query().Get("get_if_exists") == "true" {
			writeJSON(w, http.StatusOK, there.out())
			return nil
		}
		if there != nil {
			return &problem{status: http.StatusConflict, code: "conflict", detail: "An application with that id or uid already exists"}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.race > 0 {
		s.race--
		s.insertApplication(in)
	}
	if in.UID != nil && s.application(*in.UID) != nil {
		return errConflict
	}
	writeJSON(w, http.StatusCreated, s.insertApplication(in).out())
	return nil
}

func (s *Server) insertApplication(in applicationIn) *application {
	app := &application{
		id: newID("app_"), name: in.Name, metadata: map[string]string{}, createdAt: s.clock().UTC(), byEventID: map[string]*message{},
	}
	if in.UID != nil {
		app.uid = *in.UID
	}
	if in.Metadata != nil {
		app.metadata = in.Metadata
	}
	s.apps = append(s.apps, app)
	return app
}

// found finds the application of the request's path; the caller holds the lock.
func (s *Server) found(r *http.Request) (*application, error) {
	if app := s.application(r.PathValue("app_id")); app != nil {
		return app, nil
	}
	return nil, errNoApp
}

func (s *Server) getApplication(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, app.out())
	return nil
}

func (s *Server) deleteApplication(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	app, err := s.found(r)
	if err != nil {
		return err
	}
	s.apps = slices.DeleteFunc(s.apps, func(a *application) bool { return a == app })
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Applications returns the uids of all applications, in the order in which they were created.
func (s *Server) Applications() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uids []string
	for _, each := range s.apps {
		uids = append(uids, each.uid)
	}
	return uids
}
