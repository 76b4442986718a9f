package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hookline/hookline/internal/stack/process"
)

// ports of the components, the main one first.
var ports = map[string][]int{
	Postgres:          {15432},
	Kafka:             {19092},
	Restate:           {8080, 9070, 5122}, // ingress, admin and UI, fabric
	CDCRelay:          {3004},
	DataService:       {3002},
	WebhookWorker:     {9080}, // where it is the only one
	WorkerProxy:       {9080, 9085},
	MerchantSimulator: {4001},
	Svix:              {8071},
	PaymentsAPI:       {3001},
}

// kafkaController is the port that Apache Kafka has beside its main one.
const kafkaController = 19093

func (o Options) portsOf(name string) []int {
	base := ports[name]
	switch {
	case name == Kafka && o.Kafka == KafkaApache:
		base = []int{base[0], kafkaController}
	case isWorker(name) && (o.Workers > 1 || name != WebhookWorker):
		base = []int{workerPort(name)}
	}
	out := make([]int, len(base))
	for i, port := range base {
		out[i] = port + o.PortOffset
	}
	return out
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// free reports whether nobody listens at the port.
func free(ctx context.Context, port int) bool {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", loopback(port))
	if err != nil {
		return !errors.Is(err, syscall.EADDRINUSE)
	}
	listener.Close()
	return true
}

// registration tells the stacks of other users, who cannot look into our processes, who holds our ports.
type registration struct {
	User       string           `json:"user"`
	StateDir   string           `json:"state_dir"`
	WorkDir    string           `json:"work_dir"`   // where up was run
	Executable string           `json:"executable"` // what up was run by
	Processes  []process.Record `json:"processes"`
}

// registryDir is the same for all users, whatever their TMPDIR. Everybody may write there, so what is found
// in it only ever becomes a message.
const registryDir = "/tmp/hookline-stacks"

func (s *stack) register(dir string) error {
	var records []process.Record
	for _, name := range order {
		record, err := s.record(name)
		if err != nil {
			return err
		}
		if record.Alive() {
			records = append(records, record)
		}
	}
	file := filepath.Join(dir, s.hash+".json")
	if len(records) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the stack from the registry: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("making the registry: %w", err)
	}
	_ = os.Chmod(dir, 0o777|fs.ModeSticky) // past the umask; fails where another user made it, and did this
	workDir, _ := os.Getwd()
	executable, _ := os.Executable()
	return process.WriteJSON(file, registration{
		User: userName(os.Geteuid()), StateDir: s.Dir, WorkDir: workDir, Executable: executable, Processes: records,
	}, 0o644)
}

func userName(uid int) string {
	if account, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return account.Username
	}
	return "uid " + strconv.Itoa(uid)
}

// conflict explains who holds a port that a component needs, and what to do.
func conflict(dir, component string, port int) error {
	what := fmt.Sprintf("port %d, which %s needs, is held by ", port, component)
	if r, record, found := findRegistration(dir, port); found {
		return fmt.Errorf("%sanother Hookline stack: %s (pid %d) of user %s in %s; as %s run: %s",
			what, record.Name, record.PID, r.User, r.StateDir, r.User, r.downCommand())
	}
	const advice = "; stop it, or move the stack with --port-offset"
	h, found := findHolder(port)
	switch {
	case !found:
		return errors.New(what + "another process" + advice)
	case h.pid == 0:
		return fmt.Errorf("%sa process of user %s%s", what, userName(h.uid), advice)
	default:
		return fmt.Errorf("%s%s (pid %d) of user %s in %s%s", what, h.program, h.pid, userName(h.uid), h.dir, advice)
	}
}

func (r registration) downCommand() string {
	if r.StateDir == filepath.Join(r.WorkDir, ".hookline") {
		if relative, err := filepath.Rel(r.WorkDir, r.Executable); err == nil && !strings.HasPrefix(relative, "..") {
			return fmt.Sprintf("cd %s && %s down", r.WorkDir, relative)
		}
		return fmt.Sprintf("cd %s && %s down", r.WorkDir, r.Executable)
	}
	return fmt.Sprintf("%s down --dir %s", r.Executable, r.StateDir)
}

func findRegistration(dir string, port int) (registration, process.Record, bool) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json")) // the pattern is good
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var r registration
		if json.Unmarshal(content, &r) != nil {
			continue
		}
		for _, record := range r.Processes {
			for _, held := range record.Ports {
				if held == port && record.Alive() {
					return r, record, true
				}
			}
		}
	}
	return registration{}, process.Record{}, false
}

// holder is a process that listens; pid is 0 where only its user may be known to us.
type holder struct {
	pid, uid     int
	program, dir string
}

// findHolder looks the port up as the kernel tells it: the socket in /proc/net/tcp, its owner in /proc/PID/fd.
func findHolder(port int) (holder, bool) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			fields := strings.Fields(line)
			const listening = "0A"
			if len(fields) < 10 || fields[3] != listening || !strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			uid, err := strconv.Atoi(fields[7])
			if err != nil {
				continue
			}
			h := holder{uid: uid}
			h.pid = ownerOf("socket:[" + fields[9] + "]")
			if h.pid != 0 {
				proc := "/proc/" + strconv.Itoa(h.pid)
				program, _ := os.ReadFile(proc + "/comm")
				h.program = strings.TrimSpace(string(program))
				h.dir, _ = os.Readlink(proc + "/cwd")
			}
			return h, true
		}
	}
	return holder{}, false
}

func ownerOf(socket string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good; what is not ours to read is left out
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == socket {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}
