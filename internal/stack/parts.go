package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/stack/restateserver"
	"github.com/hookline/hookline/migrations"
)

// part is a component as it is wanted.
type part struct {
	name        string
	fingerprint string
	command     func() (*exec.Cmd, error)
	prepare     func(ctx context.Context) error // before a start
	// restartable tells from the end of its log whether a start that failed may succeed a little later.
	restartable func(log string) bool
}

// programs are the binaries that are not ours.
type programs struct {
	postgres pgserver.Binaries
	restate  string
	jars     string // of Apache Kafka
	java     string
}

// parts are the components, with what identifies each one's build and settings.
func (s *stack) parts(ctx context.Context, p programs) (map[string]*part, error) {
	database := s.server(p.postgres)
	outliving := context.WithoutCancel(ctx) // the end of a command's context would kill what it started
	out := map[string]*part{
		Postgres: {
			command:     func() (*exec.Cmd, error) { return database.Command(outliving) },
			prepare:     s.preparePostgres(database),
			restartable: postgresMayStartLater,
		},
		Restate: {
			command: func() (*exec.Cmd, error) {
				return s.restate(p.restate).Command(outliving), nil
			},
			prepare: func(context.Context) error { return emptyDir(s.restate("").TempDir) },
		},
		Kafka: {
			command: func() (*exec.Cmd, error) {
				return exec.Command(filepath.Join(s.BinDir, "hookline"), "kfake",
					"--listen", s.address(Kafka), "--dir", s.path("data", "kfake")), nil
			},
		},
	}
	if s.Kafka == KafkaApache {
		out[Kafka] = s.apache(p)
	}
	brokers := map[string]string{"KAFKA_BROKERS": s.address(Kafka), "KAFKA_TOPIC": Topic}
	services := map[string]map[string]string{
		PaymentsAPI: {
			"DATABASE_URL":        database.RoleDSN(migrations.RoleAPI, s.secrets.API, Database),
			"RESTATE_INGRESS_URL": s.restate("").IngressURL(),
			envCallbackSecrets:    s.callbackSecrets(),
		},
		DataService: {"DATABASE_URL": database.RoleDSN(migrations.RoleReader, s.secrets.Reader, Database)},
		CDCRelay: {
			"DATABASE_URL":  database.RoleDSN(migrations.RoleCDC, s.secrets.CDC, Database),
			"KAFKA_BROKERS": brokers["KAFKA_BROKERS"], "KAFKA_TOPIC": brokers["KAFKA_TOPIC"],
		},
		WebhookWorker: {
			"DATABASE_URL":  database.RoleDSN(migrations.RoleWorker, s.secrets.Worker, Database),
			"KAFKA_BROKERS": brokers["KAFKA_BROKERS"], "KAFKA_TOPIC": brokers["KAFKA_TOPIC"],
			"DATA_SERVICE_URL":    s.url(DataService),
			"PAYMENTS_API_URL":    s.url(PaymentsAPI),
			"ENCRYPTION_KEYS":     s.secrets.EncryptionKeys,
			envCallbackSecrets:    s.callbackSecrets(),
			"ENDPOINT_ALLOW":      EndpointAllow,
			"INTAKE":              s.Intake,
			"KAFKA_GROUP":         consumerGroup,
			"RESTATE_INGRESS_URL": s.restate("").IngressURL(),
			"RESTATE_ADMIN_URL":   s.restate("").AdminURL(),
			"ADVERTISED_URL":      s.workerURL(),
		},
		MerchantSimulator: {
			"WEBHOOK_SECRETS": s.secrets.Webhook,
			"RECEIPTS_FILE":   s.path("data", "receipts.jsonl"),
		},
	}
	if s.Svix {
		out[Svix] = s.svix()
		services[WebhookWorker]["SVIX_URL"], services[WebhookWorker]["SVIX_TOKEN"] = s.url(Svix), s.secrets.SvixToken
	}
	if token := lookup(s.Environ, "API_TOKEN"); token != "" { // every service then wants it
		services[WebhookWorker]["DATA_SERVICE_TOKEN"], services[WebhookWorker]["PAYMENTS_API_TOKEN"] = token, token
	}
	for _, name := range workers[1:s.Workers] {
		services[name] = maps.Clone(services[WebhookWorker])
	}
	if s.Workers > 1 {
		out[WorkerProxy] = s.proxy()
	}
	for name, environ := range services {
		binary := filepath.Join(s.BinDir, name)
		if isWorker(name) {
			binary = filepath.Join(s.BinDir, WebhookWorker)
		}
		environ["LISTEN_ADDR"] = s.address(name)
		command, err := s.service(ctx, binary, environ)
		if err != nil {
			return nil, err
		}
		out[name] = &part{command: command}
	}
	for name, each := range out {
		each.name = name
		command := each.command
		each.command = func() (*exec.Cmd, error) {
			cmd, err := command()
			if err != nil {
				return nil, err
			}
			if cmd.Dir == "" {
				cmd.Dir = s.Dir
			}
			if cmd.Env == nil {
				cmd.Env = s.surroundings()
			}
			cmd.Env = append(cmd.Env, process.EnvState+"="+s.Dir, process.EnvComponent+"="+name)
			return cmd, nil
		}
		cmd, err := each.command()
		if err != nil {
			return nil, err
		}
		each.fingerprint, err = fingerprint(cmd, s.BinDir)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *stack) restate(binary string) restateserver.Server {
	listen := s.portsOf(Restate)
	tunables := map[string]string{}
	if s.Workers > 1 {
		// With the default of 128 all invocations share one connection, and so one worker.
		tunables["RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT"] = "2"
	}
	for _, entry := range s.Environ {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "RESTATE_") {
			tunables[name] = value
		}
	}
	return restateserver.Server{
		Binary: binary, DataDir: s.path("data", "restate"), TempDir: s.path("data", "restate-tmp"),
		IngressPort: listen[0], AdminPort: listen[1], FabricPort: listen[2],
		Settings: tunables,
	}
}

func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("emptying a temporary directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	return nil
}

// service is one of our own binaries. Of the caller's environment it gets the variables that it documents,
// except those that make it part of this stack.
func (s *stack) service(ctx context.Context, binary string, environ map[string]string) (func() (*exec.Cmd, error), error) {
	names, err := settingNames(ctx, binary)
	if err != nil {
		return nil, err
	}
	env := s.surroundings()
	for _, name := range names {
		if _, ours := environ[name]; ours {
			continue
		}
		if value := lookup(s.Environ, name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range environ {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return func() (*exec.Cmd, error) {
		cmd := exec.Command(binary)
		cmd.Env = slices.Clone(env)
		return cmd, nil
	}, nil
}

// settingNames asks a service for the names of its settings, so that each can be set by whoever runs up,
// also one that this package has never heard of.
func settingNames(ctx context.Context, binary string) ([]string, error) {
	out, err := exec.CommandContext(ctx, binary, "--help").Output()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: run make build", binary)
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for its settings: %w", binary, err)
	}
	return parseSettingNames(string(out)), nil
}

func parseSettingNames(help string) []string {
	var names []string
	for line := range strings.Lines(help) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "  "), " ")
		if strings.HasPrefix(line, "  ") && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" {
			names = append(names, name)
		}
	}
	return names
}

// outer are the variables that any program may need, and that make no difference to what it does.
var outer = []string{"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LANG", "LC_ALL", process.EnvState, process.EnvComponent}

// surroundings is the part of the caller's environment that every process gets.
func (s *stack) surroundings() []string {
	var env []string
	for _, name := range slices.Concat(outer, []string{"GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG"}) {
		if value := lookup(s.Environ, name); value != "" && name != process.EnvState && name != process.EnvComponent {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// fingerprint changes with the program, its arguments and its settings.
func fingerprint(cmd *exec.Cmd, binDir string) (string, error) {
	hash := sha256.New()
	info, err := os.Stat(cmd.Path)
	if err != nil {
		return "", fmt.Errorf("looking at a program: %w", err)
	}
	fmt.Fprintf(hash, "%s\x00", cmd.Path)
	if filepath.Dir(cmd.Path) == binDir {
		// Ours are rebuilt all the time, mostly to the same bytes.
		file, err := os.Open(cmd.Path)
		if err != nil {
			return "", fmt.Errorf("looking at a program: %w", err)
		}
		_, err = io.Copy(hash, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return "", fmt.Errorf("reading %s: %w", cmd.Path, err)
		}
	} else {
		fmt.Fprintf(hash, "%d %d\x00", info.Size(), info.ModTime().UnixNano())
	}
	for _, arg := range cmd.Args {
		fmt.Fprintf(hash, "%s\x00", arg)
	}
	env := slices.Clone(cmd.Env)
	slices.Sort(env)
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains(outer, name) {
			fmt.Fprintf(hash, "%s\x00", entry)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16]), nil
}

// stopping is how a component is asked to end, and how long it may take.
func stopping(name string) (syscall.Signal, time.Duration) {
	switch {
	case name == Postgres:
		return syscall.SIGINT, 30 * time.Second // fast: connections are cut, the data is flushed
	case isWorker(name):
		return syscall.SIGTERM, 45 * time.Second // it finishes the exchanges that are open
	case name == Restate || name == Kafka:
		return syscall.SIGTERM, 12 * time.Second
	default:
		return syscall.SIGTERM, 22 * time.Second // SHUTDOWN_TIMEOUT is 20 s
	}
}

// ready fails until the component does its job.
func (s *stack) ready(ctx context.Context, name string) error {
	switch name {
	case Postgres:
		conn, err := pgx.Connect(ctx, s.server(pgserver.Binaries{}).DSN("postgres"))
		if err != nil {
			return errors.New("it takes no connection yet") // the cause names the superuser
		}
		return conn.Close(ctx)
	case Kafka:
		client, err := s.kafkaClient()
		if err != nil {
			return err
		}
		defer client.Close()
		return client.Ping(ctx)
	case Restate:
		return s.restate("").Ready(ctx)
	case WorkerProxy:
		return getReady(ctx, "http://"+s.proxyStatus()+"/readyz")
	default:
		return getReady(ctx, s.url(name)+"/readyz")
	}
}

func getReady(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking whether it is ready: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking whether it is ready: %w", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // what came will do
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.Join(strings.Fields(string(body)), " "))
	}
	return nil
}

func (s *stack) kafkaClient() (*kgo.Client, error) {
	client, err := kgo.NewClient(kafka.Config{Brokers: []string{s.address(Kafka)}, Topic: Topic}.Options()...)
	if err != nil {
		return nil, fmt.Errorf("making a Kafka client: %w", err)
	}
	return client, nil
}
