package crashtest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/stack"
)

// Options say what to break, and under which load.
type Options struct {
	// Stack is brought up where it is not, and stays up.
	Stack stack.Options
	Token string // API_TOKEN of the services; empty where they want none

	// Fault is injected once. With Random, faults follow one another for Duration instead, drawn by Seed.
	Fault    Fault
	Random   bool
	Duration time.Duration
	Seed     uint64

	Payments  int // at least; where the fault lasts, the load goes on until it is over
	Rate      float64
	Merchants int
	Refunds   float64 // share of the payments that are refunded: a second event each
	// Ordered gives the merchants endpoints that want each payment's events in order, and the payments several changes of
	// status each, one right after the other, instead of refunds.
	Ordered bool
	HangOne bool // the first merchant never answers while the load runs
	Freeze  time.Duration
	Hold    time.Duration // of the long transaction

	// Progress gets a line at a time for a person to read; it may be nil.
	Progress func(line string)

	patience time.Duration // how long nothing may move before what is missing counts as lost
}

const (
	defaultPatience = time.Minute
	// downtime of kindDown.
	downtime = 12 * time.Second
	// The crash loop.
	loopKills    = 7
	loopInterval = 10 * time.Second
	loopBacklog  = 3000
	loopRate     = 300
	loopDelay    = 3 * time.Second // of the slow merchants
	// tailRate is how many payments per second there are at most once the wanted number is made and the fault is not
	// over yet.
	tailRate = 50
	// The volume's loss.
	waitingRetries = 500
	retryAfter     = 15 * time.Second
	// killRetryAfter is as long for kindKillWaiting, where everything else has to come to rest before.
	killRetryAfter = 30 * time.Second
)

// Validate checks what a user chose.
func (o Options) Validate() error {
	switch {
	case o.Payments < 1 || o.Payments > 1_000_000:
		return fmt.Errorf("there are 1 to 1,000,000 payments, not %d", o.Payments)
	case o.Rate <= 0 || o.Rate > 10_000:
		return fmt.Errorf("a rate is up to 10,000 payments per second, not %g", o.Rate)
	case o.Merchants < 1 || o.Merchants > 1000:
		return fmt.Errorf("there are 1 to 1,000 merchants, not %d", o.Merchants)
	case o.Refunds < 0 || o.Refunds > 1:
		return fmt.Errorf("the share of refunds is 0 to 1, not %g", o.Refunds)
	case o.HangOne && o.Merchants < 2:
		return errors.New("with one merchant that hangs there is another one at least")
	case o.Freeze < time.Second || o.Freeze > 10*time.Minute:
		return fmt.Errorf("a freeze lasts 1s to 10m, not %s", o.Freeze)
	case o.Hold < 15*time.Second || o.Hold > time.Hour:
		return fmt.Errorf("the transaction is held 15s to 1h, not %s", o.Hold)
	case o.Random && (o.Duration < 10*time.Second || o.Duration > 24*time.Hour):
		return fmt.Errorf("random faults go on for 10s to 24h, not %s", o.Duration)
	}
	return nil
}

// name is what the run is called in its report.
func (o Options) name() string {
	if o.Random {
		return "random"
	}
	return o.Fault.String()
}

// brief tells a fault that is over in seconds: the load has the wanted number of payments, no more, most of them behind
// the fault.
func (o Options) brief() bool {
	if o.Random || o.Fault.Target == everything {
		return false
	}
	return o.Fault.Kind == kindKill || o.Fault.Kind == kindTerm || o.Fault.Kind == kindNone
}

// complete fills in what follows from the fault.
func (o Options) complete() (Options, error) {
	if err := o.Validate(); err != nil {
		return o, err
	}
	var err error
	if o.Stack, err = o.Stack.Complete(); err != nil {
		return o, err
	}
	if o.Stack.Intake == stack.IntakeSubscription && o.Fault.Kind == kindGroupReset {
		return o, errors.New("the offsets of Restate's own subscription cannot be moved: its group is never empty")
	}
	o.Stack.Environ = impatient(o.Stack.Environ)
	if o.Fault.Kind == kindKillWaiting || o.Fault.Kind == kindVolume {
		// Hundreds of retries are to wait, each for its own timer: an endpoint that is spared would park most of them.
		o.Stack.Environ = append(o.Stack.Environ, "CIRCUIT_OPEN_AT=0")
	}
	if o.patience == 0 {
		o.patience = defaultPatience
	}
	if o.Fault.Kind == kindCrashLoop {
		o.Payments, o.Rate = max(o.Payments, loopBacklog), max(o.Rate, loopRate)
	}
	return o, nil
}

// impatient makes the reconciler and the retries quick: the defaults are for days, a test has minutes. What the
// environment says already stays.
func impatient(environ []string) []string {
	// As many as a schedule may have, for seven minutes.
	schedule := "1s,1s" + strings.Repeat(",2s", 30) + strings.Repeat(",20s", 18)
	out := environ[:len(environ):len(environ)]
	for _, setting := range []string{
		"RECONCILE_INTERVAL=500ms", "RECONCILE_GRACE=1s", "RECONCILE_OVER_AGE=5s", "CIRCUIT_PROBE_AFTER=500ms", "RETRY_SCHEDULE=" + schedule,
	} {
		name, _, _ := strings.Cut(setting, "=")
		set := false
		for _, entry := range environ {
			set = set || strings.HasPrefix(entry, name+"=")
		}
		if !set {
			out = append(out, setting)
		}
	}
	return out
}
