package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Intake asks the webhook-worker at addr, host:port, which way it takes events in: batches or subscription.
func Intake(ctx context.Context, addr string) (string, error) {
	var info struct {
		Intake string `json:"intake"`
	}
	if err := getJSON(ctx, "http://"+addr+"/info", &info); err != nil {
		return "", fmt.Errorf("asking the webhook-worker how it takes events in: %w", err)
	}
	if info.Intake == "" {
		return "", errors.New("the webhook-worker does not say how it takes events in")
	}
	return info.Intake, nil
}

func getJSON(ctx context.Context, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return do(req, v)
}

func do(req *http.Request, v any) error {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500)) // it only explains
		return fmt.Errorf("%s answered %d: %s", req.URL, res.StatusCode, text)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(v); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", req.URL, err)
	}
	return nil
}
