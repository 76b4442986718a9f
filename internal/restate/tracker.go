package restate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	sdk "github.com/restatedev/sdk-go"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/platform/logging"
)

// How much a payment's tracker remembers. A payment has a handful of callbacks.
const (
	maxSeen    = 1000
	maxHistory = 200
	maxParked  = 100
)

// A callback that finds payments-api away comes again after the first wait, then the double, up to the longest; one that
// finds too many others calling, after the short one. Each comes a random part of up to half of it sooner.
const (
	firstWait   = 2 * time.Second
	longestWait = time.Minute
	shortWait   = time.Second
)

// maxTurns bounds how often a change is decided anew because somebody else moved the payment in between.
const maxTurns = 5

// tracked is a callback on its way to the payment.
type tracked struct {
	Event      callback.Event `json:"event"`
	ReceivedAt time.Time      `json:"received_at"`
	// Attempt counts how often payments-api was away; it is 1 when only others were in the way.
	Attempt int `json:"attempt,omitempty"`
	// Overdue says that the callback was parked, and that its predecessor should have come by now.
	Overdue bool `json:"overdue,omitempty"`
}

// started is a change whose request was sent, or is about to be: until its outcome is known, nothing else may move the
// payment. Its answer may be lost, and a payment can come back to a status that it had.
type started struct {
	tracked
	Version int64 `json:"version"` // of the payment before
}

// The names of a tracker's state, which Restate's UI shows.
const (
	stateHistory = "history"
	stateSeen    = "seen"
	stateParked  = "parked"
	stateStarted = "started"
	stateDispute = "dispute"
)

// reading is a payment as payments-api said it is, or why that is not known. A value, so that an invocation ends instead
// of holding its slot while payments-api is away.
type reading struct {
	At      time.Time      `json:"at"`
	Status  payment.Status `json:"status,omitempty"`
	Version int64          `json:"version,omitempty"`
	Problem problem        `json:"problem,omitempty"`
	Detail  string         `json:"detail,omitempty"`
}

type problem string

const (
	problemAway    problem = "away"    // it may or may not have done what it was asked for
	problemBusy    problem = "busy"    // it was not asked, as too many others were asking
	problemMissing problem = "missing" // there is no such payment
	problemRefused problem = "refused" // the payment cannot become that
)

// undecided reports whether nothing can be decided with it.
func (p problem) undecided() bool { return p == problemAway || p == problemBusy }

// tracker is one payment's callbacks during one execution.
type tracker struct {
	*Callbacks
	ctx     sdk.ObjectContext
	history []callback.Entry
	seen    []string  // keys of the events that were decided about, oldest first
	parked  []tracked // those of them that wait for their predecessor
	started *started
	dispute callback.Dispute
	now     reading
	counts  []func()
}

// undecided is the outcome of a callback that has to come again.
const undecided callback.Outcome = ""

// apply decides about a callback, and then about those whose turn has come by it. It returns the outcome, undecided where
// payments-api is away and the callback comes again.
//
// The process may be killed at any line: what was journaled is not done again. Between the answer to a change and its
// journal entry the change is sent twice, which payments-api takes for one.
func (c *Callbacks) apply(ctx sdk.ObjectContext, m tracked) (callback.Outcome, error) {
	t := &tracker{Callbacks: c, ctx: ctx}
	if err := t.load(); err != nil {
		return undecided, err
	}
	if slices.Contains(t.seen, m.Event.Key()) && !t.isParked(m) {
		if m.Attempt == 0 && !m.Overdue {
			c.count(m.Event.Provider, string(callback.AlreadyThere))
		}
		return callback.AlreadyThere, nil
	}
	outcome, err := t.run(m)
	if err != nil {
		return undecided, err
	}
	t.save()
	for _, count := range t.counts {
		count()
	}
	return outcome, nil
}

func (t *tracker) run(m tracked) (callback.Outcome, error) {
	if err := t.look(m); err != nil {
		return undecided, err
	}
	if t.now.Problem.undecided() {
		t.again(m)
		return undecided, nil
	}
	if first := t.started; first != nil && first.Event.Key() != m.Event.Key() {
		outcome, err := t.decide(first.tracked)
		if err != nil {
			return undecided, err
		}
		if outcome == undecided {
			t.again(m)
			return undecided, nil
		}
	}
	outcome, err := t.decide(m)
	if err != nil {
		return undecided, err
	}
	if outcome == undecided {
		t.again(m)
		return undecided, nil
	}
	for {
		next := t.turn()
		if next == nil {
			return outcome, nil
		}
		other, err := t.decide(*next)
		if err != nil {
			return undecided, err
		}
		if other == undecided {
			t.again(*next)
			return outcome, nil
		}
	}
}

// decide takes one callback as far as it goes.
func (t *tracker) decide(m tracked) (callback.Outcome, error) {
	outcome, err := t.take(m)
	if err != nil || outcome == undecided {
		return undecided, err
	}
	if err := t.conclude(m, outcome); err != nil {
		return undecided, err
	}
	return outcome, nil
}

func (t *tracker) take(m tracked) (callback.Outcome, error) {
	change := m.Event.Change
	for range maxTurns {
		switch t.now.Problem {
		case problemAway, problemBusy:
			return undecided, nil
		case problemMissing:
			return callback.UnknownPayment, nil
		case problemRefused: // it was looked at again since
		}
		if t.hasMoved(m) {
			return callback.Applied, nil
		}
		switch t.dispute.Decide(t.now.Status, m.Event) {
		case callback.Early:
			return callback.Parked, nil
		case callback.Repeated:
			return callback.AlreadyThere, nil
		case callback.Stale:
			return callback.Overtaken, nil
		case callback.Contradiction:
			return callback.Contradicts, nil
		case callback.Apply:
		}
		version := t.now.Version // only of what was decided about
		t.started = &started{tracked: m, Version: version}
		sdk.Set(t.ctx, stateStarted, t.started)
		moved, err := t.ask(m, "change status", func(ctx context.Context) (payment.Payment, error) {
			return t.payments.ChangeStatus(ctx, m.Event.PaymentID, version, change.To)
		})
		if err != nil {
			return undecided, err
		}
		if moved.Problem != problemRefused {
			t.now = moved
			if moved.Problem == "" {
				return callback.Applied, nil
			}
			continue
		}
		if err := t.look(m); err != nil { // somebody else has moved it
			return undecided, err
		}
	}
	return undecided, nil
}

// hasMoved reports whether the payment has moved by this change, whose answer was lost: from the version that it had when
// the change was sent, it has come to or through the status. Without this the end of a dispute that was applied would look
// like one that is early.
func (t *tracker) hasMoved(m tracked) bool {
	if t.started == nil || t.started.Event.Key() != m.Event.Key() || t.now.Version <= t.started.Version {
		return false
	}
	verdict := callback.Decide(t.now.Status, callback.Change{To: m.Event.Change.To})
	return verdict == callback.Repeated || verdict == callback.Stale
}

// conclude writes the outcome down.
func (t *tracker) conclude(m tracked, outcome callback.Outcome) error {
	key := m.Event.Key()
	if t.started != nil && t.started.Event.Key() == key {
		t.started = nil
		sdk.Clear(t.ctx, stateStarted)
	}
	wasParked := t.isParked(m)
	t.parked = slices.DeleteFunc(t.parked, func(p tracked) bool { return p.Event.Key() == key })
	dead := ""
	switch outcome {
	case callback.UnknownPayment:
		dead = delivery.ReasonCallbackUnknownPayment
	case callback.Contradicts:
		dead = delivery.ReasonCallbackContradicts
	case callback.Parked:
		if m.Overdue || len(t.parked) >= maxParked {
			dead = delivery.ReasonCallbackEarly
		}
	default:
	}
	t.write(m, outcome)
	t.dispute = t.dispute.After(m.Event, outcome)
	t.counts = append(t.counts, func() { t.count(m.Event.Provider, string(outcome)) })
	if dead != "" {
		// It is not seen: driven again, it is decided again.
		t.seen = slices.DeleteFunc(t.seen, func(s string) bool { return s == key })
		return t.buryEvent(m.Event, dead)
	}
	if !slices.Contains(t.seen, key) {
		t.seen = last(append(t.seen, key), maxSeen)
	}
	if outcome == callback.Parked {
		m.Attempt = 0
		t.parked = append(t.parked, m)
		if !wasParked {
			m.Overdue = true
			t.send(m, t.parkedFor)
		}
	}
	return nil
}

// write puts the callback into the history, or changes what stands there.
func (t *tracker) write(m tracked, outcome callback.Outcome) {
	i := slices.IndexFunc(t.history, func(e callback.Entry) bool { return e.Provider == m.Event.Provider && e.EventID == m.Event.ID })
	if i < 0 {
		i = len(t.history)
		t.history = append(t.history, callback.Entry{
			Provider: m.Event.Provider, EventID: m.Event.ID, Type: m.Event.Type, Status: m.Event.Change.To, OccurredAt: m.Event.OccurredAt, ReceivedAt: m.ReceivedAt,
		})
	}
	if t.history[i].Outcome != outcome {
		t.history[i].Outcome, t.history[i].DecidedAt = outcome, t.now.At
	}
	t.history = last(t.history, maxHistory)
}

func (t *tracker) buryEvent(e callback.Event, reason string) error {
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding a callback's event: %w", err)
	}
	detail := fmt.Sprintf("event %s of type %s: payment %s is %s", e.ID, e.Type, e.PaymentID, t.now.Status)
	if t.now.Problem == problemMissing {
		detail = fmt.Sprintf("event %s of type %s: there is no payment %s", e.ID, e.Type, e.PaymentID)
	}
	return t.bury(t.ctx, e.Provider, reason, detail, []byte(e.PaymentID.String()), value)
}

// turn is the oldest parked callback that is not early any more: its turn has come, or has passed.
func (t *tracker) turn() *tracked {
	var next *tracked
	for i := range t.parked {
		p := &t.parked[i]
		if t.dispute.Decide(t.now.Status, p.Event) != callback.Early && (next == nil || p.Event.OccurredAt.Before(next.Event.OccurredAt)) {
			next = p
		}
	}
	return next
}

func (t *tracker) isParked(m tracked) bool {
	return slices.ContainsFunc(t.parked, func(p tracked) bool { return p.Event.Key() == m.Event.Key() })
}

// look reads the payment as it is now.
func (t *tracker) look(m tracked) error {
	now, err := t.ask(m, "read payment", func(ctx context.Context) (payment.Payment, error) {
		return t.payments.Payment(ctx, m.Event.PaymentID)
	})
	t.now = now
	return err
}

// ask asks payments-api in a step.
func (t *tracker) ask(m tracked, name string, do func(context.Context) (payment.Payment, error)) (reading, error) {
	r, err := sdk.Run(t.ctx, func(run sdk.RunContext) (reading, error) {
		p, err := t.gate.do(run, do)
		if run.Err() != nil {
			return reading{}, run.Err() // it was not payments-api
		}
		r := reading{At: now(), Status: p.Status, Version: p.Version}
		if err == nil {
			return r, nil
		}
		r.Detail = err.Error()
		level := slog.LevelDebug // one that was let through says it for all
		switch class := fault.ClassOf(err); {
		case class == fault.NotFound:
			r.Problem = problemMissing
			return r, nil
		case class == fault.Conflict:
			r.Problem = problemRefused
			return r, nil
		case errors.Is(err, errGateFull):
			r.Problem = problemBusy
		case errors.Is(err, errGateShut):
			r.Problem = problemAway
		default:
			r.Problem, level = problemAway, slog.LevelWarn
		}
		t.log.LogAttrs(run, level, "a callback waits for payments-api", slog.String("payment_id", m.Event.PaymentID.String()),
			slog.String("event", m.Event.Key()), slog.Int("attempt", m.Attempt), logging.Error(err))
		return r, nil
	}, sdk.WithName(name))
	if err != nil {
		return reading{}, err
	}
	return r, nil
}

// again sends the callback to this tracker once more, after a wait that holds nothing.
func (t *tracker) again(m tracked) {
	wait := longestWait
	if t.now.Problem == problemBusy {
		wait, m.Attempt = shortWait, max(m.Attempt, 1)
	} else {
		if m.Attempt < 5 {
			wait = min(wait, firstWait<<m.Attempt)
		}
		m.Attempt++
	}
	wait -= time.Duration(sdk.Rand(t.ctx).Int64N(int64(wait / 2))) // or they all come at once
	t.send(m, wait)
	t.counts = append(t.counts, func() { t.count(m.Event.Provider, outcomeWaiting) })
}

func (t *tracker) send(m tracked, delay time.Duration) {
	sdk.ObjectSend(t.ctx, TrackerService, m.Event.PaymentID.String(), ApplyHandler).Send(m, sdk.WithDelay(delay))
}

func (t *tracker) load() error {
	var errs [5]error
	t.history, errs[0] = get[[]callback.Entry](t.ctx, stateHistory)
	t.seen, errs[1] = get[[]string](t.ctx, stateSeen)
	t.parked, errs[2] = get[[]tracked](t.ctx, stateParked)
	t.started, errs[3] = get[*started](t.ctx, stateStarted)
	t.dispute, errs[4] = get[callback.Dispute](t.ctx, stateDispute)
	return errors.Join(errs[:]...)
}

func (t *tracker) save() {
	set(t.ctx, stateHistory, t.history)
	set(t.ctx, stateSeen, t.seen)
	set(t.ctx, stateParked, t.parked)
	if !t.dispute.At.IsZero() {
		sdk.Set(t.ctx, stateDispute, t.dispute)
	}
}

// set keeps nothing of an empty list.
func set[T any](ctx sdk.ObjectContext, name string, list []T) {
	if len(list) == 0 {
		sdk.Clear(ctx, name)
		return
	}
	sdk.Set(ctx, name, list)
}

// history answers while apply runs.
func (*Callbacks) history(ctx sdk.ObjectSharedContext, _ sdk.Void) ([]callback.Entry, error) {
	entries, err := get[[]callback.Entry](ctx, stateHistory)
	if entries == nil {
		entries = []callback.Entry{}
	}
	return entries, err
}

// get is sdk.Get with an error that may be compared with nil.
func get[T any](ctx sdk.ObjectSharedContext, name string) (T, error) {
	value, err := sdk.Get[T](ctx, name)
	if err != nil {
		return value, err
	}
	return value, nil
}

// last is the end of the list, at most that long.
func last[T any](list []T, most int) []T {
	return list[max(0, len(list)-most):]
}
