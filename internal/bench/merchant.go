package bench

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/load"
)

const (
	maxWebhook = 64 << 10 // more than the largest --body-bytes makes
	// verifyEvery is which webhooks have their signature checked: all would cost the machine a tenth of what it
	// can deliver.
	verifyEvery = 32
)

// merchants is a fast HTTP server that plays all merchants. It keeps who came when, and checks a sample of the
// signatures.
type merchants struct {
	server   *http.Server
	listener net.Listener
	webhook  *svix.Webhook
	buffers  sync.Pool

	kinds    []kind        // of the endpoints; where there is none, all are healthy
	tallies  []tally       // of the requests at each endpoint that is not healthy
	released chan struct{} // closed: nothing hangs any more
	release  sync.Once

	received, bytes, invalid atomic.Int64

	mu   sync.Mutex
	acks map[uuid.UUID]load.Ack
	last time.Time // of the latest 2xx that was an id's first
}

// listen starts the merchants on a free port of loopback. Close them.
func listen(ctx context.Context, secret string, expected int, kinds []kind) (*merchants, error) {
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &merchants{
		kinds: kinds, tallies: make([]tally, len(kinds)), released: make(chan struct{}),
		listener: listener, webhook: webhook, acks: make(map[uuid.UUID]load.Ack, expected),
		buffers: sync.Pool{New: func() any { return new([maxWebhook]byte) }},
	}
	m.server = &http.Server{
		Handler: m, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	go m.server.Serve(listener) //nolint:errcheck // it ends by Close
	return m, nil
}

// url is the endpoint of the i-th merchant.
func (m *merchants) url(i int) string {
	return "http://" + m.listener.Addr().String() + "/webhooks/" + strconv.Itoa(i)
}

func (m *merchants) close() error {
	m.release.Do(func() { close(m.released) })
	return m.server.Close()
}

// troubled treats the webhook as its endpoint does where that is not healthy, and returns whether it is not.
func (m *merchants) troubled(w http.ResponseWriter, r *http.Request) bool {
	i, err := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	if err != nil || i < 0 || i >= len(m.kinds) || m.kinds[i] == healthy {
		return false
	}
	m.tallies[i].begin(time.Now())
	defer m.tallies[i].end()
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxWebhook)) // net/http notices only then that the client leaves
	if m.kinds[i] == failing {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	select {
	case <-r.Context().Done():
	case <-m.released:
	}
	panic(http.ErrAbortHandler)
}

// ServeHTTP implements http.Handler.
func (m *merchants) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.troubled(w, r) {
		return
	}
	id, err := uuid.Parse(r.Header.Get("Webhook-Id"))
	if err != nil {
		m.invalid.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	buffer, ok := m.buffers.Get().(*[maxWebhook]byte)
	if !ok { // the pool holds nothing else
		buffer = new([maxWebhook]byte)
	}
	defer m.buffers.Put(buffer)
	n, err := io.ReadFull(r.Body, buffer[:])
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { // nil: there is more than fits
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if r.ContentLength >= 0 && int64(n) != r.ContentLength {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if m.received.Add(1)%verifyEvery == 1 && m.webhook.Verify(buffer[:n], r.Header) != nil {
		m.invalid.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	m.bytes.Add(int64(n))
	m.acknowledge(id, time.Now())
	w.WriteHeader(http.StatusOK)
}

func (m *merchants) acknowledge(id uuid.UUID, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ack := m.acks[id]
	if ack.Times == 0 {
		ack.First, m.last = now, now
	}
	ack.Times++
	m.acks[id] = ack
}

// unique is how many different events were acknowledged.
func (m *merchants) unique() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.acks)
}

// acknowledged returns what every event got, and when the last first 2xx was.
func (m *merchants) acknowledged() (map[uuid.UUID]load.Ack, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.acks), m.last
}

// meanBody is the mean size of the webhooks, in bytes.
func (m *merchants) meanBody() int64 { return m.bytes.Load() / max(1, m.received.Load()) }
