package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
)

const (
	addTimeout    = 10 * time.Second // of the adding, which an interrupt does not cut short
	removeTimeout = 10 * time.Second // of what follows an interrupt
	// drainTimeout is what webhooks under way get when listening ends: who interrupts does not wait for a server that hangs.
	drainTimeout = 2 * time.Second
	// settleTimeout is longer than an outcome takes from the answer to the ledger: 20 ms.
	settleTimeout = 250 * time.Millisecond
)

// schedule is short: a developer waits for the second attempt.
func schedule() delivery.Schedule {
	return delivery.Schedule{time.Second, 5 * time.Second, 30 * time.Second}
}

// endpoints are the ledger's: *endpoint.Manager.
type endpoints interface {
	Add(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, string, error)
	List(ctx context.Context, merchantID string) ([]endpoint.Endpoint, error)
	Remove(ctx context.Context, id uuid.UUID) (int64, error)
	// Standing also knows what is left of one that has been removed.
	Standing(ctx context.Context, id uuid.UUID) ([]endpoint.Standing, error)
}

// Address is where Hookline's workers reach this machine.
type Address struct {
	Host string
	Port uint16 // 0 is any that is free
}

// ParseAddress reads host:port. The error is a fault.Invalid.
func ParseAddress(text string) (Address, error) {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || host == "" {
		return Address{}, fault.New(fault.Invalid, "want host:port, such as 192.0.2.7:9000; port 0 is any that is free")
	}
	return Address{Host: host, Port: uint16(number)}, nil
}

// Loopback is the address for workers on this machine.
func Loopback() Address { return Address{Host: "127.0.0.1"} }

// bind listens on the address itself where it is a loopback one, and otherwise on every interface: the host may be a name
// that only the workers know. It returns the URL of the receiver.
func (a Address) bind(ctx context.Context) (net.Listener, string, error) {
	host := ""
	if isLoopback(a.Host) {
		host = a.Host
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(a.Port))))
	if err != nil {
		return nil, "", fmt.Errorf("listening for webhooks: %w", err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("reading the port: %w", err), listener.Close())
	}
	return listener, (&url.URL{Scheme: "http", Host: net.JoinHostPort(a.Host, port), Path: "/"}).String(), nil
}

// Options say what to listen to.
type Options struct {
	MerchantID string
	EventTypes []string // as an endpoint's
	ForwardTo  *url.URL // nil answers every webhook with 200
	Address    Address
	Printer    *Printer
	// Note gets what else a person should know, a line at a time.
	Note func(line string)
}

// Refused is the error where webhooks may not go to this machine.
type Refused struct { //nolint:errname // a caller reads errors.AsType[*listen.Refused]
	URL    string
	Reason string
}

// Error implements error.
func (r *Refused) Error() string { return "webhooks may not go to " + r.URL + ": " + r.Reason }

// Run listens until ctx ends, then removes the endpoint and returns nil. What is wrong with the options is a fault.Invalid that
// names each field of endpoint.Spec; an address that the guard does not let through is a *Refused.
func Run(ctx context.Context, e endpoints, o Options) (err error) {
	own, err := ownMark()
	if err != nil {
		return err
	}
	if err := removeLeftovers(ctx, own, e, o.Note); err != nil {
		return fmt.Errorf("looking for endpoints that were left behind: %w", err)
	}
	// Drawn here, as the first webhook may come before Add has returned.
	secret, err := signing.NewSecret(signing.HMAC)
	if err != nil {
		return err
	}
	verifier, err := signing.ParseVerifier(secret)
	if err != nil {
		return err
	}
	description, err := own.description()
	if err != nil {
		return err
	}
	listener, target, err := o.Address.bind(ctx)
	if err != nil {
		return err
	}
	receiver := NewReceiver(verifier, o.ForwardTo, o.Printer.webhook)
	defer receiver.Close()
	server := &http.Server{
		Handler: receiver, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	added, err := add(ctx, e, endpoint.Spec{
		MerchantID: o.MerchantID, URL: target, Description: description, EventTypes: o.EventTypes, Schedule: schedule(), Secret: secret,
	})
	if err != nil {
		return errors.Join(err, server.Close())
	}
	started := Started{EndpointID: added.ID, MerchantID: added.MerchantID, EventTypes: added.EventTypes, URL: target, Secret: secret}
	if o.ForwardTo != nil {
		started.ForwardTo = o.ForwardTo.Redacted()
	}
	o.Printer.started(started)
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("listening for webhooks: %w", err)
	}
	return errors.Join(err, end(ctx, e, o, server, added.ID))
}

// add adds the endpoint, whether or not ctx ends meanwhile: whoever adds knows whether it must remove.
func add(ctx context.Context, e endpoints, spec endpoint.Spec) (endpoint.Endpoint, error) {
	adding, cancel := context.WithTimeout(context.WithoutCancel(ctx), addTimeout)
	defer cancel()
	added, _, err := e.Add(adding, spec)
	if invalid, ok := errors.AsType[*fault.Error](err); ok && len(invalid.Fields) == 1 && invalid.Fields["url"] != "" {
		return endpoint.Endpoint{}, &Refused{URL: spec.URL, Reason: invalid.Fields["url"]}
	}
	return added, err
}

// end removes the endpoint first, so that nothing new is planned for a receiver that is going.
func end(ctx context.Context, e endpoints, o Options, server *http.Server, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	parked, err := e.Remove(ctx, id)
	if fault.ClassOf(err) == fault.NotFound { // somebody else did
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("removing endpoint %s, which the next hookline listen on this machine will try again: %w", id, err)
	}
	drain, stop := context.WithTimeout(ctx, drainTimeout)
	defer stop()
	if server.Shutdown(drain) != nil {
		server.Close() // ends what is forwarded, too
	}
	if err != nil {
		return err
	}
	open, err := settle(ctx, e, id)
	if err != nil {
		return fmt.Errorf("counting the deliveries that were open: %w", err)
	}
	o.Printer.ended(parked + open)
	return nil
}

// settle counts the open deliveries once the outcomes of the last answers are written.
func settle(ctx context.Context, e endpoints, id uuid.UUID) (int64, error) {
	open, err := countOpen(ctx, e, id)
	if err != nil || open == 0 {
		return open, err
	}
	settled := time.NewTimer(settleTimeout)
	defer settled.Stop()
	select {
	case <-ctx.Done():
		return open, nil
	case <-settled.C:
		return countOpen(ctx, e, id)
	}
}

func countOpen(ctx context.Context, e endpoints, id uuid.UUID) (int64, error) {
	standing, err := e.Standing(ctx, id)
	open := int64(0)
	for _, each := range standing {
		if each.State != delivery.Dead {
			open += each.Deliveries
		}
	}
	return open, err
}
