package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/stack/process"
)

// Up starts what does not run, restarts what differs from what the options ask for, and waits until
// everything is ready. progress, which may be nil, gets one line at a time for a person to read. What was
// started stays when Up fails or is interrupted: the next Up goes on from there.
func Up(ctx context.Context, options Options, progress func(line string)) (Status, error) {
	s, err := open(options, progress)
	if err != nil {
		return Status{}, err
	}
	if err := s.makeDirs(); err != nil {
		return Status{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	if s, err = open(options, progress); err != nil { // as it is now: somebody else may have held the lock
		return Status{}, err
	}
	if err := s.up(ctx); err != nil {
		return Status{}, err
	}
	return s.status(ctx)
}

// Names of the steps between the starts.
const (
	stepMigrate = "migrations"
	stepSeed    = "demo merchant"
	stepTopic   = "topic"
	stepWayIn   = "way in"
)

// needs says what must be ready before a component or step begins.
var needs = map[string][]string{
	stepMigrate: {Postgres},
	stepSeed:    {stepMigrate},
	stepTopic:   {Kafka},
	DataService: {stepMigrate},
	CDCRelay:    {stepMigrate, stepTopic},
	// The relay's slot exists when it is ready: a payment before that would not be in the stream.
	PaymentsAPI:   {stepMigrate, CDCRelay},
	stepWayIn:     {stepMigrate, stepTopic, Restate, DataService},
	WebhookWorker: {stepWayIn, Svix},
	// The first worker has registered the handlers: two would each look, find nothing, and do it.
	workers[1]: {WebhookWorker},
	workers[2]: {WebhookWorker},
	workers[3]: {WebhookWorker},
}

func (s *stack) up(ctx context.Context) error {
	if s.was.Intake != "" && s.was.PortOffset != s.PortOffset {
		// Restate's registrations, and the invocations that are under way, hold addresses.
		return fmt.Errorf("the stack in %s was made with --port-offset %d: give that again, or start anew after bin/hookline down --purge",
			s.Dir, s.was.PortOffset)
	}
	if err := s.stopOrphans(ctx); err != nil {
		return err
	}
	if s.secrets.Superuser == "" {
		if err := s.discardForeignData(ctx); err != nil {
			return err
		}
		if err := s.drawSecrets(); err != nil {
			return err
		}
	}
	if s.secrets.EncryptionKeys == "" { // of a stack from before secrets were sealed
		if err := s.keepKeys(seal.NewKey(keyID(1))); err != nil {
			return err
		}
	}
	if s.secrets.Callback == "" { // of a stack from before there were callbacks
		var err error
		if s.secrets.Callback, err = signing.NewSecret(signing.HMAC); err != nil {
			return err
		}
		if err := process.WriteJSON(s.path("secrets.json"), s.secrets, 0o600); err != nil {
			return err
		}
	}
	if s.Svix {
		if err := s.drawSvixSecrets(); err != nil {
			return err
		}
	}
	found, err := s.findPrograms(ctx)
	if err != nil {
		return err
	}
	parts, err := s.parts(ctx, found)
	if err != nil {
		return err
	}
	toStart, err := s.stopWhatDiffers(ctx, parts)
	if err != nil {
		return err
	}
	for _, name := range toStart {
		for _, port := range s.portsOf(name) {
			if !free(ctx, port) {
				return conflict(registryDir, name, port)
			}
		}
	}
	s.was.PostgresData = s.postgresData()
	s.was.PortOffset, s.was.Workers, s.was.Svix = s.PortOffset, s.Workers, s.Svix
	if err := s.saveSettings(); err != nil {
		return err
	}
	err = s.run(ctx, parts, toStart)
	s.announce()
	return err
}

// announce registers the stack. Nothing but a message to other users rests on it.
func (s *stack) announce() {
	if err := s.register(registryDir); err != nil {
		s.say("other users' stacks will not know whose the ports are: %s", err)
	}
}

// run starts what is to be started, each as soon as what it needs is ready.
func (s *stack) run(ctx context.Context, parts map[string]*part, toStart []string) error {
	provisioned := s.provisioner()
	// A database that went on running still has its tables and its seeds; one that starts may be anybody's.
	fresh := slices.Contains(toStart, Postgres) || provisioned == "" || s.was.Provisioned != provisioned

	steps := map[string]func(ctx context.Context) error{
		stepMigrate: func(ctx context.Context) error {
			if !fresh {
				return nil
			}
			return s.timed(stepMigrate, func() error { return s.migrate(ctx) })
		},
		stepSeed: func(ctx context.Context) error {
			if !fresh {
				return nil
			}
			return s.seed(ctx)
		},
		stepTopic: func(ctx context.Context) error {
			if !slices.Contains(toStart, Kafka) {
				return nil
			}
			return s.makeTopic(ctx)
		},
		stepWayIn: s.changeWayIn,
	}
	for name, each := range parts {
		steps[name] = func(ctx context.Context) error {
			if !slices.Contains(toStart, name) {
				return s.await(ctx, name, ended(ctx, s.recordFile(name)))
			}
			return s.start(ctx, each)
		}
	}

	done := make(map[string]chan struct{}, len(steps))
	for name := range steps {
		done[name] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	for name, step := range steps {
		group.Go(func() error {
			for _, needed := range needs[name] {
				if done[needed] == nil { // this stack has none
					continue
				}
				select {
				case <-done[needed]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := step(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			close(done[name])
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.was.Provisioned = provisioned
	return s.saveSettings()
}

// provisioner names this build, whose migrations these are, and where it seeds the demo endpoint.
func (s *stack) provisioner() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	info, err := os.Stat(self)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d %s", self, info.Size(), info.ModTime().UnixNano(), s.address(MerchantSimulator))
}

// stopWhatDiffers returns what is to be started: what is dead, and what it stopped because it is not what is
// wanted any more.
func (s *stack) stopWhatDiffers(ctx context.Context, parts map[string]*part) ([]string, error) {
	otherKafka := s.was.Kafka != "" && s.was.Kafka != s.Kafka
	otherIntake := s.was.Intake != "" && s.was.Intake != s.Intake
	if otherKafka {
		if err := s.emptyOldKafka(ctx); err != nil {
			return nil, err
		}
	}
	var toStart []string
	for _, name := range slices.Backward(order) {
		record, err := s.record(name)
		if err != nil {
			return nil, err
		}
		wanted := parts[name]
		same := wanted != nil && record.Fingerprint == wanted.fingerprint
		switch {
		case name == CDCRelay: // its connections know the old broker's offsets
			same = same && !otherKafka
		case isWorker(name):
			same = same && !otherKafka && !otherIntake
		}
		if same && record.Alive() {
			continue
		}
		if wanted != nil {
			toStart = append(toStart, name)
		}
		if !record.Alive() {
			if record.PID != 0 && wanted != nil {
				s.say("%s had ended", name)
			}
			continue
		}
		s.say("%s is not what is wanted any more: stopping it", name)
		if err := s.stop(ctx, record); err != nil {
			return nil, err
		}
	}
	return toStart, nil
}

// emptyOldKafka lets the old broker's records through before it goes.
func (s *stack) emptyOldKafka(ctx context.Context) error {
	alive := map[string]bool{}
	worker := false
	for _, name := range slices.Concat([]string{CDCRelay, Kafka}, workers) {
		record, err := s.record(name)
		if err != nil {
			return err
		}
		alive[name] = record.Alive()
		worker = worker || isWorker(name) && alive[name]
		if name == CDCRelay && alive[name] { // what it has not published yet waits in its slot for the new broker
			if err := s.stop(ctx, record); err != nil {
				return err
			}
		}
	}
	if !alive[Kafka] || !worker {
		return nil
	}
	s.say("waiting until the workers have taken what %s holds", s.was.Kafka)
	if err := s.drainKafka(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.say("going on without: %s", err)
	}
	return nil
}

// changeWayIn runs while Kafka and Restate are ready. Where it changes something, no worker runs.
func (s *stack) changeWayIn(ctx context.Context) error {
	if s.was.Intake == s.Intake && s.was.Kafka == s.Kafka {
		return nil
	}
	if s.was.Intake != "" {
		if err := s.deleteSubscriptions(ctx); err != nil {
			return err
		}
		if err := s.emptyGroup(ctx); err != nil {
			return err
		}
	}
	s.was.Intake, s.was.Kafka = s.Intake, s.Kafka
	return s.saveSettings()
}

// start starts the component and waits until it is ready.
func (s *stack) start(ctx context.Context, p *part) error {
	began := time.Now()
	if p.prepare != nil {
		if err := p.prepare(ctx); err != nil {
			return err
		}
	}
	for {
		log := s.logFile(p.name)
		offset := size(log)
		cmd, err := p.command()
		if err != nil {
			return err
		}
		identity, exited, err := process.Start(cmd, log)
		if err != nil {
			return err
		}
		record := process.Record{
			Identity: identity, Name: p.name, Address: s.address(p.name),
			Ports: s.portsOf(p.name), Fingerprint: p.fingerprint,
		}
		if err := record.Write(s.recordFile(p.name)); err != nil {
			return err
		}
		err = s.await(ctx, p.name, exited)
		if err == nil {
			s.say("%-18s ready at %s after %.1f s", p.name, record.Address, time.Since(began).Seconds())
			return nil
		}
		text := readFrom(log, offset)
		if errors.Is(err, errEnded) && p.restartable != nil && p.restartable(text) && time.Since(began) < time.Minute {
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		if reason := lastWords(text); reason != "" && ctx.Err() == nil {
			err = fmt.Errorf("%w: %s (see %s)", err, reason, log)
		}
		return err
	}
}

var errEnded = errors.New("it ended before it was ready")

// await waits until the component is ready, or exited tells that it never will be.
func (s *stack) await(ctx context.Context, name string, exited <-chan struct{}) error {
	const patience = 90 * time.Second
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := s.ready(attempt, name)
		cancel()
		// Ready, but not yet proven to be ours: another process may have taken the port.
		if err == nil {
			select {
			case <-exited:
				return errEnded
			default:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-exited:
			return errEnded
		case <-deadline.C:
			return fmt.Errorf("it is not ready after %s: %w", patience, err)
		case <-tick.C:
		}
	}
}

// ended closes its channel when the process in the record, which is no child of ours, has ended.
func ended(ctx context.Context, recordFile string) <-chan struct{} {
	exited := make(chan struct{})
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if record, err := process.Read(recordFile); err == nil && !record.Alive() {
				close(exited)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return exited
}

// stop ends a component, by force where it does not end by itself in time.
func (s *stack) stop(ctx context.Context, record process.Record) error {
	signal, deadline := stopping(record.Name)
	killed, err := record.Stop(ctx, signal, deadline)
	if err != nil {
		return fmt.Errorf("stopping %s: %w", record.Name, err)
	}
	if killed {
		s.say("%s did not end within %s and was killed", record.Name, deadline)
	}
	if err := os.Remove(s.recordFile(record.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the record of %s: %w", record.Name, err)
	}
	return nil
}

// stopOrphans ends processes of this stack that no record tells of: the state directory was removed under
// them, or an up died between a start and its record.
func (s *stack) stopOrphans(ctx context.Context) error {
	var known []process.Identity
	for _, name := range order {
		record, err := s.record(name)
		if err != nil {
			return err
		}
		if record.Alive() {
			known = append(known, record.Identity)
		}
	}
	for _, orphan := range process.Orphans(s.Dir, known) {
		s.say("stopping a %s (pid %d) that no record tells of", orphan.Name, orphan.PID)
		signal := syscall.SIGTERM
		if orphan.Name == Postgres {
			signal = syscall.SIGQUIT // at once; a child of a server that is dead knows no other
		}
		if _, err := orphan.Stop(ctx, signal, 10*time.Second); err != nil {
			return fmt.Errorf("stopping a %s that no record tells of: %w", orphan.Name, err)
		}
	}
	return nil
}

var saying sync.Mutex

// say tells the person who waits what happens. Components start side by side.
func (s *stack) say(format string, args ...any) {
	saying.Lock()
	defer saying.Unlock()
	s.progress(fmt.Sprintf("%6.1fs  %s", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...)))
}

func (s *stack) timed(what string, f func() error) error {
	began := time.Now()
	err := f()
	if err == nil {
		s.say("%-18s done after %.1f s", what, time.Since(began).Seconds())
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func size(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// readFrom returns what was appended to the file since, the last part of it where that is much.
func readFrom(name string, offset int64) string {
	file, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	end := size(name)
	if end < offset {
		offset = 0 // it was rotated
	}
	const limit = 64 << 10
	text, _ := io.ReadAll(io.NewSectionReader(file, max(offset, end-limit), limit)) // what can be read will do
	return string(text)
}

// lastWords is the line of a log that tells best why its process ended: the last error, or the last line.
func lastWords(log string) string {
	last, complaint := "", ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Error string `json:"error"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg != "" {
			last = strings.TrimSuffix(entry.Msg+": "+entry.Error, ": ")
			if entry.Level == "ERROR" {
				complaint = last
			}
			continue
		}
		for _, mark := range []string{"FATAL:", "ERROR", "panic:", "Exception", "bad settings"} {
			if strings.Contains(line, mark) {
				complaint = line
			}
		}
	}
	if complaint == "" {
		complaint = last
	}
	const limit = 300
	if len(complaint) > limit {
		complaint = string(bytes.ToValidUTF8([]byte(complaint[:limit]), nil)) + " ..."
	}
	return complaint
}

// logNames are the components that have a log.
func (s *stack) logNames() []string {
	var names []string
	for _, name := range order {
		if _, err := os.Stat(s.logFile(name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// LogFiles returns the log of each component that has one, by name, in the order of their start.
func LogFiles(dir string) ([]string, map[string]string, error) {
	s, err := openExisting(dir, nil)
	if err != nil {
		return nil, nil, err
	}
	files := map[string]string{}
	for _, name := range s.logNames() {
		files[name] = filepath.Clean(s.logFile(name))
	}
	return s.logNames(), files, nil
}
