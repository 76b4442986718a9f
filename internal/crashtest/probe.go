package crashtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hookline/hookline/internal/stack"
)

// probing is how long a part may take to answer before it counts as one that does not.
const probing = time.Second

// asking keeps no connection: one to a process that was killed fails the next request.
var asking = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// probe returns nil where the component answers at its port, on a connection of its own. The kernel takes connections
// for a frozen process too, so that only an answer counts.
func probe(ctx context.Context, status stack.Status, name string) error {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	switch name {
	case stack.Postgres:
		const sslRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
		return ask(ctx, status.Address(name), sslRequest)
	case stack.Kafka:
		const apiVersions = "\x00\x00\x00\x0e\x00\x12\x00\x00\x00\x00\x00\x01\x00\x04test"
		return ask(ctx, status.Address(name), apiVersions)
	case stack.Restate:
		return get(ctx, "http://"+status.RestateAdmin()+"/health")
	default:
		return get(ctx, "http://"+status.Address(name)+"/healthz")
	}
}

// ask sends the bytes and waits for the first one of an answer.
func ask(ctx context.Context, address, request string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("probing %s: %w", address, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("probing %s: %w", address, err)
		}
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return fmt.Errorf("probing %s: %w", address, err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return fmt.Errorf("probing %s: %w", address, err)
	}
	return nil
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	res, err := asking.Do(req)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	_ = res.Body.Close()
	return nil
}
