package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
)

const envEncryptionKeys = "ENCRYPTION_KEYS"

// KeyRotation is what came of sealing the endpoints anew.
type KeyRotation struct {
	Key       string `json:"key"`       // that everything is sealed with now
	Endpoints int    `json:"endpoints"` // that are sealed with it
	Changed   int    `json:"changed"`   // that were not before
	// Unused are the other keys of the ring. No endpoint needs them any more.
	Unused []string `json:"unused_keys"`
}

// SealAnew seals what is secret of every endpoint with the first of the keys. It changes nothing where an endpoint is
// sealed with a key that is not among them. It fails where somebody went on to seal with another key; then, or when it was
// cut short, it may be run again.
func SealAnew(ctx context.Context, manager *endpoint.Manager, keys seal.Keyring, progress func(done, of int)) (KeyRotation, error) {
	ids := keys.IDs()
	if len(ids) == 0 {
		return KeyRotation{}, errors.New("there is no key to seal with")
	}
	before, err := manager.KeysInUse(ctx)
	if err != nil {
		return KeyRotation{}, err
	}
	delete(before, "") // what is not sealed needs no key
	if missing := otherThan(before, ids); len(missing) > 0 {
		return KeyRotation{}, fmt.Errorf("%s lacks %s, which endpoints are sealed with: nothing was changed", envEncryptionKeys, strings.Join(missing, ", "))
	}
	changed, err := manager.Reseal(ctx, progress)
	if err != nil {
		return KeyRotation{}, err
	}
	after, err := manager.KeysInUse(ctx)
	if err != nil {
		return KeyRotation{}, err
	}
	if still := otherThan(after, ids[:1]); len(still) > 0 {
		return KeyRotation{}, fmt.Errorf("somebody sealed with %s meanwhile: put %s first for everybody who seals, and run this again", strings.Join(still, ", "), ids[0])
	}
	return KeyRotation{Key: ids[0], Endpoints: after[ids[0]], Changed: changed, Unused: ids[1:]}, nil
}

func otherThan(used map[string]int, ids []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(used)), func(id string) bool { return slices.Contains(ids, id) })
}

// Hold keeps the stack of the state directory, and its keys, what they are until the returned function is called.
func Hold(ctx context.Context, dir string) (func(), error) {
	s, err := open(Options{Dir: dir}, nil)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // there is nothing that could change
	}
	return s.lock(ctx)
}

// RotateKeys replaces the key that seals merchants' secrets in the running stack. It may be killed anywhere, and run again:
//
//  1. A new key is drawn, and kept behind the old one: whoever seals goes on with the old one.
//  2. Each worker that has other keys is restarted with both.
//  3. The new key is put first: whoever seals from now on does so with the new one. Who began before holds the stack
//     (Hold), and is waited for.
//  4. Everything is sealed anew. Killed before the end of this, the next run begins here, with the same key.
//  5. The old key goes, and the workers are restarted without it. Killed in between, they have a key too many.
func RotateKeys(ctx context.Context, dir string, say func(line string), progress func(done, of int)) (KeyRotation, error) {
	unlock, err := Hold(ctx, dir)
	if err != nil {
		return KeyRotation{}, err
	}
	defer unlock()
	s, err := openExisting(dir, say) // what is kept may have changed until now
	if err != nil {
		return KeyRotation{}, err
	}
	database, err := s.record(Postgres)
	if err != nil {
		return KeyRotation{}, err
	}
	if !database.Alive() || s.ready(ctx, Postgres) != nil || s.secrets.EncryptionKeys == "" {
		return KeyRotation{}, errors.New("the stack does not run: hookline up starts it; or set DATABASE_URL to another ledger")
	}
	// With the keys as they are, what cannot be opened is found before anything is changed, and what is not sealed yet is:
	// no worker gets ready over it.
	if _, err := s.sealAnew(ctx, func(int, int) {}); err != nil {
		return KeyRotation{}, err
	}
	list := strings.Split(s.secrets.EncryptionKeys, ",")
	slices.SortStableFunc(list, func(a, b string) int { return keyNumber(b) - keyNumber(a) }) // the newest first
	if len(list) == 1 {
		list = slices.Insert(list, 0, seal.NewKey(keyID(keyNumber(list[0])+1)))
		if err := s.keepKeys(strings.Join(append(slices.Clone(list[1:]), list[0]), ",")); err != nil {
			return KeyRotation{}, err
		}
	}
	if err := s.restartWorkers(ctx); err != nil {
		return KeyRotation{}, err
	}
	if err := s.keepKeys(strings.Join(list, ",")); err != nil {
		return KeyRotation{}, err
	}
	result, err := s.sealAnew(ctx, progress)
	if err != nil {
		return KeyRotation{}, err
	}
	if err := s.keepKeys(list[0]); err != nil {
		return KeyRotation{}, err
	}
	return result, s.restartWorkers(ctx)
}

// keyNumber is what keyID made the key's id of; 0 for an id of somebody else's.
func keyNumber(key string) int {
	id, _, _ := strings.Cut(key, ":")
	n, _ := strconv.Atoi(strings.TrimPrefix(id, "k")) // 0 will do
	return n
}

func (s *stack) sealAnew(ctx context.Context, progress func(done, of int)) (KeyRotation, error) {
	pool, err := postgres.NewPool(ctx, s.dsn(), postgres.Options{ApplicationName: "hookline keys"})
	if err != nil {
		return KeyRotation{}, err
	}
	defer pool.Close()
	guard, err := EmbeddedGuard()
	if err != nil {
		return KeyRotation{}, err
	}
	return SealAnew(ctx, Endpoints(pool, s.secrets.Keys, guard), s.secrets.Keys, progress)
}

// restartWorkers gives the workers that run, one after the other, the keys of the state directory, where theirs hold others.
// All their other settings stay, and so the next up takes them for what it wants.
func (s *stack) restartWorkers(ctx context.Context) error {
	for _, name := range workers {
		record, err := s.record(name)
		if err != nil {
			return err
		}
		if !record.Alive() {
			continue
		}
		program, environ, err := commandOf(record.PID)
		if err != nil {
			return err
		}
		if sameKeys(lookup(environ, envEncryptionKeys), s.secrets.EncryptionKeys) {
			continue
		}
		environ = slices.DeleteFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, envEncryptionKeys+"=") })
		environ = append(environ, envEncryptionKeys+"="+s.secrets.EncryptionKeys)
		next := &part{name: name, command: func() (*exec.Cmd, error) {
			cmd := exec.Command(program)
			cmd.Dir, cmd.Env = s.Dir, slices.Clone(environ)
			return cmd, nil
		}}
		cmd, err := next.command()
		if err != nil {
			return err
		}
		if next.fingerprint, err = fingerprint(cmd, filepath.Dir(program)); err != nil {
			return err
		}
		if err := s.stop(ctx, record); err != nil {
			return err
		}
		if err := s.start(ctx, next); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// commandOf is the program, and the environment, that a process of ours was started with. It has no arguments.
func commandOf(pid int) (string, []string, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	line, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return "", nil, fmt.Errorf("looking at pid %d: %w", pid, err)
	}
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil {
		return "", nil, fmt.Errorf("looking at pid %d: %w", pid, err)
	}
	program, _, _ := strings.Cut(string(line), "\x00")
	return program, strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00"), nil
}

// sameKeys reports whether two lists hold the same keys: for who only opens, their order makes no difference.
func sameKeys(a, b string) bool {
	return slices.Equal(slices.Sorted(strings.SplitSeq(a, ",")), slices.Sorted(strings.SplitSeq(b, ",")))
}
