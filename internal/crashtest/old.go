package crashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/stack/process"
)

// The old architecture's service, its merchant, and their ports before the offset.
const (
	oldService      = "in-memory-baseline"
	oldMerchant     = "merchant-simulator"
	oldPort         = 3000
	oldMerchantPort = 4000
	oldSecret       = "whsec_YSBkZW1vIHNlY3JldCBvZiBubyB2YWx1ZQ=="
	// oldDelay is what the merchant takes for a webhook, as merchants do. Were it instant, less would wait in memory
	// at the kill.
	oldDelay = 100 * time.Millisecond
)

// OldOptions say how the architecture before is tried.
type OldOptions struct {
	BinDir     string
	PortOffset int
	Payments   int
	Rate       float64
	Seed       uint64
	Progress   func(line string)
}

// old is one try.
type old struct {
	OldOptions

	dir       string
	processes map[string]process.Identity
}

// RunOld makes payments at the service that keeps webhooks in memory, kills it once half of them are acknowledged,
// starts it again, and compares as Run does. The service has no database: what it acknowledged counts as committed.
func RunOld(ctx context.Context, o OldOptions) (_ Result, err error) {
	dir, err := os.MkdirTemp("", "hookline-old-")
	if err != nil {
		return Result{}, fmt.Errorf("making a directory: %w", err)
	}
	s := &old{OldOptions: o, dir: dir, processes: map[string]process.Identity{}}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if err := s.start(ctx, oldMerchant); err != nil {
		return Result{}, err
	}
	if err := behave(ctx, s.address(oldMerchant), "old", fmt.Sprintf(`"delay_ms":%d`, oldDelay.Milliseconds())); err != nil {
		return Result{}, err
	}
	if err := s.start(ctx, oldService); err != nil {
		return Result{}, err
	}
	return s.test(ctx)
}

func (s *old) test(ctx context.Context) (Result, error) {
	began := time.Now()
	clients := newClients(s.address(oldService), "", "old-"+strconv.FormatUint(s.Seed, 10))
	defer clients.close()
	received := newReceipts(filepath.Join(s.dir, "receipts.jsonl"), "old")
	window := Window{Fault: kindKill + ":" + oldService}

	group, driving := errgroup.WithContext(ctx)
	group.Go(func() error {
		posts, driving := errgroup.WithContext(driving)
		for i := range s.Payments {
			due := began.Add(time.Duration(float64(i) / s.Rate * float64(time.Second)))
			if err := load.Wait(driving, time.Until(due)); err != nil {
				return errors.Join(posts.Wait(), err)
			}
			posts.Go(func() error { return clients.pay(driving, i, "old", false) })
		}
		return posts.Wait()
	})
	group.Go(func() error {
		err := await(driving, "half of the payments are acknowledged", time.Minute, func(context.Context) (bool, error) {
			return clients.count() >= s.Payments/2, nil
		})
		if err != nil {
			return err
		}
		s.say("--- kill -9 of %s, with %d payments acknowledged", oldService, clients.count())
		window.From = time.Now()
		if err := s.kill(driving, oldService); err != nil {
			return err
		}
		err = s.start(driving, oldService)
		window.To = time.Now()
		return err
	})
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	err := await(ctx, "the service has nothing left in memory", time.Minute, func(ctx context.Context) (bool, error) {
		waiting, err := s.waiting(ctx)
		return waiting == 0 && err == nil, err
	})
	if err != nil {
		return Result{}, err
	}
	if err := received.read(); err != nil {
		return Result{}, err
	}
	return s.compare(clients, received, window, began)
}

func (s *old) compare(clients *clients, received *receipts, window Window, began time.Time) (Result, error) {
	sets := Sets{Acknowledged: clients.acknowledged, Faults: []Window{window}}
	for _, object := range clients.acknowledged {
		id, err := uuid.Parse(object.ID)
		if err != nil {
			return Result{}, fmt.Errorf("reading an id: %w", err)
		}
		sets.Committed = append(sets.Committed, Event{Object: object, ID: id, MerchantID: "old"})
	}
	sets.Received, _ = received.all()
	v := Check(sets)
	for i, line := range v.Lost {
		v.Lost[i] = strings.Replace(line, "was committed", "was acknowledged", 1) // there is no more to it here
	}
	r := Result{
		Fault: window.Fault, Seed: s.Seed, Intake: "memory", Kafka: "none", Rate: s.Rate, Merchants: 1,
		Acknowledged: v.Acknowledged, Committed: v.Committed, Received: v.Received, Lost: len(v.Lost), Phantoms: len(v.Phantoms),
		Mismatches: len(v.Mismatches), Duplicates: len(v.Duplicates), LateDuplicates: v.Late(), Settled: true,
		ByGeneration: map[int64]int{}, RecoveryS: map[string]float64{}, APIFailures: map[string]int{"no answer": len(clients.failures)},
		Seconds: seconds(time.Since(began)), Verdict: v, Faults: sets.Faults, Began: began,
	}
	for _, receipt := range sets.Received {
		r.Deliveries = append(r.Deliveries, receipt.At)
	}
	slices.SortFunc(r.Deliveries, time.Time.Compare)
	r.LongestGapS = seconds(longestGap(r.Deliveries, time.Now()))
	return r, nil
}

func (s *old) say(format string, args ...any) {
	if s.Progress != nil {
		s.Progress(fmt.Sprintf(format, args...))
	}
}

func (s *old) address(name string) string {
	port := oldPort
	if name == oldMerchant {
		port = oldMerchantPort
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+s.PortOffset))
}

func (s *old) start(ctx context.Context, name string) error {
	cmd := exec.Command(filepath.Join(s.BinDir, name)) //nolint:noctx // it is killed by name, not with a context
	cmd.Env = []string{"LISTEN_ADDR=" + s.address(name)}
	if name == oldMerchant {
		cmd.Env = append(cmd.Env, "WEBHOOK_SECRETS="+oldSecret, "RECEIPTS_FILE="+filepath.Join(s.dir, "receipts.jsonl"))
	} else {
		cmd.Env = append(cmd.Env, "WEBHOOK_SECRET="+oldSecret, "MERCHANT_URL=http://"+s.address(oldMerchant)+webhooks+"old")
	}
	identity, exited, err := process.Start(cmd, filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	s.processes[name] = identity
	return await(ctx, name+" listens", 20*time.Second, func(ctx context.Context) (bool, error) {
		select {
		case <-exited:
			log, _ := os.ReadFile(filepath.Join(s.dir, name+".log")) // it only explains
			return false, fmt.Errorf("%s ended: %s", name, log)
		default:
		}
		err := get(ctx, "http://"+s.address(name)+"/readyz")
		return err == nil, err
	})
}

func (s *old) kill(ctx context.Context, name string) error {
	identity := s.processes[name]
	if !identity.Alive() {
		return nil
	}
	victim, err := aim(name, identity.PID)
	if err != nil {
		return err
	}
	if err := victim.hit(syscall.SIGKILL); err != nil {
		return err
	}
	return await(ctx, name+" is gone", 10*time.Second, func(context.Context) (bool, error) { return !identity.Alive(), nil })
}

// close ends what was started, and removes its traces.
func (s *old) close(ctx context.Context) error {
	var errs []error
	for name := range s.processes {
		errs = append(errs, s.kill(ctx, name))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// waiting is how many webhooks the service still has in memory.
func (s *old) waiting(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address(oldService)+"/stats", nil)
	if err != nil {
		return 0, fmt.Errorf("asking the service for its counts: %w", err)
	}
	res, err := asking.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking the service for its counts: %w", err)
	}
	defer res.Body.Close()
	var stats struct {
		Waiting int `json:"waiting"`
	}
	if err := json.NewDecoder(res.Body).Decode(&stats); err != nil {
		return 0, fmt.Errorf("reading the service's counts: %w", err)
	}
	return stats.Waiting, nil
}
