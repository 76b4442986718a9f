package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/stack"
)

const (
	envIngressURL = "RESTATE_INGRESS_URL"
	// deadPage is how many dead records are read at once; each can hold a megabyte.
	deadPage = 100
	// deadListed bounds a list.
	deadListed = 1000
)

var deadReasons = slices.Concat([]string{delivery.ReasonUndecodable, delivery.ReasonPhantom, delivery.ReasonUnplannable, delivery.ReasonOversize}, delivery.CallbackReasons())

func dead(ctx context.Context, args []string, stdout, _ io.Writer) error {
	const verbs = "want `dead list`, `dead show` or `dead redrive`"
	if len(args) == 0 {
		return wrongUsage(verbs)
	}
	switch args[0] {
	case "list":
		return listDead(ctx, args[1:], stdout)
	case "show":
		return showDead(ctx, args[1:], stdout)
	case "redrive":
		return redriveDead(ctx, args[1:], stdout)
	case "-h", "-help", "--help":
		return helpError("Usage: hookline dead list [flags]\n       hookline dead show ID [flags]\n       hookline dead redrive ID|--all [flags]\n\nEach has --help.\n")
	default:
		return wrongUsage(verbs)
	}
}

const ofLedger = " of the running stack, or of the ledger at " + envDatabaseURL + " where that is set."

func listDead(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("dead list")
	dir := dirFlag(fs)
	reason := fs.String("reason", "", "only those of this `reason`: "+strings.Join(deadReasons, ", "))
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "dead list [flags]", "Lists the records that could not become a delivery"+ofLedger); err != nil {
		return err
	}
	if *reason != "" && !slices.Contains(deadReasons, *reason) {
		return wrongUsage("there is no reason %q; want one of %s", *reason, strings.Join(deadReasons, ", "))
	}
	ledger, _, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	listed, more, err := readDead(ctx, ledger.Ledger, *reason)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			Records []deadRecord `json:"dead_records"`
			More    bool         `json:"more"`
		}{listed, more})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, r := range listed {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.BuriedAt.Format(time.RFC3339), r.Reason, r.origin(), r.standing(), clean(r.Detail, 80))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(stdout, "and more: only the first %d are listed\n", deadListed)
	}
	return nil
}

// deadRecord is a dead record as it is printed.
type deadRecord struct {
	ID        int64     `json:"id"`
	Reason    string    `json:"reason"`
	Detail    string    `json:"detail"`
	EventID   string    `json:"event_id,omitempty"` // as far as the bytes tell
	Topic     string    `json:"topic,omitempty"`
	Partition int32     `json:"partition"` // -1: it is about an event or a callback, not about a record
	Offset    int64     `json:"offset"`
	Buried    int       `json:"buried"` // how often
	BuriedAt  time.Time `json:"buried_at"`
	// RedrivenAt is absent for a record that nobody has driven since it was buried last.
	RedrivenAt *time.Time `json:"redriven_at,omitempty"`
	// Fate is what became of the event: deliveries by state; absent where the event was never planned.
	Fate *delivery.Fate `json:"deliveries,omitempty"`
}

func (r deadRecord) origin() string {
	if slices.Contains(delivery.CallbackReasons(), r.Reason) {
		return r.Topic
	}
	if r.Partition < 0 {
		return "event " + r.EventID
	}
	return fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)
}

// standing says whether anything is left to do.
func (r deadRecord) standing() string {
	switch {
	case r.Fate != nil && r.RedrivenAt != nil:
		return "redriven: " + redrive.Describe(*r.Fate)
	case r.Fate != nil && r.Reason != delivery.ReasonPhantom && r.Reason != delivery.ReasonOversize:
		return "open, but planned meanwhile: " + redrive.Describe(*r.Fate)
	case r.Fate != nil:
		return "open: " + redrive.Describe(*r.Fate)
	case r.RedrivenAt != nil:
		return "redriven"
	default:
		return "open"
	}
}

// readDead reads as many records as a list holds, and what became of their events.
func readDead(ctx context.Context, ledger *postgres.Ledger, reason string) ([]deadRecord, bool, error) {
	out := []deadRecord{}
	for last := int64(0); ; {
		page, err := ledger.DeadRecords(ctx, last, reason, false, deadPage)
		if err != nil {
			return nil, false, err
		}
		described, err := describeDead(ctx, ledger, page)
		if err != nil {
			return nil, false, err
		}
		out = append(out, described...)
		if len(page) < deadPage {
			return out, false, nil
		}
		if len(out) >= deadListed {
			return out, true, nil
		}
		last = page[len(page)-1].ID
	}
}

func describeDead(ctx context.Context, ledger *postgres.Ledger, records []delivery.Buried) ([]deadRecord, error) {
	ids := make([]uuid.UUID, len(records))
	for i, record := range records {
		ids[i] = redrive.EventOf(record)
	}
	fates, err := ledger.Fates(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]deadRecord, len(records))
	for i, record := range records {
		out[i] = deadRecord{
			ID: record.ID, Reason: record.Reason, Detail: record.Detail, Topic: record.Topic, Partition: record.Partition, Offset: record.Offset,
			Buried: record.Times, BuriedAt: record.At.UTC(),
		}
		if ids[i] != uuid.Nil {
			out[i].EventID = ids[i].String()
		}
		if !record.RedrivenAt.IsZero() {
			at := record.RedrivenAt.UTC()
			out[i].RedrivenAt = &at
		}
		if fate, planned := fates[ids[i]]; planned {
			out[i].Fate = &fate
		}
	}
	return out, nil
}

func showDead(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("dead show")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	rest, err := parse(fs, args, 1, "dead show ID [flags]", "Shows one record with its bytes"+ofLedger)
	if err != nil {
		return err
	}
	id, err := deadID(rest)
	if err != nil {
		return err
	}
	ledger, _, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	return printDead(ctx, ledger.Ledger, id, *asJSON, stdout)
}

func printDead(ctx context.Context, ledger *postgres.Ledger, id int64, asJSON bool, stdout io.Writer) error {
	record, err := ledger.DeadRecord(ctx, id)
	if err != nil {
		return err
	}
	described, err := describeDead(ctx, ledger, []delivery.Buried{record})
	if err != nil {
		return err
	}
	d := described[0]
	key, value := bytesOf(record.Key), bytesOf(record.Value)
	if asJSON {
		return printJSON(stdout, struct {
			deadRecord
			Key   shown `json:"key"`
			Value shown `json:"value"`
		}{d, key, value})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "id\t%d\nreason\t%s\ndetail\t%s\n", d.ID, d.Reason, clean(d.Detail, 0))
	if d.EventID != "" {
		fmt.Fprintf(tw, "event\t%s\n", d.EventID)
	}
	if d.Partition >= 0 {
		fmt.Fprintf(tw, "topic\t%s\npartition\t%d\noffset\t%d\n", d.Topic, d.Partition, d.Offset)
	}
	fmt.Fprintf(tw, "buried\t%s", d.BuriedAt.Format(time.RFC3339))
	if d.Buried > 1 {
		fmt.Fprintf(tw, ", and %d times since", d.Buried-1)
	}
	fmt.Fprintf(tw, "\nstanding\t%s\nkey\t%s\nvalue\t%s\n", d.standing(), key, value)
	return tw.Flush()
}

// shown are bytes of a record, as text where they are some and as hex otherwise.
type shown struct {
	Text *string `json:"text,omitempty"`
	Hex  *string `json:"hex,omitempty"`
}

func (s shown) String() string {
	switch {
	case s.Text != nil:
		return *s.Text
	case s.Hex != nil:
		return "hex " + *s.Hex
	default:
		return "none"
	}
}

func bytesOf(b []byte) shown {
	switch {
	case b == nil:
		return shown{}
	case printable(string(b)):
		text := string(b)
		return shown{Text: &text}
	default:
		digits := hex.EncodeToString(b)
		return shown{Hex: &digits}
	}
}

// printable says whether a text may go to a terminal: a record can hold any bytes, and a terminal obeys some of them.
func printable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && !strconv.IsPrint(r)
	}) < 0
}

// clean makes a text one that a line of a terminal can hold, at most so many characters long; 0 is any number.
func clean(text string, longest int) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	for i, r := range runes {
		if !strconv.IsPrint(r) {
			runes[i] = utf8.RuneError
		}
	}
	if longest > 0 && len(runes) > longest {
		runes = append(runes[:longest-1], '…')
	}
	return string(runes)
}

func deadID(rest []string) (int64, error) {
	if len(rest) == 0 {
		return 0, wrongUsage("want the id of a dead record; hookline dead list names them")
	}
	id, err := strconv.ParseInt(rest[0], 10, 64)
	if err != nil || id < 1 {
		return 0, wrongUsage("%q is not the id of a dead record: want a positive number", rest[0])
	}
	return id, nil
}

func redriveDead(ctx context.Context, args []string, stdout io.Writer) error {
	fs := newFlags("dead redrive")
	dir := dirFlag(fs)
	all := fs.Bool("all", false, "every record that is open")
	ingress := fs.String("ingress", os.Getenv(envIngressURL), "`URL` of Restate's ingress ("+envIngressURL+"; default the stack's, or http://127.0.0.1:8080)")
	rest, err := parse(fs, args, 1, "dead redrive ID|--all [flags]",
		"Drives records again the ordinary way: what can be read now is planned, deliveries that died of a missing row or of their size are attempted again, and callbacks are decided about again. Those"+ofLedger)
	if err != nil {
		return err
	}
	var id int64
	switch {
	case *all && len(rest) > 0:
		return wrongUsage("want either an id or --all")
	case !*all:
		if id, err = deadID(rest); err != nil {
			return err
		}
	}
	ledger, status, err := openLedger(ctx, *dir)
	if err != nil {
		return err
	}
	defer ledger.Close()
	calls := openIngress(*ingress, status)
	defer calls.Close()
	redriver := redrive.New(ledger.Ledger, calls)
	if *all {
		return redriveAll(ctx, ledger.Ledger, redriver, stdout)
	}
	record, err := ledger.DeadRecord(ctx, id)
	if err != nil {
		return err
	}
	did, err := redriver.Redrive(ctx, record)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d: %s\n", record.ID, did)
	return nil
}

// redriveAll drives every open record once. One that is as dead as it was does not keep the others.
func redriveAll(ctx context.Context, ledger *postgres.Ledger, redriver *redrive.Redriver, stdout io.Writer) error {
	driven, failed := 0, 0
	for last := int64(0); ; {
		page, err := ledger.DeadRecords(ctx, last, "", true, deadPage)
		if err != nil {
			return err
		}
		for _, record := range page {
			did, err := redriver.Redrive(ctx, record)
			switch {
			case err == nil:
				driven++
			case fault.ClassOf(err) == fault.Conflict:
				failed++
				did = "still dead: " + clean(err.Error(), 0)
			default:
				return err
			}
			fmt.Fprintf(stdout, "%d: %s\n", record.ID, did)
			last = record.ID
		}
		if len(page) < deadPage {
			break
		}
	}
	fmt.Fprintf(stdout, "%d driven again, %d still dead\n", driven, failed)
	if failed > 0 {
		return fmt.Errorf("%d dead records are as dead as they were", failed)
	}
	return nil
}

// openedLedger is the ledger with the pool that it owns.
type openedLedger struct {
	*postgres.Ledger
	Close func()
}

// openLedger connects to the ledger at DATABASE_URL, or to the embedded stack's, whose status it then returns.
func openLedger(ctx context.Context, dir string) (openedLedger, stack.Status, error) {
	pool, status, err := openPool(ctx, dir)
	if err != nil {
		return openedLedger{}, status, err
	}
	return openedLedger{Ledger: postgres.NewLedger(pool, postgres.LedgerOptions{}), Close: pool.Close}, status, nil
}

// openPool is openLedger for who needs another part of it.
func openPool(ctx context.Context, dir string) (*pgxpool.Pool, stack.Status, error) {
	dsn := os.Getenv(envDatabaseURL)
	var status stack.Status
	if dsn == "" {
		var err error
		if status, err = stack.ReadStatus(ctx, dir); err != nil {
			return nil, status, err
		}
		if status.State(stack.Postgres) != stack.StateReady {
			return nil, status, errors.New("the stack does not run: hookline up starts it; or set " + envDatabaseURL + " to another ledger")
		}
		dsn = status.DSN
	}
	pool, err := postgres.NewPool(ctx, dsn, postgres.Options{ApplicationName: "hookline", Settings: postgres.LedgerSettings()})
	if err != nil {
		return nil, status, fmt.Errorf("%s: %w", envDatabaseURL, err)
	}
	return pool, status, nil
}

// openIngress makes a client of the ingress at the URL, of the running stack's where it is empty, or of Restate's own port.
func openIngress(url string, status stack.Status) *restate.Client {
	if url == "" {
		url = "http://127.0.0.1:8080"
		if address := status.Address(stack.Restate); address != "" {
			url = "http://" + address
		}
	}
	return restate.NewClient(url, 1)
}
