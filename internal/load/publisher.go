package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lateAfter is what a start may be behind its schedule before it counts as late: more than a timer's error.
	lateAfter = 5 * time.Millisecond
	// maxOpen bounds the open requests of an open loop. Beyond it starts wait, and count as late.
	maxOpen = 1000
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 1 << 20
)

// Publisher creates payments over HTTP. It is safe for concurrent use.
type Publisher struct {
	// Answered, where it is set, gets the answer to every payment that was created. It is called concurrently.
	Answered func(answer []byte)

	client     *http.Client
	url, token string
	bodies     [][]byte
	posted     atomic.Int64
}

// NewPublisher posts to the payments-api at addr, host:port. The i-th payment has the body i modulo their number. token
// is the service's API_TOKEN; empty where it wants none.
func NewPublisher(addr, token string, bodies [][]byte) *Publisher {
	transport := &http.Transport{
		MaxIdleConns: maxOpen, MaxIdleConnsPerHost: maxOpen, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &Publisher{
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		url:    "http://" + addr + "/payments", token: token, bodies: bodies,
	}
}

// Close closes the connections that are kept.
func (p *Publisher) Close() { p.client.CloseIdleConnections() }

// Posted is how many payments were answered 201 so far.
func (p *Publisher) Posted() int { return int(p.posted.Load()) }

// Published is what came of a run of posts.
type Published struct {
	Accepted int // answered 201
	Errors   int
	Late     int // started later than its schedule by more than 5 ms; always 0 for a burst
	// Err is the first error.
	Err error
	// First is when the first post started, Last when the last answer came.
	First, Last time.Time
	Latencies   []time.Duration // of the accepted ones
}

// Refund moves the payment to refunded, which is a second event of it.
func (p *Publisher) Refund(ctx context.Context, id string) error {
	return p.send(ctx, http.MethodPatch, p.url+"/"+id, []byte(`{"status":"refunded"}`), http.StatusOK, nil)
}

func (p *Publisher) post(ctx context.Context, i int) error {
	err := p.send(ctx, http.MethodPost, p.url, p.bodies[i%len(p.bodies)], http.StatusCreated, p.Answered)
	if err == nil {
		p.posted.Add(1)
	}
	return err
}

func (p *Publisher) send(ctx context.Context, method, url string, body []byte, want int, answered func([]byte)) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	authorize(req, p.token)
	res, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("sending a payment: %w", err)
	}
	defer res.Body.Close()
	limited := io.LimitReader(res.Body, maxAnswer)
	if res.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(limited, 500)) // it only explains
		return fmt.Errorf("sending a payment: payments-api answered %d: %s", res.StatusCode, bytes.TrimSpace(text))
	}
	if answered == nil {
		_, _ = io.Copy(io.Discard, limited) // so that the connection can be used again
		return nil
	}
	answer, err := io.ReadAll(limited)
	if err != nil {
		return fmt.Errorf("reading the answer to a payment: %w", err)
	}
	answered(answer)
	return nil
}

// run collects what comes of many posts at once.
type run struct {
	publisher *Publisher
	mu        sync.Mutex
	result    Published
}

func (r *run) post(ctx context.Context, i int) {
	start := time.Now()
	err := r.publisher.post(ctx, i)
	end := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.First.IsZero() || start.Before(r.result.First) {
		r.result.First = start
	}
	if end.After(r.result.Last) {
		r.result.Last = end
	}
	if err != nil {
		r.result.Errors++
		if r.result.Err == nil {
			r.result.Err = err
		}
		return
	}
	r.result.Accepted++
	r.result.Latencies = append(r.result.Latencies, end.Sub(start))
}

// Burst posts n payments as fast as so many publishers can, each with one request open at a time. A post that fails
// is not repeated. It returns early only when ctx ends.
func (p *Publisher) Burst(ctx context.Context, n, publishers int) Published {
	r := &run{publisher: p, result: Published{Latencies: make([]time.Duration, 0, n)}}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range publishers {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				r.post(ctx, i)
			}
		})
	}
	workers.Wait()
	return r.result
}

// Rate posts n payments at perSecond in an open loop: the next one starts when it is due, whether or not those before
// it were answered. It returns when all are, or early when ctx ends.
func (p *Publisher) Rate(ctx context.Context, n int, perSecond float64) Published {
	r := &run{publisher: p, result: Published{Latencies: make([]time.Duration, 0, n)}}
	var posts sync.WaitGroup
	open := make(chan struct{}, maxOpen)
	late := 0
	err := pace(ctx, n, perSecond, func(i int, behind time.Duration) {
		if behind > lateAfter {
			late++
		}
		open <- struct{}{}
		posts.Go(func() {
			defer func() { <-open }()
			r.post(ctx, i)
		})
	})
	posts.Wait()
	r.result.Late = late
	if r.result.Err == nil {
		r.result.Err = err
	}
	return r.result
}
