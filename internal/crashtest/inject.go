package crashtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/stack"
)

// slot is the relay's.
const slot = "hookline_relay"

// inject waits until the load is under way and does what is to be done. When it returns, everything runs again.
func (r *run) inject(ctx context.Context) error {
	lead := min(3*time.Second, time.Duration(0.3*float64(r.o.Payments)/r.o.Rate*float64(time.Second)))
	if err := load.Wait(ctx, lead); err != nil {
		return err
	}
	if !r.o.Random {
		return r.do(ctx, r.o.Fault)
	}
	for end := time.Now().Add(r.o.Duration); time.Now().Before(end); {
		if err := r.do(ctx, r.draw()); err != nil {
			return err
		}
		calm := time.Duration(3000+r.random.IntN(7000)) * time.Millisecond
		if err := load.Wait(ctx, min(calm, time.Until(end))); err != nil {
			return err
		}
	}
	return nil
}

// draw draws the next fault of a random sequence, and the length of a freeze.
func (r *run) draw() Fault {
	kinds := []string{kindKill, kindKill, kindKill, kindFreeze, kindTerm}
	f := Fault{Kind: kinds[r.random.IntN(len(kinds))], Target: components[r.random.IntN(len(components))]}
	r.o.Freeze = time.Duration(2000+r.random.IntN(18_000)) * time.Millisecond
	return f
}

func (r *run) do(ctx context.Context, f Fault) error {
	r.say("--- %s, %.1f s after the start", f, time.Since(r.began).Seconds())
	switch f.Kind {
	case kindKill:
		if f.Target == everything {
			return r.killEach(ctx)
		}
		return r.kill(ctx, f.Target, f.String(), 0)
	case kindDown:
		return r.kill(ctx, f.Target, f.String(), downtime)
	case kindFreeze:
		return r.freeze(ctx, f)
	case kindTerm:
		return r.term(ctx, f.Target, f.String())
	case kindRestart:
		r.mu.Lock()
		workers := r.status.WorkerNames()
		r.mu.Unlock()
		for _, name := range slices.Concat([]string{stack.PaymentsAPI}, workers, []string{
			stack.CDCRelay, stack.DataService, stack.MerchantSimulator, stack.Restate, stack.Kafka, stack.Postgres,
		}) {
			if err := r.term(ctx, name, f.Kind+":"+name); err != nil {
				return err
			}
		}
		return nil
	case kindCrashLoop:
		return r.crashLoop(ctx, f)
	case kindSlot:
		return r.dropSlot(ctx, f)
	case kindVolume:
		return r.loseVolume(ctx, f)
	case kindKillWaiting:
		return r.killWaiting(ctx, f)
	case kindGroupReset:
		return r.resetGroup(ctx, f)
	case kindLongTx:
		return r.longTransaction(ctx, f)
	default:
		return nil
	}
}

// fault notes that one began; what is returned notes its end.
func (r *run) fault(name string) (over func()) {
	from := time.Now()
	r.mu.Lock()
	i := len(r.windows)
	r.windows = append(r.windows, Window{
		Fault: name, From: from, To: from.Add(24 * time.Hour),
		OnTheWire: len(r.status.WorkerNames()) > 1 && name == Fault{kindFreeze, stack.WebhookWorker}.String(),
	})
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.windows[i].To = time.Now()
		r.mu.Unlock()
		r.say("--- %s is over after %.1f s", name, time.Since(from).Seconds())
	}
}

// expect says that the component is about to end at our hands.
func (r *run) expect(name string) {
	r.mu.Lock()
	r.expectEnded[name] = true
	r.mu.Unlock()
}

// strike kills the component with all that belongs to it, and returns when it is gone. What it returns notes the end of
// the fault, which began with the kill.
func (r *run) strike(ctx context.Context, name, as string) (over func(), err error) {
	victim, err := aim(name, r.pid(name))
	if err != nil {
		return nil, err
	}
	r.expect(name)
	over = r.fault(as)
	if err := victim.hit(syscall.SIGKILL); err != nil {
		return nil, err
	}
	return over, await(ctx, name+" is gone", 10*time.Second, func(context.Context) (bool, error) { return !victim.Alive(), nil })
}

func (r *run) kill(ctx context.Context, name, as string, down time.Duration) error {
	over, err := r.strike(ctx, name, as)
	if err != nil {
		return err
	}
	if err := load.Wait(ctx, down); err != nil {
		return err
	}
	if err := r.up(ctx); err != nil {
		return err
	}
	over()
	return nil
}

// killEach kills every component once, one after the other.
func (r *run) killEach(ctx context.Context) error {
	for _, name := range components {
		if err := r.kill(ctx, name, kindKill+":"+name, 0); err != nil {
			return err
		}
		if err := load.Wait(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// stop asks the component to end, and waits until it has.
func (r *run) stop(ctx context.Context, name string) error {
	part, err := aim(name, r.pid(name))
	if err != nil {
		return err
	}
	r.expect(name)
	signal, within := syscall.SIGTERM, 45*time.Second
	if name == stack.Postgres {
		signal = syscall.SIGINT // SIGTERM waits until its last client has left
	}
	asked := time.Now()
	killed, err := part.Stop(ctx, signal, within)
	if err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	if killed {
		r.find("%s did not stop within %s and was killed", name, within)
	}
	r.say("    %s stopped after %.1f s", name, time.Since(asked).Seconds())
	return nil
}

func (r *run) term(ctx context.Context, name, as string) error {
	over := r.fault(as)
	defer over()
	if err := r.stop(ctx, name); err != nil {
		return err
	}
	return r.up(ctx)
}

// freeze stops the component's processes for a while, and proves that it is silent for as long.
func (r *run) freeze(ctx context.Context, f Fault) (err error) {
	victim, err := aim(f.Target, r.pid(f.Target))
	if err != nil {
		return err
	}
	r.mu.Lock()
	status := r.status
	r.mu.Unlock()
	if err := probe(ctx, status, f.Target); err != nil {
		return fmt.Errorf("before the freeze: %w", err)
	}
	over := r.fault(f.String())
	defer over()
	frozen := time.Now()
	if err := victim.hit(syscall.SIGSTOP); err != nil {
		return err
	}
	woken := false
	wake := func() error {
		if woken {
			return nil
		}
		woken = true
		return victim.hit(syscall.SIGCONT)
	}
	defer func() { err = errors.Join(err, wake()) }()
	for !victim.stopped() { // a signal reaches the threads one by one
		if time.Since(frozen) > probing {
			return fmt.Errorf("%s does not stop", f.Target)
		}
		if err := load.Wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	silent, answered := 0, 0
	for time.Since(frozen) < r.o.Freeze-probing {
		if err := probe(ctx, status, f.Target); err != nil {
			silent++
			if err := load.Wait(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		} else {
			answered++
		}
	}
	if answered > 0 || !victim.stopped() {
		r.find("the frozen %s answered %d of %d times", f.Target, answered, answered+silent)
	}
	if err := load.Wait(ctx, r.o.Freeze-time.Since(frozen)); err != nil {
		return err
	}
	r.say("    %s did not answer %d times in %.1f s, and wakes", f.Target, silent, time.Since(frozen).Seconds())
	if err := wake(); err != nil {
		return err
	}
	return r.up(ctx)
}

// crashLoop kills the worker again and again while it works off a backlog at slow merchants.
func (r *run) crashLoop(ctx context.Context, f Fault) error {
	for _, merchant := range r.merchants {
		if err := r.behave(ctx, merchant, fmt.Sprintf(`"delay_ms":%d`, loopDelay.Milliseconds())); err != nil {
			return err
		}
	}
	if err := r.stop(ctx, f.Target); err != nil {
		return err
	}
	err := await(ctx, "the backlog is there", 2*time.Minute, func(context.Context) (bool, error) { return r.posted.Load() >= loopBacklog, nil })
	if err != nil {
		return err
	}
	if err := r.up(ctx); err != nil {
		return err
	}
	for i := range loopKills {
		if err := load.Wait(ctx, loopInterval); err != nil {
			return err
		}
		p, err := r.records.progress(ctx, r.merchants)
		if err != nil {
			return err
		}
		r.say("    kill %d of %d: %d of %d received, %d open", i+1, loopKills, r.receipts.count(), p.Committed, p.Open)
		if err := r.kill(ctx, f.Target, f.String(), 0); err != nil {
			return err
		}
	}
	for _, merchant := range r.merchants {
		if err := r.behave(ctx, merchant, ""); err != nil {
			return err
		}
	}
	return nil
}

// dropSlot makes the relay's slot anew while the load goes on: what was committed between is in no stream.
func (r *run) dropSlot(ctx context.Context, f Fault) error {
	if err := r.stop(ctx, stack.CDCRelay); err != nil {
		return err
	}
	over := r.fault(f.String())
	defer over()
	err := await(ctx, "the slot is dropped", 20*time.Second, func(ctx context.Context) (bool, error) {
		_, err := r.records.pool.Exec(ctx, "select pg_drop_replication_slot($1)", slot)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	before := r.clients.count()
	if err := load.Wait(ctx, 3*time.Second); err != nil {
		return err
	}
	r.say("    %d payments and refunds without a slot", r.clients.count()-before)
	return r.up(ctx)
}

// loseVolume removes Restate's data while hundreds of retries wait in it.
func (r *run) loseVolume(ctx context.Context, f Fault) error {
	if _, err := r.waitWithRetries(ctx, retryAfter); err != nil {
		return err
	}
	over, err := r.strike(ctx, stack.Restate, f.String())
	if err != nil {
		return err
	}
	defer over()
	if err := os.RemoveAll(filepath.Join(r.o.Stack.Dir, "data", "restate")); err != nil {
		return fmt.Errorf("removing Restate's data: %w", err)
	}
	r.say("    Restate's data is removed, with %d retries in it", waitingRetries)
	return r.up(ctx)
}

// resetGroup moves the consumer group's offsets while its worker is stopped and the load goes on.
func (r *run) resetGroup(ctx context.Context, f Fault) error {
	r.mu.Lock()
	workers := r.status.WorkerNames()
	r.mu.Unlock()
	for _, name := range workers {
		if err := r.stop(ctx, name); err != nil {
			return err
		}
	}
	over := r.fault(f.String())
	defer over()
	if err := load.Wait(ctx, 3*time.Second); err != nil {
		return err
	}
	client, err := kgo.NewClient(r.topic().Options()...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	list := admin.ListStartOffsets
	if f.Target == latest {
		list = admin.ListEndOffsets
	}
	before, err := admin.FetchOffsets(ctx, r.group)
	if err != nil {
		return fmt.Errorf("reading the group's offsets: %w", err)
	}
	to, err := list(ctx, stack.Topic)
	if err != nil {
		return fmt.Errorf("listing the topic's offsets: %w", err)
	}
	err = await(ctx, "the group's offsets are moved", 30*time.Second, func(ctx context.Context) (bool, error) {
		err := admin.CommitAllOffsets(ctx, r.group, to.Offsets()) // refused while a member is left
		return err == nil, err
	})
	if err != nil {
		return err
	}
	moved := int64(0)
	to.Each(func(o kadm.ListedOffset) {
		if was, found := before.Lookup(o.Topic, o.Partition); found {
			moved += max(o.Offset, 0) - max(was.At, 0)
		}
	})
	r.say("    the group's offsets are moved by %+d records", moved)
	return r.up(ctx)
}

// longTransaction holds a transaction open in another database of the server, which holds back what every feed reads,
// and keeps one event's record out of the topic: it is to be found all the same.
func (r *run) longTransaction(ctx context.Context, f Fault) (err error) {
	cfg, err := pgx.ParseConfig(r.status.DSN)
	if err != nil {
		return fmt.Errorf("reading the database's address: %w", err)
	}
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connecting to another database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "begin; select pg_current_xact_id()"); err != nil {
		return fmt.Errorf("opening a long transaction: %w", err)
	}
	opened := time.Now()
	over := r.fault(f.String())
	defer over()

	id, err := r.skipRecord(ctx)
	if err != nil {
		return err
	}
	skipped := time.Now()
	r.say("    the record of event %s is kept out of the topic", id)
	r.mu.Lock()
	r.lately = 0
	r.mu.Unlock()
	err = await(ctx, "the event is driven all the same", r.o.Hold-time.Since(opened), func(context.Context) (bool, error) {
		r.receipts.mu.Lock()
		defer r.receipts.mu.Unlock()
		return r.receipts.unique[id], nil
	})
	took := time.Since(skipped)
	if err := load.Wait(ctx, time.Second); err != nil { // until the look that found it is told of
		return err
	}
	r.mu.Lock()
	seen := r.lately
	r.mu.Unlock()
	switch {
	case err != nil:
		r.find("the event whose record was kept out of the topic was not driven while the transaction was open")
	default:
		r.say("    it was received %.1f s later, with the transaction still open; %d were unaccounted meanwhile", took.Seconds(), seen)
	}
	if seen == 0 {
		r.find("the reconciler did not count the event whose record was kept out of the topic")
	}
	if err := load.Wait(ctx, r.o.Hold-time.Since(opened)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		return fmt.Errorf("ending the long transaction: %w", err)
	}
	return nil
}

// skipRecord makes one payment, of the quiet merchant, whose record never gets into the topic, and returns its event's
// id: the stack is quiet, the relay stopped, and its slot moved past.
func (r *run) skipRecord(ctx context.Context) (string, error) {
	r.gate.Lock()
	defer r.gate.Unlock()
	err := await(ctx, "all is planned", 30*time.Second, func(ctx context.Context) (bool, error) {
		p, err := r.records.progress(ctx, r.merchants)
		return p.Planned == p.Committed, err
	})
	if err != nil {
		return "", err
	}
	if err := r.stop(ctx, stack.CDCRelay); err != nil {
		return "", err
	}
	merchant := r.merchants[len(r.merchants)-1]
	if err := r.clients.pay(ctx, 20_000_000, merchant, false); err != nil {
		return "", err
	}
	err = await(ctx, "the slot is moved past the event", 20*time.Second, func(ctx context.Context) (bool, error) {
		_, err := r.records.pool.Exec(ctx, "select pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", slot)
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	var id string
	if err := r.records.pool.QueryRow(ctx, "select id::text from public.domain_events where merchant_id = $1", merchant).Scan(&id); err != nil {
		return "", fmt.Errorf("finding the event: %w", err)
	}
	return id, r.up(ctx)
}
