package svixtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of the server.
const (
	maxBody = 2 << 20 // of a request, axum's default
	maxPage = 250
	page    = 50
	// answersKept is how long an answer is given again to the same idempotency key.
	answersKept = 12 * time.Hour
	// lockKept is how long a request holds its idempotency key at most: that of one whose process died, too.
	lockKept = 5 * time.Second
	// disableAfter is how long an endpoint's messages may all end without a success until it is disabled.
	disableAfter = 120 * time.Hour
)

// DefaultRetries is the server's own schedule.
func DefaultRetries() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour,
	}
}

// Options of a server; the zero value takes no token.
type Options struct {
	// Tokens are those that are taken.
	Tokens []string
	// Retries is when a failed delivery is tried again; nil means DefaultRetries, an empty one never.
	Retries []time.Duration
	// LockKept is how long a request that never ended keeps its idempotency key; 0 means the server's 5 s.
	LockKept time.Duration
	// Operational is where operational webhooks go; nowhere without a URL.
	Operational Operational
	// Around is put around the API, inside of what Intercept answers; for one who checks requests and answers.
	Around func(http.Handler) http.Handler
}

// Server is the fake. It is an http.Handler, and safe for concurrent use.
type Server struct {
	opts     Options
	handler  http.Handler
	lifetime context.Context //nolint:containedctx // of the deliveries, which no request waits for
	stop     context.CancelFunc
	running  sync.WaitGroup
	merchant *http.Client

	mu        sync.Mutex
	tokens    []string
	ahead     time.Duration // how far the server's clock is ahead
	apps      []*application
	answers   map[string]*answer
	faults    []Fault
	intercept func(http.ResponseWriter, *http.Request) bool
	race      int
	held      bool
	backlog   []func()
	pending   int
	requests  map[string]int
}

// New makes a server that delivers until ctx ends or Close.
func New(ctx context.Context, opts Options) *Server {
	if opts.Retries == nil {
		opts.Retries = DefaultRetries()
	}
	if opts.LockKept == 0 {
		opts.LockKept = lockKept
	}
	s := &Server{
		opts: opts, tokens: opts.Tokens, answers: map[string]*answer{}, requests: map[string]int{},
		merchant: &http.Client{
			Timeout:       30 * time.Second,
			Transport:     &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.lifetime, s.stop = context.WithCancel(ctx)
	api := s.authorized(s.routes())
	if opts.Around != nil {
		api = opts.Around(api)
	}
	s.handler = s.idempotent(api)
	return s
}

// Close ends deliveries and drops what is queued. It returns when nothing runs any more.
func (s *Server) Close() {
	s.stop()
	s.running.Wait()
	s.merchant.CloseIdleConnections()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	s.mu.Lock()
	intercept := s.intercept
	s.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	s.handler.ServeHTTP(w, withFault(r))
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /api/v1/app":                                            s.listApplications,
		"POST /api/v1/app":                                           s.createApplication,
		"GET /api/v1/app/{app_id}":                                   s.getApplication,
		"DELETE /api/v1/app/{app_id}":                                s.deleteApplication,
		"GET /api/v1/app/{app_id}/endpoint":                          s.listEndpoints,
		"POST /api/v1/app/{app_id}/endpoint":                         s.createEndpoint,
		"GET /api/v1/app/{app_id}/endpoint/{endpoint_id}":            s.getEndpoint,
		"PATCH /api/v1/app/{app_id}/endpoint/{endpoint_id}":          s.patchEndpoint,
		"DELETE /api/v1/app/{app_id}/endpoint/{endpoint_id}":         s.deleteEndpoint,
		"GET /api/v1/app/{app_id}/endpoint/{endpoint_id}/secret":     s.getSecret,
		"GET /api/v1/app/{app_id}/msg":                               s.listMessages,
		"POST /api/v1/app/{app_id}/msg":                              s.createMessage,
		"GET /api/v1/app/{app_id}/msg/{msg_id}":                      s.getMessage,
		"GET /api/v1/app/{app_id}/msg/{msg_id}/endpoint":             s.listDestinations,
		"GET /api/v1/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}": s.getAttempt,
		"GET /api/v1/app/{app_id}/attempt/msg/{msg_id}":              s.listAttempts,
		"GET /api/v1/app/{app_id}/attempt/endpoint/{endpoint_id}":    s.listAttempts,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			s.requests[pattern]++
			s.mu.Unlock()
			if err := handle(w, r); err != nil {
				writeProblem(w, err)
			}
		})
	}
	return mux
}

// authorized refuses every other token than ours, before it looks at anything else.
func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.mu.Lock()
		known := slices.Contains(s.tokens, token)
		s.mu.Unlock()
		if !ok || !known {
			writeProblem(w, &problem{status: http.StatusUnauthorized, code: "authentication_failed", detail: "Invalid token"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// now is the time by the server's clock.
func (s *Server) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock()
}

// clock is now for who holds the lock.
func (s *Server) clock() time.Time { return time.Now().Add(s.ahead) }

// problem is a refusal.
type problem struct {
	status int
	code   string // empty for a 422, which has a form of its own
	detail string
	where  []string
}

func (p *problem) Error() string { return p.detail }

var (
	errNotFound = &problem{status: http.StatusNotFound, code: "not_found", detail: "Entity not found"}
	errNoApp    = &problem{status: http.StatusNotFound, code: "not_found", detail: "Application not found"}
	errConflict = &problem{status: http.StatusConflict, code: "conflict", detail: "A conflict has occurred"}
)

func invalid(detail string, where ...string) error {
	return &problem{status: http.StatusUnprocessableEntity, detail: detail, where: where}
}

func writeProblem(w http.ResponseWriter, err error) {
	p, ok := errors.AsType[*problem](err)
	switch {
	case !ok:
		writeJSON(w, http.StatusInternalServerError, struct{}{})
	case p.code == "":
		writeJSON(w, p.status, map[string]any{"detail": []any{map[string]any{"loc": p.where, "msg": p.detail, "type": "value_error"}}})
	default:
		writeJSON(w, p.status, map[string]any{"code": p.code, "detail": p.detail})
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

// readJSON reads the request's body.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &problem{status: http.StatusRequestEntityTooLarge, code: "payload_too_large", detail: "Request payload is too large."}
	}
	if err != nil {
		return invalid(err.Error(), "body")
	}
	return nil
}

var limited = regexp.MustCompile(`^[a-zA-Z0-9\-_.]+$`)

// checkUID checks an id that the caller chose; prefix is that of the server's own. nil is none, which is fine.
func checkUID(uid *string, prefix string, where ...string) error {
	switch {
	case uid == nil:
		return nil
	case len(*uid) < 1 || len(*uid) > 256:
		return invalid("String must be between 1 and 256 characters long", where...)
	case !limited.MatchString(*uid):
		return invalid("String must match the following pattern: [a-zA-Z0-9\\-_.].", where...)
	case strings.HasPrefix(*uid, prefix):
		return invalid("Uids are not allowed to have the same prefix as the ID. Prefix with _?", where...)
	default:
		return nil
	}
}

// newID draws an id of the server's.
func newID(prefix string) string { return prefix + "2" + rand.Text() }

// list writes the page of all that the request asks for. Its cursor is the id of the last one.
func list[T any](w http.ResponseWriter, r *http.Request, all []T, id func(T) string) error {
	return listAs(w, r, all, id, false)
}

// listAs is list; it says of every page that it is the last where alwaysDone.
func listAs[T any](w http.ResponseWriter, r *http.Request, all []T, id func(T) string, alwaysDone bool) error {
	limit := page
	if text := r.URL.Query().Get("limit"); text != "" {
		asked, err := strconv.Atoi(text)
		if err != nil || asked < 1 || asked > maxPage {
			return invalid("the limit is 1 to 250", "query", "limit")
		}
		limit = asked
	}
	if after := r.URL.Query().Get("iterator"); after != "" {
		all = all[1+slices.IndexFunc(all, func(each T) bool { return id(each) == after }):]
	}
	answer := map[string]any{"data": append([]T{}, all[:min(limit, len(all))]...), "done": alwaysDone || len(all) <= limit, "iterator": nil, "prevIterator": nil}
	if n := min(limit, len(all)); n > 0 {
		answer["iterator"] = id(all[n-1])
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}
