package stack

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/testkit/child"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func keyring(t *testing.T, keys ...string) seal.Keyring {
	t.Helper()
	var out seal.Keyring
	require.NoError(t, out.UnmarshalText([]byte(strings.Join(keys, ","))))
	return out
}

func manager(t *testing.T, pool *pgxpool.Pool, keys ...string) *endpoint.Manager {
	t.Helper()
	guard, err := EmbeddedGuard()
	require.NoError(t, err)
	return Endpoints(pool, keyring(t, keys...), guard)
}

func addOne(t *testing.T, m *endpoint.Manager) uuid.UUID {
	t.Helper()
	added, _, err := m.Add(t.Context(), endpoint.Spec{MerchantID: "m", URL: "http://127.0.0.1:9/?token=t", Headers: map[string]string{"X-Api-Key": "k"}})
	require.NoError(t, err)
	return added.ID
}

func nothing(int, int) {}

func TestSealingAnewIsNotDoneWhileSomebodySealsWithAnotherKey(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	before := manager(t, pool, old)
	addOne(t, before)
	keys := keyring(t, fresh, old)
	_, err := SealAnew(t.Context(), manager(t, pool, fresh, old), keys, func(int, int) { addOne(t, before) })
	require.ErrorContains(t, err, "somebody sealed with old meanwhile: put fresh first for everybody who seals, and run this again")

	result, err := SealAnew(t.Context(), manager(t, pool, fresh, old), keys, nothing)
	require.NoError(t, err)
	require.Equal(t, KeyRotation{Key: "fresh", Endpoints: 2, Changed: 1, Unused: []string{"old"}}, result)
	_, err = SealAnew(t.Context(), before, seal.Keyring{}, nothing)
	require.ErrorContains(t, err, "there is no key to seal with")
}

// halfStack is a state directory with a database that runs, and nothing else.
func halfStack(t *testing.T) (string, *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	cfg, err := pgx.ParseConfig(db.DSN())
	require.NoError(t, err)
	admin := func(statement string) {
		ctx := context.WithoutCancel(t.Context()) // also in a cleanup
		conn, err := pgx.Connect(ctx, strings.Replace(db.DSN(), db.Name, "postgres", 1))
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, statement)
		require.NoError(t, err)
	}
	admin("create database " + Database + " template " + db.Name)
	t.Cleanup(func() { admin("drop database " + Database + " with (force)") })
	pool, err := pgxpool.New(t.Context(), strings.Replace(db.DSN(), db.Name, Database, 1))
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	dir := t.TempDir()
	s, err := open(Options{Dir: dir}, nil)
	require.NoError(t, err)
	require.NoError(t, s.makeDirs())
	s.was = settings{Intake: IntakeBatches, Kafka: KafkaFake, Workers: 1}
	s.was.PortOffset = int(cfg.Port) - s.port(Postgres)
	require.NoError(t, s.saveSettings())
	s.secrets.Superuser = cfg.Password
	require.NoError(t, s.keepKeys(seal.NewKey("k1")))
	identity, err := process.Of(os.Getpid()) // a process that runs
	require.NoError(t, err)
	require.NoError(t, process.Record{Identity: identity, Name: Postgres}.Write(s.recordFile(Postgres)))
	return dir, pool
}

func TestARotationOfTheStacksKeysCanBeKilledAnywhere(t *testing.T) {
	t.Parallel()
	dir, pool := halfStack(t)
	kept := func() []string {
		s, err := openExisting(dir, nil)
		require.NoError(t, err)
		return strings.Split(s.secrets.EncryptionKeys, ",")
	}
	keep := func(keys ...string) {
		s, err := openExisting(dir, nil)
		require.NoError(t, err)
		require.NoError(t, s.keepKeys(strings.Join(keys, ",")))
	}
	var ids []uuid.UUID
	rotate := func(to string) {
		result, err := RotateKeys(t.Context(), dir, nil, nothing)
		require.NoError(t, err)
		require.Equal(t, to, result.Key)
		require.Equal(t, len(ids), result.Endpoints)
		require.Len(t, kept(), 1)
		alone := manager(t, pool, kept()...)
		for _, id := range ids {
			got, err := alone.Recipient(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, "http://127.0.0.1:9/?token=t", got.URL)
		}
	}
	ids = append(ids, addOne(t, manager(t, pool, kept()...)), addOne(t, manager(t, pool, kept()...)))
	rotate("k2")

	// Killed when the new key was drawn.
	k2, k3 := kept()[0], seal.NewKey("k3")
	keep(k2, k3)
	ids = append(ids, addOne(t, manager(t, pool, kept()...)))
	rotate("k3")
	require.Equal(t, k3, kept()[0])

	// Killed in the middle of sealing. Ten is more than nine.
	k9, k10 := seal.NewKey("k9"), seal.NewKey("k10")
	keep(k9, k3)
	rotate("k9")
	keep(k10, k9)
	ids = append(ids, addOne(t, manager(t, pool, kept()...)))
	rotate("k10")

	// With something that is not sealed, and then with something that nobody here can open.
	plain, err := signing.NewSecret(signing.HMAC)
	require.NoError(t, err)
	unsealed := func(text string) {
		_, err := pool.Exec(t.Context(), "update delivery.endpoint_secrets set sealed = $2 where endpoint_id = $1", [16]byte(ids[0]), text)
		require.NoError(t, err)
	}
	unsealed(plain)
	rotate("k11")
	got, err := manager(t, pool, kept()...).Recipient(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, plain, got.Secrets[0].Value)
	before := kept()
	unsealed("lost.text")
	_, err = RotateKeys(t.Context(), dir, nil, nothing)
	require.ErrorContains(t, err, "ENCRYPTION_KEYS lacks lost, which endpoints are sealed with: nothing was changed")
	require.Equal(t, before, kept())
	unsealed(plain)

	// Cut short by its context, in the middle of sealing.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = RotateKeys(ctx, dir, nil, func(int, int) { cancel() })
	require.Error(t, err)
	require.Len(t, kept(), 2, "both are kept until everything is sealed")
	require.Equal(t, []string{"k12", "k11"}, keyring(t, kept()...).IDs())
	rotate("k12")
}

func TestARotationOfTheStacksKeysWaitsForWhoSeals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, process.WriteJSON(filepath.Join(dir, "secrets.json"), secrets{EncryptionKeys: seal.NewKey("k1")}, 0o600))
	release, err := Hold(t.Context(), dir)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = RotateKeys(ctx, dir, nil, nothing)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	release()
	_, err = RotateKeys(t.Context(), dir, nil, nothing)
	require.ErrorContains(t, err, "the stack does not run")
	release, err = Hold(t.Context(), filepath.Join(dir, "none"))
	require.NoError(t, err)
	release()
	require.NoDirExists(t, filepath.Join(dir, "none"))
}

const envStandIn = "HOOKLINE_TEST_STAND_IN"

// A worker of these tests is this program, which then does nothing but say that it is ready.
func init() {
	if os.Getenv(envStandIn) == "" {
		return
	}
	server := http.Server{Addr: os.Getenv("LISTEN_ADDR"), ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	_ = server.ListenAndServe()
	os.Exit(1)
}

func TestAWorkerGetsOtherKeysAndKeepsItsOtherSettings(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	ports, err := child.FreePorts(1)
	require.NoError(t, err)
	s, err := open(Options{Dir: t.TempDir(), Workers: 1}, nil)
	require.NoError(t, err)
	s.PortOffset = ports[0] - s.port(WebhookWorker)
	require.NoError(t, s.makeDirs())
	k1, k2 := seal.NewKey("k1"), seal.NewKey("k2")
	require.NoError(t, s.keepKeys(k1))
	settings := func(keys string) []string {
		return []string{envStandIn + "=1", "LISTEN_ADDR=" + s.address(WebhookWorker), "RETRY_SCHEDULE=1s,2s", envEncryptionKeys + "=" + keys}
	}
	wanted := func(keys string) string {
		cmd := exec.Command(self)
		cmd.Env = settings(keys)
		print, err := fingerprint(cmd, filepath.Dir(self))
		require.NoError(t, err)
		return print
	}
	require.NoError(t, s.start(t.Context(), &part{name: WebhookWorker, command: func() (*exec.Cmd, error) {
		cmd := exec.Command(self)
		cmd.Env = settings(k1)
		return cmd, nil
	}}))
	running := func() process.Record {
		record, err := s.record(WebhookWorker)
		require.NoError(t, err)
		require.True(t, record.Alive())
		return record
	}
	t.Cleanup(func() {
		record, err := s.record(WebhookWorker)
		require.NoError(t, err)
		_, err = record.Stop(context.WithoutCancel(t.Context()), syscall.SIGKILL, time.Second)
		require.NoError(t, err)
	})
	first := running()
	require.NoError(t, s.restartWorkers(t.Context()))
	require.Equal(t, first, running(), "it has the keys")

	require.NoError(t, s.keepKeys(k1+","+k2))
	require.NoError(t, s.restartWorkers(t.Context()))
	second := running()
	require.NotEqual(t, first.Identity, second.Identity)
	program, environ, err := commandOf(second.PID)
	require.NoError(t, err)
	require.Equal(t, self, program)
	slices.Sort(environ)
	require.Equal(t, slices.Sorted(slices.Values(settings(k1+","+k2))), environ)
	require.Equal(t, wanted(k1+","+k2), second.Fingerprint, "up takes it for what it wants")

	require.NoError(t, s.keepKeys(k2+","+k1))
	require.NoError(t, s.restartWorkers(t.Context()))
	require.Equal(t, second, running(), "for who only opens, the order makes no difference")

	_, err = second.Stop(t.Context(), syscall.SIGKILL, time.Second)
	require.NoError(t, err)
	require.NoError(t, s.keepKeys(k2))
	require.NoError(t, s.restartWorkers(t.Context()))
	record, err := s.record(WebhookWorker)
	require.NoError(t, err)
	require.False(t, record.Alive(), "one that does not run is up's to start")
}
