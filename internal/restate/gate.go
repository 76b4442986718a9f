package restate

import (
	"context"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

const (
	// callsAtOnce bounds the calls of payments-api: one that hangs holds a slot of Restate's, and deliveries need those, too.
	callsAtOnce = 8
	// gateTimeout of one call. A callback that is not answered comes again, so that it need not wait for as long as others do.
	gateTimeout = 3 * time.Second
	// gateShut is how long nobody calls after a call that was not answered. Then one does.
	gateShut = time.Second
)

// gate lets few calls at once through to payments-api, and none while it is away. Nobody waits at it. It is safe for
// concurrent use.
type gate struct {
	mu      sync.Mutex
	open    int       // calls
	shut    time.Time // until then; zero while payments-api answers
	probing bool      // whether the one is calling that may when that time is over
}

// What is told to those who are not let through.
var (
	errGateFull = fault.New(fault.Unavailable, "too many calls of payments-api wait for an answer")
	errGateShut = fault.New(fault.Unavailable, "payments-api did not answer others")
)

// do calls payments-api, or says why not. After gateTimeout it is away.
func (g *gate) do(ctx context.Context, call func(context.Context) (payment.Payment, error)) (payment.Payment, error) {
	probe, err := g.enter()
	if err != nil {
		return payment.Payment{}, err
	}
	away := true // where the call panics, too
	defer func() { g.leave(probe, away, ctx.Err() != nil) }()
	patient, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	p, err := call(patient)
	away = err != nil && isAway(err)
	return p, err
}

// isAway reports whether the error is none of payments-api's answers.
func isAway(err error) bool {
	switch fault.ClassOf(err) {
	case fault.NotFound, fault.Conflict, fault.Invalid:
		return false
	default:
		return true
	}
}

func (g *gate) enter() (probe bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	probe = !g.shut.IsZero()
	switch {
	case probe && (g.probing || time.Now().Before(g.shut)):
		return false, errGateShut
	case g.open >= callsAtOnce:
		return false, errGateFull
	}
	g.open++
	g.probing = g.probing || probe
	return probe, nil
}

// leave takes what became of the call; one that was broken off says nothing about payments-api.
func (g *gate) leave(probe, away, brokenOff bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if probe {
		g.probing = false
	}
	switch {
	case brokenOff:
	case away:
		g.shut = time.Now().Add(gateShut)
	default:
		g.shut = time.Time{}
	}
}
