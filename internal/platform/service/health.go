package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// listenAddr is the setting of every service that serves HTTP.
	listenAddr = "LISTEN_ADDR"
	// healthTimeout is above the 2 s that /readyz gives the service.
	healthTimeout = 3 * time.Second
)

// checkHealth asks the process that listens at addr whether it is ready. An image without a shell has nobody else who
// could. Where addr is every address of the machine, or has no host, the machine itself is asked.
func checkHealth(ctx context.Context, addr string) error {
	if addr == "" {
		return errors.New("it has no " + listenAddr + " that could be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("asking whether it is ready: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking whether it is ready: %w", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // what came will do
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.Join(strings.Fields(string(body)), " "))
	}
	return nil
}
