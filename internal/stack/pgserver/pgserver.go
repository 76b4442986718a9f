// Package pgserver runs a PostgreSQL server of our own from the machine's binaries: for the embedded stack
// and for tests. It makes no use of, and does not touch, a server that the machine already runs.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// MinMajor is the least major version that the migrations run on: 14 brought what the feeds' snapshot
// functions and replication need, and is the oldest that PostgreSQL still maintains.
const MinMajor = 14

// Binaries is a directory with initdb and postgres in it.
type Binaries struct {
	Dir   string
	Major int
}

// ErrNotFound says that the machine has no PostgreSQL that will do, and how to get one.
var ErrNotFound = errors.New("no PostgreSQL 14 or newer found: apt-get install postgresql")

// Find returns the newest PostgreSQL among dirs, the PATH and the places where packages put it.
func Find(ctx context.Context, dirs ...string) (Binaries, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern) // the only error is a bad pattern
		dirs = append(dirs, found...)
	}
	var best Binaries
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		fields := strings.Fields(string(out)) // postgres (PostgreSQL) 15.18 (Debian ...)
		if len(fields) < 3 {
			continue
		}
		digits, _, _ := strings.Cut(fields[2], ".")
		major, err := strconv.Atoi(strings.TrimRight(digits, "abcdefghijklmnopqrstuvwxyz"))
		if err != nil || major < MinMajor || major <= best.Major {
			continue
		}
		best = Binaries{Dir: dir, Major: major}
	}
	if best.Dir == "" {
		return best, ErrNotFound
	}
	return best, nil
}

// Server is one PostgreSQL: its data directory, its port on 127.0.0.1, and its superuser.
type Server struct {
	Binaries Binaries
	DataDir  string
	Port     int
	Password string            // of the superuser "hookline"
	Settings map[string]string // of postgresql.conf, over the defaults
}

// Superuser is the name of the server's superuser and of its first database.
const Superuser = "hookline"

// DSN is the address of a database on the server for its superuser.
func (s Server) DSN(database string) string { return s.RoleDSN(Superuser, s.Password, database) }

// RoleDSN is the same for another role.
func (s Server) RoleDSN(role, password, database string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", role, password, s.Port, database)
}

// Account returns the user that the server must run as: PostgreSQL refuses to run as root, so root starts
// it as "postgres", or as "nobody" where there is none; everybody else as themselves (nil).
func Account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
		if errUID == nil && errGID == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

// Init makes the data directory where it does not exist yet. The directory's parent must be reachable by
// Account's user.
func (s Server) Init(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.DataDir, "PG_VERSION")); err == nil {
		return nil
	}
	account, err := Account()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	passwordFile := s.DataDir + ".password" // beside it: initdb wants the directory empty
	if err := os.WriteFile(passwordFile, []byte(s.Password+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the superuser's password for initdb: %w", err)
	}
	defer os.Remove(passwordFile)
	if account != nil {
		for _, path := range []string{s.DataDir, passwordFile} {
			if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
				return fmt.Errorf("handing over the data directory: %w", err)
			}
		}
	}
	cmd := s.command(ctx, account, "initdb", "-D", s.DataDir, "-U", Superuser, "-E", "UTF8", "--locale=C",
		"--auth=scram-sha-256", "--pwfile="+passwordFile, "--no-instructions")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(s.DataDir) // a half-made one would be taken for whole
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Command is the server in the foreground, in a process group of its own; SIGINT stops it fast, SIGQUIT at once.
func (s Server) Command(ctx context.Context) (*exec.Cmd, error) {
	account, err := Account()
	if err != nil {
		return nil, err
	}
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.Port),
		"unix_socket_directories": "",
		"wal_level":               "logical",
		"max_wal_senders":         "10",
		"max_replication_slots":   "10",
		"max_connections":         "200",
		// A slot that nobody reads must not fill the disk: beyond this it is invalidated, and the
		// reconciler drives what it missed.
		"max_slot_wal_keep_size": "4GB",
		"max_wal_size":           "2GB",
		"shared_buffers":         "128MB",
		"jit":                    "off",
		// Commit-to-2xx is measured from the commit, which only the server knows.
		"track_commit_timestamp": "on",
		"timezone":               "UTC",
		"log_timezone":           "UTC",
	}
	for key, value := range s.Settings {
		settings[key] = value
	}
	args := []string{"-D", s.DataDir}
	keys := make([]string, 0, len(settings))
	for key := range settings {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		args = append(args, "-c", key+"="+settings[key])
	}
	return s.command(ctx, account, "postgres", args...), nil
}

func (s Server) command(ctx context.Context, account *syscall.Credential, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Binaries.Dir, name), args...)
	cmd.Dir = "/" // the caller's directory may be out of the account's reach
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: account}
	return cmd
}
