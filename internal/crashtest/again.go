package crashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/stack/process"
)

// memory is what a run alone knows: the rest is in the database and in the receipts.
type memory struct {
	Name         string    `json:"name"`
	Fault        Fault     `json:"fault"`
	Random       bool      `json:"random"`
	Seed         uint64    `json:"seed"`
	Rate         float64   `json:"rate"`
	Ordered      bool      `json:"ordered,omitempty"`
	Load         int       `json:"load"` // merchants of the load
	Merchants    []string  `json:"merchants"`
	Windows      []Window  `json:"windows"`
	Acknowledged []Object  `json:"acknowledged"`
	Began        time.Time `json:"began"`
	Loaded       time.Time `json:"loaded"`
}

func receiptsFile(o stack.Options) string { return filepath.Join(o.Dir, "data", "receipts.jsonl") }

func memoryFile(o stack.Options, seed uint64) string {
	return filepath.Join(o.Dir, "data", "crash-tests", strconv.FormatUint(seed, 10)+".json")
}

// remember keeps what CheckAgain needs.
func (r *run) remember() error {
	name := memoryFile(r.o.Stack, r.o.Seed)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("remembering the run: %w", err)
	}
	return process.WriteJSON(name, memory{
		Name: r.name, Fault: r.o.Fault, Random: r.o.Random, Seed: r.o.Seed, Rate: r.o.Rate, Ordered: r.o.Ordered, Load: r.o.Merchants,
		Merchants: r.merchants, Windows: r.windows, Acknowledged: r.clients.acknowledged, Began: r.began, Loaded: r.loaded,
	}, 0o600)
}

// CheckAgain compares the sets of the latest run with that seed once more, as they are now: what arrived since counts, and so does
// what has vanished.
func CheckAgain(ctx context.Context, options stack.Options, token string, seed uint64) (Result, error) {
	options, err := options.Complete()
	if err != nil {
		return Result{}, err
	}
	content, err := os.ReadFile(memoryFile(options, seed))
	if errors.Is(err, fs.ErrNotExist) {
		return Result{}, fmt.Errorf("there was no run with seed %d in %s", seed, options.Dir)
	}
	if err != nil {
		return Result{}, fmt.Errorf("reading what is known of the run: %w", err)
	}
	var m memory
	if err := json.Unmarshal(content, &m); err != nil {
		return Result{}, fmt.Errorf("reading what is known of the run: %w", err)
	}
	r := &run{
		name:      m.Name,
		o:         Options{Stack: options, Token: token, Fault: m.Fault, Random: m.Random, Seed: seed, Rate: m.Rate, Ordered: m.Ordered, Merchants: m.Load},
		merchants: m.Merchants, windows: m.Windows, began: m.Began, loaded: m.Loaded, clients: &clients{acknowledged: m.Acknowledged},
	}
	if r.status, err = stack.ReadStatus(ctx, options.Dir); err != nil {
		return Result{}, err
	}
	r.receipts = newReceipts(receiptsFile(options), r.name+"-")
	if r.records, err = connect(ctx, r.status.DSN); err != nil {
		return Result{}, err
	}
	defer r.records.close()
	err = await(ctx, "the reconciler has looked", 10*time.Second, func(ctx context.Context) (bool, error) {
		r.lookAtReconciler(ctx)
		return r.report.Leading, nil
	})
	if err != nil {
		return Result{}, err
	}
	return r.verdict(ctx, true, 0)
}
