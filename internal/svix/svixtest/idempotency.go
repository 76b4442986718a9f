package svixtest

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"net/http"
	"time"
)

// answer is what an idempotency key stands for: a request under way, or what it was answered.
type answer struct {
	done  chan struct{} // closed when the request has ended with an answer
	until time.Time     // when another request may have the key; by the real clock while under way, by the server's afterwards
	kept  *recorded     // nil while under way
}

// recorded is an answer that is not sent yet.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorded) Header() http.Header { return r.header }

func (r *recorded) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorded) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

func (r *recorded) replay(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.header)
	w.WriteHeader(r.status)
	w.Write(r.body.Bytes())
}

// idempotent answers a POST whose key was answered with 2xx as it was then, whatever the body says. A second one while the
// first is under way waits for it, and is on its own when that takes too long.
func (s *Server) idempotent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, key := r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key")
		if r.Method != http.MethodPost || key == "" || token == "" {
			next.ServeHTTP(w, r)
			return
		}
		sum := sha256.Sum256([]byte(token + ":" + key + ":" + r.URL.RequestURI()))
		name := string(sum[:])
		entry, mine := s.lockKey(name)
		if !mine {
			if kept := s.await(r, entry); kept != nil {
				kept.replay(w)
				return
			}
			if entry, mine = s.lockKey(name); !mine {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		out := &recorded{header: http.Header{}}
		next.ServeHTTP(out, r) // one that panics, as a crashed server does, leaves its lock behind
		s.mu.Lock()
		if out.status >= 200 && out.status <= 299 {
			entry.kept, entry.until = out, s.clock().Add(answersKept)
		} else if s.answers[name] == entry {
			delete(s.answers, name)
		}
		s.mu.Unlock()
		close(entry.done)
		if s.strike(r, AfterCaching, w) {
			return
		}
		out.replay(w)
	})
}

// lockKey takes the key for a request, or returns who has it.
func (s *Server) lockKey(name string) (*answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there, found := s.answers[name]; found {
		if there.kept == nil && time.Now().Before(there.until) || there.kept != nil && s.clock().Before(there.until) {
			return there, false
		}
	}
	mine := &answer{done: make(chan struct{}), until: time.Now().Add(s.opts.LockKept)}
	s.answers[name] = mine
	return mine, true
}

// await returns what the other request was answered, nil where that was no 2xx or takes too long.
func (s *Server) await(r *http.Request, entry *answer) *recorded {
	s.mu.Lock()
	kept, wait := entry.kept, time.Until(entry.until)
	s.mu.Unlock()
	if kept != nil {
		return kept
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-entry.done:
	case <-timer.C:
	case <-r.Context().Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return entry.kept
}
