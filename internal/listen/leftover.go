package listen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/stack/process"
)

// temporary begins the description of every endpoint of ours; a mark follows.
const temporary = "temporary, of hookline listen: "

// probeTimeout bounds one look whether a receiver is there. It is on this machine.
const probeTimeout = time.Second

// mark says whose an endpoint is.
type mark struct {
	Host string `json:"host"`
	process.Identity
}

// ownMark is this process's. Without /proc it has no start time: then the connection alone decides, see gone.
func ownMark() (mark, error) {
	host, err := os.Hostname()
	if err != nil {
		return mark{}, fmt.Errorf("asking for the name of this machine: %w", err)
	}
	identity, err := process.Of(os.Getpid())
	if err != nil {
		identity = process.Identity{PID: os.Getpid()}
	}
	return mark{Host: host, Identity: identity}, nil
}

func (m mark) description() (string, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("describing the endpoint: %w", err)
	}
	return temporary + string(text), nil
}

// readMark reads a description; ok is false where the endpoint is none of ours.
func readMark(description string) (m mark, ok bool) {
	text, ok := strings.CutPrefix(description, temporary)
	return m, ok && json.Unmarshal([]byte(text), &m) == nil
}

// removeLeftovers removes the endpoints of those that were killed on this machine. note gets a line for each.
func removeLeftovers(ctx context.Context, own mark, e endpoints, note func(line string)) error {
	all, err := e.List(ctx, "")
	if err != nil {
		return err
	}
	for _, each := range all {
		m, ok := readMark(each.Description)
		if !ok || m.Host != own.Host || !gone(ctx, m, each) {
			continue
		}
		_, err := e.Remove(ctx, each.ID)
		if fault.ClassOf(err) == fault.NotFound {
			continue // another one of us was faster
		}
		if err != nil {
			return err
		}
		note(fmt.Sprintf("removed endpoint %s of %s, which a hookline listen that was killed (pid %d) had left", each.ID, clean(each.MerchantID), m.PID))
	}
	return nil
}

// gone reports whether the endpoint's receiver is surely not there any more: its process has ended, and its port is closed. The
// port alone may be another's by now, and the process may be one of another container, which has pids of its own.
func gone(ctx context.Context, m mark, e endpoint.Endpoint) bool {
	if m.Alive() {
		return false
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return false
	}
	host := "127.0.0.1" // where a receiver listens that listens everywhere
	if isLoopback(u.Hostname()) {
		host = u.Hostname()
	}
	conn, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, u.Port()))
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}
