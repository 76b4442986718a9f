package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Worker is what a webhook-worker says of itself.
type Worker struct {
	Intake string `json:"intake"` // the way in which it takes events in: batches or subscription
	Group  string `json:"group"`  // the consumer group that does, on either way
}

// AskWorker asks the webhook-worker at addr, host:port. token is the services' API_TOKEN; empty where they want none.
func AskWorker(ctx context.Context, addr, token string) (Worker, error) {
	var worker Worker
	if err := call(ctx, http.MethodGet, "http://"+addr+"/info", token, nil, &worker); err != nil {
		return worker, fmt.Errorf("asking the webhook-worker how it takes events in: %w", err)
	}
	if worker.Intake == "" || worker.Group == "" {
		return worker, errors.New("the webhook-worker does not say how it takes events in")
	}
	return worker, nil
}

// asking is for the few questions about a run; the load itself has a client of its own.
var asking = &http.Client{Timeout: 10 * time.Second}

// call sends ask as JSON, where it is not nil, and reads the answer into answer.
func call(ctx context.Context, method, url, token string, ask, answer any) error {
	var body []byte
	if ask != nil {
		var err error
		if body, err = json.Marshal(ask); err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	authorize(req, token)
	res, err := asking.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500)) // it only explains
		return fmt.Errorf("%s answered %d: %s", url, res.StatusCode, bytes.TrimSpace(text))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	return nil
}

func authorize(req *http.Request, token string) {
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
}
