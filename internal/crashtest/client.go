package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/load"
)

const (
	// answerWithin is how long a client waits for an answer before it asks again.
	answerWithin = 5 * time.Second
	// askAgain is the wait before a request is repeated.
	askAgain = 100 * time.Millisecond
	// maxConnections bounds what the clients have open at once, as a pool of them would.
	maxConnections = 64
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 1 << 20
)

// clients are the API's: each repeats what it was not answered, with the same Idempotency-Key, until it is. They are
// safe for concurrent use.
type clients struct {
	http  *http.Client
	url   string // of the payments
	token string
	key   string // what the Idempotency-Keys of this run begin with

	mu           sync.Mutex
	acknowledged []Object
	failures     []failure
}

// failure is one request that was not answered as it should have been, and was repeated.
type failure struct {
	at     time.Time
	status int // 0 where there was no answer
	err    error
}

func newClients(address, token, key string) *clients {
	transport := &http.Transport{
		MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: maxConnections, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &clients{
		http: &http.Client{Transport: transport, Timeout: answerWithin},
		url:  "http://" + address + "/payments", token: token, key: key,
	}
}

func (c *clients) close() { c.http.CloseIdleConnections() }

// pay creates the payment, and refunds it where it is to be. It returns when both are acknowledged.
func (c *clients) pay(ctx context.Context, i int, merchant string, refund bool) error {
	body := fmt.Appendf(nil, `{"merchant_id":%q,"amount":%d,"currency":"USD","metadata":{"order":"%s-%d"}}`, merchant, 1000+i, c.key, i)
	made, err := c.insist(ctx, http.MethodPost, c.url, body, c.key+"-"+strconv.Itoa(i), http.StatusCreated)
	if err != nil || !refund {
		return err
	}
	// A status that is there already makes no second event, so that this can be repeated without a key.
	_, err = c.insist(ctx, http.MethodPatch, c.url+"/"+made.ID, []byte(`{"status":"refunded"}`), "", http.StatusOK)
	return err
}

// ways are what payments go through, from pending on: a merchant who mixes up their events ends with a wrong status.
var ways = [][]string{
	{"processing", "succeeded", "refunded"},
	{"processing", "failed"},
	{"succeeded", "disputed", "succeeded", "disputed", "refunded"},
	{"processing", "succeeded", "disputed", "succeeded", "disputed", "succeeded", "refunded"},
	{"canceled"},
}

// walk creates the payment and takes it through one of the ways, each change as soon as the one before is acknowledged.
func (c *clients) walk(ctx context.Context, i int, merchant string) error {
	body := fmt.Appendf(nil, `{"merchant_id":%q,"amount":%d,"currency":"USD","status":"pending","metadata":{"order":"%s-%d"}}`, merchant, 1000+i, c.key, i)
	now, err := c.insist(ctx, http.MethodPost, c.url, body, c.key+"-"+strconv.Itoa(i), http.StatusCreated)
	for _, status := range ways[i%len(ways)] {
		if err != nil {
			return err
		}
		// Of the version, so that one that is repeated because its answer was lost does not come through a status twice.
		change := fmt.Appendf(nil, `{"status":%q,"if_version":%d}`, status, now.Version)
		now, err = c.insist(ctx, http.MethodPatch, c.url+"/"+now.ID, change, "", http.StatusOK)
	}
	return err
}

// insist repeats the request until it is answered. Whether one that was not had an effect is unknown; its repetition
// tells.
func (c *clients) insist(ctx context.Context, method, url string, body []byte, key string, want int) (Object, error) {
	for {
		object, status, err := c.send(ctx, method, url, body, key, want)
		if err == nil {
			c.mu.Lock()
			c.acknowledged = append(c.acknowledged, object)
			c.mu.Unlock()
			return object, nil
		}
		if ctx.Err() != nil {
			return object, ctx.Err()
		}
		if status >= 400 && status < 500 && status != http.StatusTooManyRequests {
			return object, err // the request is wrong, not the service
		}
		c.mu.Lock()
		c.failures = append(c.failures, failure{time.Now(), status, err})
		c.mu.Unlock()
		if err := load.Wait(ctx, askAgain); err != nil {
			return object, err
		}
	}
}

func (c *clients) send(ctx context.Context, method, url string, body []byte, key string, want int) (Object, int, error) {
	var answer struct {
		ID      string `json:"id"`
		Version int64  `json:"version"`
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return Object{}, 0, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return Object{}, 0, fmt.Errorf("sending a payment: %w", err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return Object{}, 0, fmt.Errorf("reading an answer: %w", err) // half an answer is none
	}
	if res.StatusCode != want {
		return Object{}, res.StatusCode, fmt.Errorf("sending a payment: %s: %s", res.Status, bytes.TrimSpace(content[:min(len(content), 300)]))
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return Object{}, res.StatusCode, fmt.Errorf("reading an answer: %w", err)
	}
	if answer.ID == "" {
		return Object{}, res.StatusCode, errors.New("reading an answer: it has no id")
	}
	return Object{ID: answer.ID, Version: answer.Version}, res.StatusCode, nil
}

func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acknowledged)
}
