package stack

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/stack/process"
)

func TestASvixServerIsThereOnlyWhereItIsWanted(t *testing.T) {
	t.Parallel()
	s, parts := wanted(t, 1)
	require.NotContains(t, parts, Svix)
	require.NotContains(t, s.components(), Svix)
	worker, err := parts[WebhookWorker].command()
	require.NoError(t, err)
	require.Empty(t, lookup(worker.Env, EnvSvixToken))
	before := map[string]string{}
	for name, each := range parts {
		before[name] = each.fingerprint
	}

	s.Svix, s.secrets.Callback = true, "whsec_of_the_demo"
	require.NoError(t, s.drawSvixSecrets())
	token, news := s.secrets.SvixToken, s.secrets.SvixNews
	require.NoError(t, s.drawSvixSecrets())
	require.Equal(t, []string{token, news}, []string{s.secrets.SvixToken, s.secrets.SvixNews}, "Svix counts idempotency keys by token")
	again, err := open(Options{Dir: s.Dir}, nil)
	require.NoError(t, err)
	require.Equal(t, token, again.secrets.SvixToken)

	p := programs{restate: filepath.Join(s.BinDir, Restate)}
	p.postgres.Dir = s.BinDir
	parts, err = s.parts(t.Context(), p)
	require.NoError(t, err)
	server, err := parts[Svix].command()
	require.NoError(t, err)
	require.Equal(t, []string{
		s.BinDir + "/hookline", "svix", "--listen", "127.0.0.1:8071", "--operational", "http://127.0.0.1:3001/callbacks/svix",
	}, server.Args)
	require.Equal(t, []string{token, news, Svix}, []string{lookup(server.Env, EnvSvixToken), lookup(server.Env, EnvSvixNews), lookup(server.Env, process.EnvComponent)})
	worker, err = parts[WebhookWorker].command()
	require.NoError(t, err)
	require.Equal(t, []string{token, "http://127.0.0.1:8071"}, []string{lookup(worker.Env, EnvSvixToken), lookup(worker.Env, "SVIX_URL")})
	for _, name := range []string{WebhookWorker, PaymentsAPI} {
		command, err := parts[name].command()
		require.NoError(t, err)
		var providers callback.Providers
		require.NoError(t, providers.UnmarshalText([]byte(lookup(command.Env, envCallbackSecrets))))
		require.Equal(t, []string{callback.Stripe, callback.Svix}, providers.Names())
		require.NotEqual(t, before[name], parts[name].fingerprint, "%s is started anew", name)
	}
	require.Equal(t, before[DataService], parts[DataService].fingerprint)
}

func TestAStackThatHadASvixServerIsReadWithIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, process.WriteJSON(filepath.Join(dir, "stack.json"), settings{Intake: IntakeBatches, Kafka: KafkaFake, PortOffset: 40, Workers: 1, Svix: true}, 0o600))
	status, err := ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:8111", status.Address(Svix))
	require.Equal(t, StateStopped, status.State(Svix))
}
