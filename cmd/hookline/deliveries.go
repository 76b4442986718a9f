package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
)

// mostListed bounds a list of deliveries.
const mostListed = 10_000

var listedStates = []delivery.State{delivery.Dead, delivery.Parked, delivery.Waiting, delivery.Retrying, delivery.Pending, delivery.Succeeded}

func deliveries(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	const verbs = "want `deliveries list`, `deliveries show` or `deliveries retry`"
	if len(args) == 0 {
		return wrongUsage(verbs)
	}
	switch args[0] {
	case "list":
		return listDeliveries(ctx, args[1:], stdout)
	case "show":
		return showDeliveries(ctx, args[1:], stdout)
	case "retry":
		return retryDeliveries(ctx, args[1:], stdout, stderr)
	case "-h", "-help", "--help":
		return helpError("Usage: hookline deliveries list [flags]\n       hookline deliveries show EVENT [flags]\n" +
			"       hookline deliveries retry EVENT|--endpoint E|--merchant M [flags]\n\nEach has --help.\n")
	default:
		return wrongUsage(verbs)
	}
}

func listDeliveries(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("deliveries list")
	dir := dirFlag(fs)
	var f delivery.Filter
	fs.Func("state", "only those in this `state`: "+join(listedStates), func(text string) error {
		f.State = delivery.State(text)
		if !slices.Contains(listedStates, f.State) {
			return fmt.Errorf("want one of %s", join(listedStates))
		}
		return nil
	})
	fs.StringVar(&f.MerchantID, "merchant", "", "only this merchant's `id`")
	idFlag(fs, &f.EndpointID, "endpoint", "only at the endpoint of this `id`")
	idFlag(fs, &f.EventID, "event", "only of the event of this `id`")
	timeFlag(fs, &f.Since, "since", "only of events since this `time`")
	timeFlag(fs, &f.Until, "until", "only of events until this `time`")
	limit := fs.Int("limit", 50, "at most this `number`")
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "deliveries list [flags]",
		"Lists deliveries, the newest event first"+ofLedger+"\nTimes are as 2026-02-28T12:00:00Z, as 2026-02-28 in UTC, or as 2h30m for so long ago."); err != nil {
		return err
	}
	if *limit < 1 || *limit > mostListed {
		return wrongUsage("--limit %d: want 1 to %d", *limit, mostListed)
	}
	ledger, _, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	return printDeliveries(ctx, ledger.Ledger, f, *limit, *asJSON, stdout)
}

func join[T ~string](words []T) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, ", ")
}

func idFlag(fs *flag.FlagSet, into *uuid.UUID, name, usage string) {
	fs.Func(name, usage, func(text string) error {
		id, err := parseID(text)
		*into = id
		return err
	})
}

func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || id == uuid.Nil {
		return uuid.Nil, fmt.Errorf("%q is not a UUID", clean(text, 60))
	}
	return id, nil
}

func timeFlag(fs *flag.FlagSet, into *time.Time, name, usage string) {
	fs.Func(name, usage, func(text string) error {
		at, err := parseTime(text, time.Now())
		*into = at
		return err
	})
}

func parseTime(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		return at, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("want a time as 2026-02-28T12:00:00Z, a day as 2026-02-28, or 2h30m for so long ago")
}

// shownDelivery is a delivery as it is printed.
type shownDelivery struct {
	EventID    string               `json:"event_id"`
	EndpointID string               `json:"endpoint_id"`
	Generation int64                `json:"generation"` // 0, or the replay's id
	MerchantID string               `json:"merchant_id"`
	EventType  string               `json:"event_type,omitempty"`
	State      delivery.State       `json:"state"`
	Attempts   int                  `json:"attempts"`
	Cause      delivery.Cause       `json:"cause,omitempty"` // the last
	Meaning    delivery.Explanation `json:"meaning,omitzero"`
	PlannedAt  time.Time            `json:"planned_at"`
	NextAt     time.Time            `json:"next_attempt_at,omitzero"`
	EndedAt    time.Time            `json:"ended_at,omitzero"`
}

func shownAs(s delivery.Standing) shownDelivery {
	out := shownDelivery{
		EventID: s.EventID.String(), EndpointID: s.EndpointID.String(), Generation: s.Generation, MerchantID: s.MerchantID, EventType: s.EventType,
		State: s.State, Attempts: s.Attempts, Cause: s.Cause, PlannedAt: s.PlannedAt.UTC(), NextAt: s.NextAttemptAt.UTC(), EndedAt: s.EndedAt.UTC(),
	}
	if s.Cause != "" {
		out.Meaning = s.Cause.Explain()
	}
	return out
}

// standing is the state, and which replay it is of.
func (d shownDelivery) standing() string {
	if d.Generation == 0 {
		return string(d.State)
	}
	return fmt.Sprintf("%s (replay %d)", d.State, d.Generation)
}

// next is when something happens to it.
func (d shownDelivery) next() string {
	switch {
	case !d.NextAt.IsZero():
		return "next " + d.NextAt.Format(time.RFC3339)
	case !d.EndedAt.IsZero():
		return "ended " + d.EndedAt.Format(time.RFC3339)
	default:
		return "no time set"
	}
}

func printDeliveries(ctx context.Context, ledger *postgres.Ledger, f delivery.Filter, limit int, asJSON bool, stdout io.Writer) error {
	// One more than is shown tells whether there are more.
	listed, beyond, err := ledger.Deliveries(ctx, f, limit+1)
	if err != nil {
		return err
	}
	more := len(listed) > limit
	listed = listed[:min(len(listed), limit)]
	out := make([]shownDelivery, len(listed))
	for i, s := range listed {
		out[i] = shownAs(s)
	}
	if asJSON {
		unseen := ""
		if beyond != uuid.Nil {
			unseen = delivery.EventTime(beyond).Format(time.RFC3339Nano)
		}
		return printJSON(stdout, struct {
			Deliveries []shownDelivery `json:"deliveries"`
			More       bool            `json:"more"`
			Unseen     string          `json:"not_looked_at_until,omitempty"`
		}{out, more, unseen})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, d := range out {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.EventID, clean(d.EventType, 40), clean(d.MerchantID, 40), d.EndpointID, d.standing(),
			d.Attempts, cmp.Or(d.Meaning.What, "no attempt yet"), d.next())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	switch {
	case more:
		fmt.Fprintf(stdout, "and more: --limit is %d\n", limit)
	case beyond != uuid.Nil:
		fmt.Fprintf(stdout, "looked no further back than %[1]s: go on with --until %[1]s\n", delivery.EventTime(beyond).Format(time.RFC3339Nano))
	}
	return nil
}

func showDeliveries(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("deliveries show")
	dir := dirFlag(fs)
	var endpointID uuid.UUID
	idFlag(fs, &endpointID, "endpoint", "only at the endpoint of this `id`")
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	rest, err := parse(fs, args, 1, "deliveries show EVENT [flags]", "Shows what became of an event: every delivery with every attempt"+ofLedger)
	if err != nil {
		return err
	}
	eventID, err := eventOf(rest)
	if err != nil {
		return err
	}
	if eventID == uuid.Nil {
		return wrongUsage("want the id of an event; hookline deliveries list names them")
	}
	ledger, _, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	return printHistory(ctx, ledger.Ledger, eventID, endpointID, *asJSON, stdout)
}

// eventOf is the event that an argument names; Nil without one.
func eventOf(rest []string) (uuid.UUID, error) {
	if len(rest) == 0 {
		return uuid.Nil, nil
	}
	id, err := parseID(rest[0])
	if err != nil {
		return uuid.Nil, wrongUsage("%s: want the id of an event", err)
	}
	return id, nil
}

// shownAttempt is an attempt as it is printed.
type shownAttempt struct {
	Number     int                  `json:"number"`
	At         time.Time            `json:"at"`
	StatusCode int                  `json:"status_code,omitempty"`
	LatencyMS  int64                `json:"latency_ms"`
	Cause      delivery.Cause       `json:"cause"`
	Meaning    delivery.Explanation `json:"meaning"`
	Owner      string               `json:"owner"`
	BodySHA256 string               `json:"body_sha256,omitempty"`
	Answer     shown                `json:"answer,omitzero"`
}

// shownGeneration is a delivery with its attempts.
type shownGeneration struct {
	shownDelivery
	Owner    string         `json:"owner,omitempty"`
	URL      string         `json:"url,omitempty"` // absent where the endpoint was removed
	Disabled string         `json:"disabled,omitempty"`
	Made     []shownAttempt `json:"made"`
	answers  []string
}

type shownHistory struct {
	EventID       string            `json:"event_id"`
	EventType     string            `json:"event_type"`
	MerchantID    string            `json:"merchant_id"`
	ObjectType    string            `json:"object_type"`
	ObjectID      string            `json:"object_id"`
	ObjectVersion int64             `json:"object_version"`
	PlannedAt     time.Time         `json:"planned_at"`
	PlannedBy     string            `json:"planned_by"`
	Route         string            `json:"route"`
	Deliveries    []shownGeneration `json:"deliveries"`
}

func shownHistoryOf(h delivery.History) shownHistory {
	out := shownHistory{
		EventID: h.EventID.String(), EventType: h.EventType, MerchantID: h.MerchantID, ObjectType: h.ObjectType, ObjectID: h.ObjectID,
		ObjectVersion: h.ObjectVersion, PlannedAt: h.PlannedAt.UTC(), PlannedBy: h.PlannedBy, Route: h.Route, Deliveries: []shownGeneration{},
	}
	for _, s := range h.Deliveries {
		g := shownGeneration{shownDelivery: shownAs(s), Owner: s.Owner, Made: []shownAttempt{}}
		if target, found := h.Targets[s.EndpointID]; found {
			g.URL, g.Disabled = target.URL, target.Reason
		}
		for _, m := range h.Attempts[s.Key] {
			g.Made = append(g.Made, shownAttempt{
				Number: m.Number, At: m.At.UTC(), StatusCode: m.StatusCode, LatencyMS: m.Latency.Milliseconds(), Cause: m.Cause, Meaning: m.Cause.Explain(),
				Owner: m.Owner, BodySHA256: hex.EncodeToString(m.BodySHA256), Answer: bytesOf(m.Answer),
			})
			g.answers = append(g.answers, clean(string(m.Answer), 200))
		}
		out.Deliveries = append(out.Deliveries, g)
	}
	return out
}

func printHistory(ctx context.Context, ledger *postgres.Ledger, eventID, endpointID uuid.UUID, asJSON bool, stdout io.Writer) error {
	history, err := ledger.History(ctx, eventID, endpointID)
	if err != nil {
		return err
	}
	h := shownHistoryOf(history)
	if asJSON {
		return printJSON(stdout, h)
	}
	fmt.Fprintf(stdout, "event     %s\ntype      %s\nmerchant  %s\nobject    %s %s, version %d\nplanned   %s by %s\n", h.EventID, clean(h.EventType, 0),
		clean(h.MerchantID, 0), clean(h.ObjectType, 0), clean(h.ObjectID, 0), h.ObjectVersion, h.PlannedAt.Format(time.RFC3339Nano), clean(h.PlannedBy, 0))
	if len(h.Deliveries) == 0 {
		if endpointID != uuid.Nil {
			fmt.Fprintln(stdout, "\nnot planned for this endpoint: it was added later, was disabled by then, or does not take the type")
		} else {
			fmt.Fprintln(stdout, "\nno endpoint took it when it was planned")
		}
	}
	for _, d := range h.Deliveries {
		fmt.Fprintf(stdout, "\nendpoint  %s  %s\nstanding  %s, attempts: %d, %s\n", d.EndpointID, place(d), d.standing(), d.Attempts, d.next())
		if d.Owner != "" {
			fmt.Fprintf(stdout, "held by   %s\n", clean(d.Owner, 0))
		}
		if d.Cause != "" {
			fmt.Fprintf(stdout, "cause     %s\n", explained(d.Cause))
		}
		for i, a := range d.Made {
			answered := "no answer"
			if a.StatusCode != 0 {
				answered = strconv.Itoa(a.StatusCode)
			}
			fmt.Fprintf(stdout, "  %d  %s  %s in %d ms  %s\n", a.Number, a.At.Format(time.RFC3339Nano), answered, a.LatencyMS, explained(a.Cause))
			if answer := d.answers[i]; answer != "" {
				fmt.Fprintf(stdout, "     answered %s\n", answer)
			}
			fmt.Fprintf(stdout, "     body SHA-256 %s, sent by %s\n", cmp.Or(a.BodySHA256, "none"), clean(a.Owner, 0))
		}
	}
	return nil
}

func place(d shownGeneration) string {
	switch {
	case d.URL == "":
		return "(removed)"
	case d.Disabled != "":
		return clean(d.URL, 0) + " (disabled: " + d.Disabled + ")"
	default:
		return clean(d.URL, 0)
	}
}

func explained(c delivery.Cause) string {
	e := c.Explain()
	text := string(c) + ": " + e.What
	if e.What == string(c) {
		text = clean(e.What, 0)
	}
	if e.Do != "" {
		text += "; " + e.Do
	}
	return text
}

func retryDeliveries(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("deliveries retry")
	dir := dirFlag(fs)
	order := redrive.Order{}
	selection := &order.Replay.Selection
	idFlag(fs, &selection.EndpointID, "endpoint", "those at the endpoint of this `id`")
	fs.StringVar(&selection.MerchantID, "merchant", "", "those of this merchant's `id`")
	timeFlag(fs, &selection.Since, "since", "of events since this `time`")
	timeFlag(fs, &selection.Until, "until", "of events until this `time`")
	fs.Func("cause", "those whose last `cause` is this one", func(text string) error {
		selection.Cause = delivery.Cause(text)
		if selection.Cause.Explain().What == text {
			return fmt.Errorf("there is no such cause; hookline deliveries list --json names them")
		}
		return nil
	})
	state := fs.String("state", string(delivery.Dead), "in this `state`: there is only dead to choose")
	fs.BoolVar(&selection.EvenSucceeded, "even-succeeded", false, "also what the merchant has already: it gets the event once more, under the same id")
	fs.Int64Var(&order.Replay.ID, "replay", 0, "take up the replay of this `id`, which was cut short")
	fs.IntVar(&order.Rate, "rate", 200, "hand over at most this `number` of deliveries a second")
	fs.BoolVar(&order.DryRun, "dry-run", false, "only say what would be done")
	fs.StringVar(&order.Replay.RequestedBy, "by", requester(), "`name` of who wants it, for the replay's record")
	ingress := fs.String("ingress", os.Getenv(envIngressURL), "`URL` of Restate's ingress ("+envIngressURL+"; default the stack's, or http://127.0.0.1:8080)")
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	rest, err := parse(fs, args, 1, "deliveries retry EVENT|--endpoint E|--merchant M|--replay ID [flags]",
		"Sends dead deliveries once more, as a new generation with its whole retry schedule and the same webhook-id"+ofLedger+
			"\nThere the role must be one that may write delivery.replays. What cannot be handed over now is sent by the worker's reconciler."+
			"\nTimes are as 2026-02-28T12:00:00Z, as 2026-02-28 in UTC, or as 2h30m for so long ago.")
	if err != nil {
		return err
	}
	if selection.EventID, err = eventOf(rest); err != nil {
		return err
	}
	if *state != string(delivery.Dead) {
		return wrongUsage("--state %s: only what is dead is retried; the rest is under way, or has succeeded (see --even-succeeded)", clean(*state, 40))
	}
	if err := checkOrder(order); err != nil {
		return err
	}
	ledger, status, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	calls := openIngress(*ingress, status)
	defer calls.Close()
	return retry(ctx, redrive.NewRetrier(ledger.Ledger, calls), order, *asJSON, stdout, stderr)
}

// checkOrder finds what the command line names twice, or not at all.
func checkOrder(order redrive.Order) error {
	s := order.Replay.Selection
	if order.Rate < 1 || order.Rate > redrive.MaxRate {
		return wrongUsage("--rate %d: want 1 to %d", order.Rate, redrive.MaxRate)
	}
	if strings.TrimSpace(order.Replay.RequestedBy) == "" {
		return wrongUsage("--by is empty")
	}
	bounded := !s.Since.IsZero() || !s.Until.IsZero() || s.Cause != ""
	switch {
	case order.Replay.ID < 0:
		return wrongUsage("--replay %d: want a positive number", order.Replay.ID)
	case order.Replay.ID != 0:
		if s != (redrive.Selection{}) {
			return wrongUsage("--replay knows what it is to take up: want no event and no other choice beside it")
		}
	case s.EventID != uuid.Nil && (s.MerchantID != "" || bounded):
		return wrongUsage("with an event only --endpoint narrows it down")
	case s.EventID == uuid.Nil && s.EndpointID == uuid.Nil && s.MerchantID == "":
		return wrongUsage("want an event, --endpoint or --merchant; hookline deliveries list --state dead names them")
	case s.EndpointID != uuid.Nil && s.MerchantID != "":
		return wrongUsage("want either --endpoint or --merchant")
	case !s.Since.IsZero() && !s.Until.IsZero() && s.Until.Before(s.Since):
		return wrongUsage("--until is before --since")
	}
	return nil
}

// requester is who runs the command, as far as the machine tells.
func requester() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// because says why a delivery is left as it is.
var because = map[redrive.Verdict]string{
	redrive.EndpointGone: "the endpoint was removed, and there is nowhere to send to",
	redrive.HasSucceeded: "it has succeeded: --even-succeeded sends it once more",
	redrive.UnderWay:     "it is under way, or parked",
	redrive.OtherCause:   "it died of another cause",
	redrive.Taken:        "this replay, or a later one, has taken it",
}

type retried struct {
	Replay   int64                   `json:"replay,omitempty"`
	DryRun   bool                    `json:"dry_run"`
	Verdicts map[redrive.Verdict]int `json:"deliveries"`
	Handed   int                     `json:"handed_over"`
	HandOver string                  `json:"hand_over_error,omitempty"`
}

// retry carries out the order, and fails where it names one event and nothing of it can be retried.
func retry(ctx context.Context, retrier *redrive.Retrier, order redrive.Order, asJSON bool, stdout, stderr io.Writer) error {
	ofEvent := order.Replay.Selection.EventID != uuid.Nil
	progress, err := retrier.Retry(ctx, order, func(judged []redrive.Judgement, p redrive.Progress) {
		switch {
		case ofEvent && !asJSON:
			for _, j := range judged {
				fmt.Fprintf(stdout, "%s at %s: %s\n", j.EventID, j.EndpointID, told(j.Verdict, order.DryRun))
			}
		case order.DryRun:
			fmt.Fprintf(stderr, "endpoint %s, events until %s: %s\n", judged[0].EndpointID, delivery.EventTime(judged[len(judged)-1].EventID).Format(time.RFC3339), tally(p.Verdicts))
		default:
			fmt.Fprintf(stderr, "replay %d: %d made, %d handed over\n", p.Replay.ID, p.Made(), p.Handed)
		}
	})
	if err != nil {
		// Not in the error: who interrupts the command is not shown it.
		if progress.Made() > 0 && !order.DryRun {
			fmt.Fprintf(stderr, "replay %[1]d: %[2]d are made and will be sent; hookline deliveries retry --replay %[1]d takes up the rest\n",
				progress.Replay.ID, progress.Made())
		}
		return err
	}
	if asJSON {
		r := retried{Replay: progress.Replay.ID, DryRun: order.DryRun, Verdicts: progress.Verdicts, Handed: progress.Handed}
		if progress.HandOver != nil {
			r.HandOver = progress.HandOver.Error()
		}
		if err := printJSON(stdout, r); err != nil {
			return err
		}
	} else {
		printRetried(stdout, order, progress)
	}
	if ofEvent && progress.Made() == 0 {
		return fault.New(fault.Conflict, "nothing of event %s can be retried", order.Replay.Selection.EventID)
	}
	return nil
}

func told(v redrive.Verdict, dryRun bool) string {
	switch {
	case v == redrive.Send && dryRun:
		return "would be sent"
	case v == redrive.Send:
		return "to be sent once more"
	case v == redrive.Park && dryRun:
		return "would be parked: the endpoint is disabled"
	case v == redrive.Park:
		return "parked: the endpoint is disabled, and gets it when it is enabled"
	default:
		return "left alone: " + because[v]
	}
}

func printRetried(stdout io.Writer, order redrive.Order, p redrive.Progress) {
	switch {
	case len(p.Verdicts) == 0:
		fmt.Fprintln(stdout, "there is nothing dead to retry")
	case order.DryRun:
		fmt.Fprintf(stdout, "would be done: %s\n", tally(p.Verdicts))
	case p.Made() == 0:
		fmt.Fprintf(stdout, "nothing was made: %s\n", tally(p.Verdicts))
	default:
		fmt.Fprintf(stdout, "replay %d: %s\n", p.Replay.ID, tally(p.Verdicts))
	}
	if p.HandOver != nil {
		fmt.Fprintf(stdout, "%d could not be handed over (%s). They are in the ledger: the worker's reconciler sends them, RECONCILE_GRACE (30 s) after now\n",
			p.Verdicts[redrive.Send]-p.Handed, clean(p.HandOver.Error(), 200))
	}
}

// tally says in a line what becomes of how many.
func tally(verdicts map[redrive.Verdict]int) string {
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(verdicts)) {
		switch v {
		case redrive.Send:
			parts = append([]string{fmt.Sprintf("%d to send", verdicts[v])}, parts...)
		case redrive.Park:
			parts = append(parts, fmt.Sprintf("%d parked, as the endpoint is disabled", verdicts[v]))
		default:
			parts = append(parts, fmt.Sprintf("%d left alone (%s)", verdicts[v], because[v]))
		}
	}
	return strings.Join(parts, "; ")
}
