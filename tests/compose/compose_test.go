package compose_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/stack/restateserver"
	"github.com/hookline/hookline/migrations"
)

const root = "../.."

// bin holds the commands, built once.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hookline-compose-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return 1
	}
	bin = dir
	return m.Run()
}

// lookAtSources tells go test what a test rests on: it repeats a cached result as long as the files that the test looked
// at are the same, and knows nothing of what the compiler reads.
func lookAtSources(t *testing.T) {
	t.Helper()
	for _, name := range []string{"go.mod", "cmd", "internal", "migrations"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, name), func(name string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(name)
			}
			return err
		}))
	}
}

type dependency struct {
	Condition string
	Required  *bool
}

type service struct {
	Image       string
	Profiles    []string
	Command     []string
	Environment map[string]*string // nil is passed on from whoever runs compose
	Ports       []string
	Volumes     []string
	Restart     string
	ReadOnly    bool `yaml:"read_only"`
	Build       struct{ Args map[string]string }
	DependsOn   map[string]dependency `yaml:"depends_on"`
	Healthcheck struct {
		Test    []string
		Disable bool
	}
	Grace   string `yaml:"stop_grace_period"`
	Logging struct{ Driver string }
	Deploy  struct {
		Resources struct{ Limits struct{ Memory string } }
	}
}

// ours is the command of a service that runs a binary of this repository; empty where it does not.
func (s service) ours() string { return s.Build.Args["COMMAND"] }

func (s service) oneShot() bool { return s.ours() == "hookline" }

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var file struct {
		Services map[string]service
		Volumes  map[string]any
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "docker-compose.yml")), &file))
	require.Greater(t, len(file.Services), 15)
	for name, s := range file.Services {
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(source, "./") {
				require.FileExists(t, filepath.Join(root, filepath.FromSlash(existing(source))), "%s mounts it, and Docker would make a directory of it", name)
			} else {
				require.Contains(t, file.Volumes, source, name)
			}
		}
	}
	return file.Services
}

// existing is a file of a directory that is mounted whole.
func existing(source string) string {
	inside := map[string]string{
		"./deploy/prometheus": "prometheus.yml", "./deploy/grafana/provisioning": "datasources/prometheus.yml", "./deploy/grafana/dashboards": "pipeline.json",
	}
	return filepath.Join(source, inside[source])
}

// dotenv reads the variables that a file for compose sets.
func dotenv(t *testing.T, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(read(t, name)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && !strings.HasPrefix(key, "#") {
			out[key] = value
		}
	}
	return out
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+)(:[-?]([^}]*))?\}`)

// environ is what a service gets of compose with what .env says.
func environ(t *testing.T, s service) []string {
	t.Helper()
	values := dotenv(t, ".env")
	var out []string
	for name, value := range s.Environment {
		if value == nil {
			continue
		}
		out = append(out, name+"="+variable.ReplaceAllStringFunc(*value, func(text string) string {
			return values[variable.FindStringSubmatch(text)[1]]
		}))
	}
	return out
}

func TestEveryVariableThatIsAskedForIsInBothEnvironments(t *testing.T) {
	t.Parallel()
	values, explained := dotenv(t, ".env"), dotenv(t, ".env.example")
	asked := map[string]bool{"COMPOSE_PROFILES": true}
	for _, match := range variable.FindAllStringSubmatch(read(t, "docker-compose.yml"), -1) {
		if strings.HasPrefix(match[2], ":-") {
			continue
		}
		asked[match[1]] = true
		require.NotEmpty(t, values[match[1]], "%s has no value for demos", match[1])
		require.Contains(t, explained, match[1])
	}
	for name := range values {
		require.True(t, asked[name], "nobody asks for %s", name)
		require.Contains(t, explained, name)
	}
	for name, value := range explained {
		require.Contains(t, values, name)
		if name != "COMPOSE_PROFILES" {
			require.Empty(t, value, "%s: a value there would be taken for a secret", name)
		}
	}
	require.Equal(t, "sequin", values["COMPOSE_PROFILES"], "a bare docker compose up is the whole architecture")
}

func TestPortsArePublishedOnLoopbackOnlyAndOnce(t *testing.T) {
	t.Parallel()
	taken := map[string]string{}
	for name, s := range services(t) {
		for _, port := range s.Ports {
			port = variable.ReplaceAllString(port, "$3")
			port = strings.TrimPrefix(port, "-")
			parts := strings.Split(port, ":")
			require.Len(t, parts, 3, "%s publishes %s", name, port)
			require.Equal(t, "127.0.0.1", parts[0], "%s publishes %s", name, port)
			require.Empty(t, taken[parts[1]], "port %s of %s", parts[1], name)
			taken[parts[1]] = name
		}
	}
	for port, name := range map[string]string{
		"3001": "payments-api", "3002": "data-service", "3004": "cdc-relay", "9080": "webhook-worker", "4001": "merchant-simulator",
		"3000": "in-memory-baseline", "4000": "baseline-merchant", "3005": "grafana", "9090": "prometheus", "7376": "sequin", "8071": "svix-server",
		"8080": "restate", "9070": "restate", "15432": "postgres", "19092": "kafka",
	} {
		require.Equal(t, name, taken[port], "port %s", port)
	}
}

func TestEveryServiceIsPinnedLimitedWatchedAndStartedAgain(t *testing.T) {
	t.Parallel()
	for name, s := range services(t) {
		require.NotEmpty(t, s.Deploy.Resources.Limits.Memory, name)
		require.Equal(t, "local", s.Logging.Driver, name)
		if s.ours() == "" {
			_, tag, _ := strings.Cut(s.Image, ":")
			require.NotEmpty(t, strings.TrimPrefix(tag, "latest"), "%s runs %s", name, s.Image)
			require.NotEmpty(t, s.Healthcheck.Test, name)
		} else {
			require.FileExists(t, filepath.Join(bin, s.ours()), name)
			require.Equal(t, "hookline/"+s.ours(), s.Image, name)
			require.True(t, s.ReadOnly, name)
			require.Equal(t, s.oneShot(), s.Healthcheck.Disable, "%s: the image has a health check of its own, which only a service passes", name)
		}
		if s.oneShot() {
			require.Equal(t, "on-failure:5", s.Restart, name)
		} else {
			require.Equal(t, "unless-stopped", s.Restart, name)
		}
	}
}

func TestServicesTakeWhatTheyAreGiven(t *testing.T) {
	t.Parallel()
	lookAtSources(t)
	for name, s := range services(t) {
		if s.ours() == "" || s.oneShot() {
			continue
		}
		help, err := exec.CommandContext(t.Context(), filepath.Join(bin, s.ours()), "--help").Output()
		require.NoError(t, err)
		for setting := range s.Environment {
			if setting != "GOMEMLIMIT" { // the runtime's
				require.Regexp(t, `(?m)^  `+setting+` `, string(help), "%s has no such setting", name)
			}
		}
		check := exec.CommandContext(t.Context(), filepath.Join(bin, s.ours()), "--check")
		check.Env = environ(t, s)
		out, err := check.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)

		stop := regexp.MustCompile(`(?m)^  SHUTDOWN_TIMEOUT +duration +(\S+)`).FindStringSubmatch(string(help))
		require.NotNil(t, stop, name)
		require.Greater(t, duration(t, s.Grace), duration(t, stop[1]), "%s is killed before it has stopped", name)
	}
	require.Equal(t, "45s", services(t)["webhook-worker"].Grace)
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

func TestOneShotsAreVerbsThatSomebodyWaitsFor(t *testing.T) {
	t.Parallel()
	lookAtSources(t)
	all := services(t)
	waited := map[string]bool{}
	for name, s := range all {
		for other, how := range s.DependsOn {
			waited[other] = waited[other] || how.Condition == "service_completed_successfully"
			if all[other].oneShot() {
				require.Equal(t, "service_completed_successfully", how.Condition, "%s and %s", name, other)
			}
			// A service of a profile that is not chosen is in nobody's way.
			if len(all[other].Profiles) > 0 && !slices.Equal(all[other].Profiles, s.Profiles) {
				require.NotNil(t, how.Required, "%s and %s", name, other)
				require.False(t, *how.Required, "%s and %s", name, other)
			}
			require.NotEqual(t, "sequin", other, "nothing waits for Sequin itself")
		}
	}
	for name, s := range all {
		if !s.oneShot() {
			continue
		}
		require.True(t, waited[name], "%s: docker compose up --wait takes the end of a service that nobody waits for as a failure", name)
		help, err := exec.CommandContext(t.Context(), filepath.Join(bin, "hookline"), s.Command[0], "--help").Output()
		require.NoError(t, err, name)
		for _, flag := range s.Command[1:] {
			if strings.HasPrefix(flag, "--") {
				require.Contains(t, string(help), "\n  "+strings.TrimPrefix(flag, "-")+" ", name)
			}
		}
	}
}

// flag is the value behind a flag of a one-shot.
func flag(t *testing.T, s service, name string) string {
	t.Helper()
	at := slices.Index(s.Command, name)
	require.GreaterOrEqual(t, at, 0, name)
	return s.Command[at+1]
}

func TestNamesAreOneAcrossComposeSequinAndTheCode(t *testing.T) {
	t.Parallel()
	all := services(t)
	var sequin struct {
		Databases []struct {
			Name, Database, Username, Hostname string
			Slot, Publication                  map[string]any
		}
		Functions []struct{ Name, Type, Path string }
		Sinks     []struct {
			Database    string
			Transform   string
			Actions     []string
			BatchSize   int `yaml:"batch_size"`
			Source      map[string][]string
			Destination struct{ Type, Topic, Compression string }
			Tables      []struct {
				Name  string
				Group []string `yaml:"group_column_names"`
			}
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "sequin.yaml")), &sequin))
	require.Len(t, sequin.Databases, 1)
	database := sequin.Databases[0]
	require.Equal(t, []string{stack.Database, migrations.RoleCDC, "postgres"}, []string{database.Database, database.Username, database.Hostname})
	require.Equal(t, map[string]any{"name": migrations.Publication}, database.Publication, "it exists: Sequin checks that, and makes none")
	require.Equal(t, map[string]any{"name": flag(t, all["cdc-init-sequin"], "--name")}, database.Slot)

	require.Len(t, sequin.Sinks, 1)
	sink := sequin.Sinks[0]
	require.Equal(t, database.Name, sink.Database)
	require.Equal(t, []string{"insert"}, sink.Actions)
	require.Equal(t, "kafka "+stack.Topic+" none", sink.Destination.Type+" "+sink.Destination.Topic+" "+sink.Destination.Compression)
	require.Equal(t, map[string][]string{"include_tables": {"public.domain_events"}}, sink.Source)
	require.Equal(t, "public.domain_events", sink.Tables[0].Name)
	require.Equal(t, []string{"merchant_id"}, sink.Tables[0].Group, "the record's key, as of the relay")
	require.Equal(t, 200, sink.BatchSize)
	require.Equal(t, "record-only path record", sink.Transform+" "+sequin.Functions[0].Type+" "+sequin.Functions[0].Path)
	for _, match := range variable.FindAllStringSubmatch(read(t, "sequin.yaml"), -1) {
		require.NotNil(t, all["sequin"].Environment[match[1]], "sequin.yaml asks for %s", match[1])
	}

	topic := all["kafka-init"]
	require.Equal(t, stack.Topic, flag(t, topic, "--name"))
	require.Equal(t, *all["webhook-worker"].Environment["TOPIC_RETENTION"], flag(t, topic, "--retention"))
	require.Equal(t, "hookline_relay", flag(t, all["cdc-init-relay"], "--name"), "the default of SLOT_NAME")
}

func TestRestateRunsAsInTheEmbeddedStack(t *testing.T) {
	t.Parallel()
	embedded := map[string]string{}
	server := restateserver.Server{IngressPort: 8080, AdminPort: 9070, FabricPort: 5122, DataDir: "/restate-data"}
	for _, entry := range server.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "RESTATE_") {
			embedded[name] = value
		}
	}
	// What is another machine's, and what the embedded stack sets with several workers, which compose may have any time.
	embedded["RESTATE_BIND_IP"] = "0.0.0.0"
	embedded["RESTATE_ADVERTISED_HOST"] = "restate"
	embedded["RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT"] = "2"
	composed := map[string]string{}
	for name, value := range services(t)["restate"].Environment {
		composed[name] = *value
	}
	require.Empty(t, cmp.Diff(embedded, composed))
}

// jwtOf signs the claims as Svix's server does.
func jwtOf(secret, organization string) string {
	encode := base64.RawURLEncoding.EncodeToString
	content := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"iat":1700000000,"exp":2000000000,"nbf":1700000000,"iss":"svix-server","sub":%q}`, organization))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(content))
	return content + "." + encode(mac.Sum(nil))
}

func TestSvixTakesTheTokensAndItsNewsIsLetIn(t *testing.T) {
	t.Parallel()
	values, all := dotenv(t, ".env"), services(t)
	secret := values["SVIX_JWT_SECRET"]
	require.Equal(t, jwtOf(secret, "org_23rb8YdGqMT0qIzpgGwdXfHirMu"), values["SVIX_TOKEN"])
	require.Equal(t, jwtOf(secret, "org_00000000000SvixManagement00"), values["SVIX_MANAGEMENT_TOKEN"])
	require.Contains(t, strings.Split(values["CALLBACK_SECRETS"], ","), callback.Svix+"="+values["SVIX_OPERATIONAL_SECRET"])
	require.Equal(t, "http://payments-api:3001/callbacks/"+callback.Svix, flag(t, all["svix-init"], "--operational"))
	require.Equal(t, flag(t, all["seed"], "--url"), flag(t, all["svix-init"], "--url"), "the merchant has one simulator")
	require.Contains(t, *all["webhook-worker"].Environment["SVIX_URL"], *all["svix-init"].Environment["SVIX_URL"])
}
