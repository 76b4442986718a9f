// Package redrive drives again what is dead: records that the present code can read, events whose row has appeared or whose
// webhook has become small enough, and deliveries that ran out of attempts. Whatever it drives goes the ordinary way and
// meets the ordinary keys and epochs, so that it may be repeated, and cut short, at any time.
package redrive

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

// ledger is where the records are, and the deliveries that died with them.
type ledger interface {
	Revive(ctx context.Context, eventID uuid.UUID) ([]delivery.Overdue, error)
	Fates(ctx context.Context, eventIDs []uuid.UUID) (map[uuid.UUID]delivery.Fate, error)
	MarkRedriven(ctx context.Context, record delivery.Buried) (bool, error)
}

// driver hands over what is driven. Dispatch returns when the batch's invocation has ended.
type driver interface {
	Dispatch(ctx context.Context, key string, batch []event.Ref) error
	SendAttempt(ctx context.Context, list delivery.AttemptList) error
	callbackDriver
}

// Redriver drives dead records again.
type Redriver struct {
	ledger ledger
	driver driver
}

// New makes a Redriver.
func New(l ledger, d driver) *Redriver { return &Redriver{ledger: l, driver: d} }

// Redrive drives a record as it was read, and closes it. It returns in a few words what it did. A fault.Conflict error
// means that the record is as dead as it was, for the reason that the error says; it stays open, as with any error. A record
// that fails again later is opened again by that.
func (r *Redriver) Redrive(ctx context.Context, record delivery.Buried) (string, error) {
	var did string
	var err error
	switch {
	case isCallback(record):
		did, err = r.callback(ctx, record)
	case record.Reason == delivery.ReasonUndecodable || record.Reason == delivery.ReasonUnplannable:
		did, err = r.plan(ctx, record)
	default:
		did, err = r.revive(ctx, record.EventID)
	}
	if err != nil {
		return "", err
	}
	closed, err := r.ledger.MarkRedriven(ctx, record)
	if err != nil {
		return "", err
	}
	if !closed {
		return "", fault.New(fault.Conflict, "it was driven again, and failed again")
	}
	return did, nil
}

// EventOf is the event that a record is about, as far as its bytes tell; Nil where they do not.
func EventOf(record delivery.Buried) uuid.UUID {
	if record.EventID != uuid.Nil || isCallback(record) {
		return record.EventID
	}
	ref, err := event.DecodeRecord(record.Value)
	if err != nil && record.Reason != delivery.ReasonUndecodable {
		return uuid.Nil
	}
	return ref.ID // what cannot be read as a whole may still name its event
}

// plan hands the event of a record over as the intake would have. The value of an unplannable record is a pointer, too.
func (r *Redriver) plan(ctx context.Context, record delivery.Buried) (string, error) {
	ref, unreadable := event.DecodeRecord(record.Value)
	fates, err := r.ledger.Fates(ctx, []uuid.UUID{ref.ID})
	if err != nil {
		return "", err
	}
	if fate, planned := fates[ref.ID]; planned { // its record came again, or the reconciler found it
		return "was planned meanwhile: " + Describe(fate), nil
	}
	if unreadable != nil {
		return "", fault.Wrap(unreadable, fault.Conflict, "it still cannot be read")
	}
	if err := r.driver.Dispatch(ctx, rand.Text(), []event.Ref{ref}); err != nil {
		return "", fmt.Errorf("driving event %s: %w", ref.ID, err)
	}
	fates, err = r.ledger.Fates(ctx, []uuid.UUID{ref.ID})
	if err != nil {
		return "", err
	}
	fate, planned := fates[ref.ID]
	if !planned {
		return "", fault.New(fault.Conflict, "event %s still cannot be planned", ref.ID)
	}
	return "planned: " + Describe(fate), nil
}

// revive makes the attempts that the record stands for possible again, and has them made.
func (r *Redriver) revive(ctx context.Context, eventID uuid.UUID) (string, error) {
	revived, err := r.ledger.Revive(ctx, eventID)
	if err != nil {
		return "", err
	}
	if len(revived) == 0 {
		fates, err := r.ledger.Fates(ctx, []uuid.UUID{eventID})
		if err != nil {
			return "", err
		}
		fate, planned := fates[eventID]
		if !planned {
			return "", fault.New(fault.Conflict, "event %s has no plan any more", eventID)
		}
		return "nothing to drive: " + Describe(fate), nil
	}
	for _, list := range delivery.AttemptLists(revived) {
		if err := r.driver.SendAttempt(ctx, list); err != nil {
			return "", fmt.Errorf("sending attempts of event %s, which the reconciler will find overdue: %w", eventID, err)
		}
	}
	return fmt.Sprintf("%d deliveries are attempted again", len(revived)), nil
}

// Describe says a fate in words.
func Describe(fate delivery.Fate) string {
	if len(fate) == 0 {
		return "no endpoint takes it"
	}
	words := make([]string, 0, len(fate))
	for state, n := range fate {
		words = append(words, fmt.Sprintf("%d %s", n, state))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
