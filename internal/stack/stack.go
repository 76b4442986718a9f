package stack

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/stack/tools"
)

// order of the components: up starts along it where one needs the other, down stops against it.
// Options.components has those of them that a stack wants.
var order = slices.Concat(
	[]string{Postgres, Kafka, Restate, MerchantSimulator, Svix, DataService, CDCRelay, WorkerProxy}, workers, []string{PaymentsAPI})

// Topic is the Kafka topic of the embedded stack.
const Topic = "webhook-events"

// consumerGroup is the same for both intakes, so that the one goes on where the other stopped.
const consumerGroup = "webhook-dispatcher"

const envCallbackSecrets = "CALLBACK_SECRETS"

// Database is the name of the one database of the embedded stack: business tables and ledger.
const Database = "hookline"

// DemoMerchant is the merchant whose endpoint, at the simulator, every embedded stack has.
const DemoMerchant = "joes-tshirt-shop"

// stack is one state directory and what is wanted there.
type stack struct {
	Options

	hash     string // names the stack where several share a directory
	was      settings
	secrets  secrets
	progress func(line string)
	started  time.Time
}

// settings are what is kept about how the stack was last brought up.
type settings struct {
	Intake     string `json:"intake"`
	Kafka      string `json:"kafka"`
	PortOffset int    `json:"port_offset"`
	Workers    int    `json:"workers"`
	Svix       bool   `json:"svix"`
	// PostgresData is outside the state directory where PostgreSQL's user could not reach it there.
	PostgresData string `json:"postgres_data"`
	// Provisioned is the fingerprint of the hookline that migrated and seeded the database.
	Provisioned string `json:"provisioned"`
}

// secrets are drawn once per state directory.
type secrets struct {
	Superuser string `json:"superuser"`
	API       string `json:"api"`
	Reader    string `json:"reader"`
	CDC       string `json:"cdc"`
	Worker    string `json:"worker"`
	// Webhook signs what the demo merchant gets.
	Webhook string `json:"webhook"`
	// Callback signs what the demo's payment provider sends, as Stripe does.
	Callback string `json:"callback"`
	// SvixToken is the Svix server's, and SvixNews signs what it tells of itself.
	SvixToken string `json:"svix_token"`
	SvixNews  string `json:"svix_news"`
	// EncryptionKeys seal what the ledger keeps of merchants' secrets; Keys are the same, parsed.
	EncryptionKeys string       `json:"encryption_keys"`
	Keys           seal.Keyring `json:"-"`
}

func open(o Options, progress func(string)) (*stack, error) {
	o, err := o.Complete()
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string) {}
	}
	hash := sha256.Sum256([]byte(o.Dir))
	s := &stack{Options: o, hash: hex.EncodeToString(hash[:6]), progress: progress, started: time.Now()}
	if err := readJSON(s.path("stack.json"), &s.was); err != nil {
		return nil, err
	}
	if err := readJSON(s.path("secrets.json"), &s.secrets); err != nil {
		return nil, err
	}
	if s.secrets.EncryptionKeys != "" {
		if err := s.secrets.Keys.UnmarshalText([]byte(s.secrets.EncryptionKeys)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", s.path("secrets.json"), err)
		}
	}
	return s, nil
}

// openExisting is for the verbs that take the stack as it is: its mode and ports are those it was brought up with.
func openExisting(dir string, progress func(string)) (*stack, error) {
	s, err := open(Options{Dir: dir}, progress)
	if err != nil {
		return nil, err
	}
	if s.was.Intake != "" {
		s.Intake = s.was.Intake
	}
	if s.was.Kafka != "" {
		s.Kafka = s.was.Kafka
	}
	s.PortOffset = s.was.PortOffset
	s.Workers = max(1, s.was.Workers)
	s.Svix = s.was.Svix
	return s, nil
}

func (s *stack) path(elements ...string) string {
	return filepath.Join(append([]string{s.Dir}, elements...)...)
}

func (s *stack) logFile(name string) string    { return s.path("logs", name+".log") }
func (s *stack) recordFile(name string) string { return s.path("run", name+".json") }

func (s *stack) record(name string) (process.Record, error) {
	return process.Read(s.recordFile(name))
}

// rootHome is where root keeps of this stack what PostgreSQL's user must reach.
func (s *stack) rootHome() string { return filepath.Join(tools.RootDir, s.hash) }

func (s *stack) postgresData() string {
	if os.Geteuid() == 0 {
		return filepath.Join(s.rootHome(), "postgres")
	}
	return s.path("data", "postgres")
}

func (s *stack) port(name string) int { return s.portsOf(name)[0] }

func (s *stack) address(name string) string { return loopback(s.port(name)) }

func (s *stack) url(name string) string { return "http://" + s.address(name) }

// makeDirs makes the state directory. Its contents are for its user only: logs name events and merchants.
func (s *stack) makeDirs() error {
	for _, dir := range []string{s.Dir, s.path("run"), s.path("logs"), s.path("data")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the state directory: %w", err)
		}
	}
	return nil
}

func (s *stack) lock(ctx context.Context) (func(), error) { return tools.Lock(ctx, s.path("lock")) }

func (s *stack) saveSettings() error { return process.WriteJSON(s.path("stack.json"), s.was, 0o600) }

func (s *stack) drawSecrets() error {
	for _, field := range []*string{&s.secrets.Superuser, &s.secrets.API, &s.secrets.Reader, &s.secrets.CDC, &s.secrets.Worker} {
		*field = hex.EncodeToString(random(16))
	}
	var err error
	if s.secrets.Webhook, err = signing.NewSecret(signing.HMAC); err != nil {
		return err
	}
	if s.secrets.Callback, err = signing.NewSecret(signing.HMAC); err != nil {
		return err
	}
	return s.keepKeys(seal.NewKey(keyID(1)))
}

// drawSvixSecrets draws what a Svix server is reached by, once per state directory.
func (s *stack) drawSvixSecrets() error {
	if s.secrets.SvixToken != "" {
		return nil
	}
	var err error
	if s.secrets.SvixNews, err = signing.NewSecret(signing.HMAC); err != nil {
		return err
	}
	s.secrets.SvixToken = "testsk_" + hex.EncodeToString(random(16))
	return process.WriteJSON(s.path("secrets.json"), s.secrets, 0o600)
}

// callbackSecrets are whose callbacks the stack takes: the demo's provider, the Svix server, and whom the caller's
// environment names.
func (s *stack) callbackSecrets() string {
	ours := callback.Stripe + "=" + s.secrets.Callback
	if s.Svix {
		ours += "," + callback.Svix + "=" + s.secrets.SvixNews
	}
	if others := lookup(s.Environ, envCallbackSecrets); others != "" {
		return others + "," + ours
	}
	return ours
}

// keepKeys replaces the keys that seal merchants' secrets.
func (s *stack) keepKeys(keys string) error {
	s.secrets.EncryptionKeys = keys
	if err := s.secrets.Keys.UnmarshalText([]byte(keys)); err != nil {
		return fmt.Errorf("reading the new keys: %w", err)
	}
	return process.WriteJSON(s.path("secrets.json"), s.secrets, 0o600)
}

// keyID names the n-th key of a state directory.
func keyID(n int) string { return "k" + strconv.Itoa(n) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: see its documentation
	return b
}

func (s *stack) server(binaries pgserver.Binaries) pgserver.Server {
	return pgserver.Server{Binaries: binaries, DataDir: s.postgresData(), Port: s.port(Postgres), Password: s.secrets.Superuser}
}

func (s *stack) dsn() string {
	if s.secrets.Superuser == "" {
		return ""
	}
	return s.server(pgserver.Binaries{}).DSN(Database)
}

func readJSON(name string, v any) error {
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the state directory: %w", err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}
