// Package dataclient asks data-service for payloads, payments and the event feed.
//
// Its errors have two kinds. fault.Unavailable means that data-service gave no answer that can be trusted:
// ask again, and conclude nothing about an event. Every other class is data-service's own word about this
// request, and asking again brings the same.
package dataclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

const (
	// defaultTimeout is above data-service's own statement time-out of 5 s plus its wait for visibility, so
	// that it is data-service that says what went wrong.
	defaultTimeout = 6 * time.Second
	defaultConns   = 32
	// maxAnswer keeps a broken peer from filling the memory. A page of 256 events of the largest size that
	// payments-api takes is far below.
	maxAnswer = 256 << 20
	maxDetail = 64 << 10

	paymentPath = "/payload/"
)

// Options tune a client; the zero value is right for one worker.
type Options struct {
	Timeout  time.Duration // of one request with its answer; 0 means 6 s
	MaxConns int           // keep-alive connections; 0 means 32. More requests at once than that wait for one
}

// Client is an HTTP/1.1 client with keep-alive connections. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New makes a client of the data-service at baseURL, such as http://127.0.0.1:3002. The token may be empty.
// It does not connect.
func New(baseURL, token string, opts Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("reading the address of data-service: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("the address of data-service must be http://host:port, not %q", base.Redacted())
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxConns == 0 {
		opts.MaxConns = defaultConns
	}
	return &Client{
		base: base, token: token,
		http: &http.Client{
			Timeout: opts.Timeout,
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
				MaxConnsPerHost:     opts.MaxConns,
				MaxIdleConnsPerHost: opts.MaxConns,
				// Below the server's two minutes, so that it is the client that lets go first.
				IdleConnTimeout:     time.Minute,
				TLSHandshakeTimeout: 2 * time.Second,
				WriteBufferSize:     32 << 10,
				ReadBufferSize:      64 << 10,
				DisableCompression:  true,
			},
			// A redirect would carry the token to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close lets go of the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Payloads returns what an attempt sends for each event asked for, in the same order. An event that is not
// visible is an answer, not an error.
func (c *Client) Payloads(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	body, err := json.Marshal(struct {
		Events []event.PayloadRequest `json:"events"`
	}{asked})
	if err != nil {
		return nil, fmt.Errorf("encoding the events asked for: %w", err)
	}
	answer, err := c.do(ctx, http.MethodPost, "/payloads", nil, body)
	if err != nil {
		return nil, fmt.Errorf("asking data-service for %d payloads: %w", len(asked), err)
	}
	var got struct {
		Events []event.Payload `json:"events"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, unusable(err)
	}
	if len(got.Events) != len(asked) {
		return nil, unusable(fmt.Errorf("%d events asked for, %d answered", len(asked), len(got.Events)))
	}
	for i, each := range got.Events {
		if each.EventID != asked[i].EventID {
			return nil, unusable(fmt.Errorf("event %s asked for, %s answered", asked[i].EventID, each.EventID))
		}
	}
	return got.Events, nil
}

// Payment returns the payment as of now; a fault.NotFound where there is none.
func (c *Client) Payment(ctx context.Context, id uuid.UUID) (json.RawMessage, error) {
	answer, err := c.do(ctx, http.MethodGet, paymentPath+id.String(), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("asking data-service for payment %s: %w", id, err)
	}
	if !json.Valid(answer) {
		return nil, unusable(errors.New("the payment is not JSON"))
	}
	return bytes.TrimSpace(answer), nil
}

// Events returns the page of the feed after the cursor; an empty cursor is the start, limit 0 leaves the
// size to data-service. With visible the page also holds what is visible above the oldest running
// transaction; Next never does.
func (c *Client) Events(ctx context.Context, after string, limit int, visible bool) (event.FeedPage, error) {
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	return c.feed(ctx, query, limit, visible)
}

// EventsSince returns the page of the feed that begins with the first event that was written at or after since, or a
// little before it.
func (c *Client) EventsSince(ctx context.Context, since time.Time, limit int, visible bool) (event.FeedPage, error) {
	return c.feed(ctx, url.Values{"since": {since.UTC().Format(time.RFC3339)}}, limit, visible)
}

func (c *Client) feed(ctx context.Context, query url.Values, limit int, visible bool) (event.FeedPage, error) {
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	if visible {
		query.Set("visible", "true")
	}
	var page event.FeedPage
	answer, err := c.do(ctx, http.MethodGet, "/events", query, nil)
	if err != nil {
		return page, fmt.Errorf("asking data-service for events %s: %w", query.Encode(), err)
	}
	if err := json.Unmarshal(answer, &page); err != nil {
		return page, unusable(err)
	}
	if page.Xmin < 1 { // what answered is not the feed: an empty page here would read as "nothing to do"
		return page, unusable(errors.New("the page has no xmin"))
	}
	return page, nil
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) ([]byte, error) {
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
		// Every request reads only. A key without a value never reaches the wire, but tells net/http that a
		// POST may be repeated when the server had closed the kept connection.
		request.Header["Idempotency-Key"] = nil
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "data-service does not answer")
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response)
	}
	answer, err := readAll(response, maxAnswer)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "the answer of data-service broke off")
	}
	return answer, nil
}

// readAll reads the body into a slice of its announced length.
func readAll(response *http.Response, limit int64) ([]byte, error) {
	if response.ContentLength > limit {
		return nil, fmt.Errorf("the answer has %d bytes, more than the %d allowed", response.ContentLength, limit)
	}
	var buffer bytes.Buffer
	if response.ContentLength > 0 {
		buffer.Grow(int(response.ContentLength) + bytes.MinRead) // else the last read grows it once more
	}
	n, err := buffer.ReadFrom(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("the answer has more than the %d bytes allowed", limit)
	}
	return buffer.Bytes(), nil
}

// refusal is the error of an answer that is not 200. Only a status by which data-service speaks about the
// request itself is permanent. A wrong token or another service at the address says nothing about an event,
// which must then wait, not die.
func refusal(response *http.Response) error {
	var problem struct {
		Detail string            `json:"detail"`
		Errors map[string]string `json:"errors"`
	}
	text, err := readAll(response, maxDetail)
	if err == nil {
		err = json.Unmarshal(text, &problem)
	}
	class := fault.Unavailable
	switch response.StatusCode {
	case http.StatusBadRequest:
		class = fault.Malformed
	case http.StatusUnprocessableEntity:
		class = fault.Invalid
	case http.StatusRequestEntityTooLarge:
		class = fault.TooLarge
	case http.StatusNotFound:
		if strings.Contains(response.Request.URL.Path, paymentPath) { // the other routes are always there
			class = fault.NotFound
		}
	}
	if err != nil || problem.Detail == "" { // not one of our problem documents
		return fault.Wrap(err, fault.Unavailable, "data-service answered %s", response.Status)
	}
	refused := fault.New(class, "data-service answered %s: %s", response.Status, problem.Detail)
	refused.Fields = problem.Errors
	return refused
}

func unusable(err error) error {
	return fault.Wrap(err, fault.Unavailable, "the answer of data-service makes no sense")
}
