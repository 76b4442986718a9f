package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// tiers is the order in which the components stop; those of a tier stop side by side. What takes work in
// goes first, and what others write to goes last.
var tiers = [][]string{
	{PaymentsAPI},
	workers, // they finish what is open: the merchant and the data must still answer
	{WorkerProxy, CDCRelay, DataService, MerchantSimulator, Svix},
	{Restate, Kafka},
	{Postgres},
}

// Down stops the stack of the state directory, and leaves its data.
func Down(ctx context.Context, dir string, progress func(line string)) error {
	s, unlock, err := openToStop(ctx, dir, progress)
	if err != nil || s == nil {
		return err
	}
	defer unlock()
	return s.down(ctx)
}

// Purge stops the stack of the state directory and removes its data.
func Purge(ctx context.Context, dir string, progress func(line string)) error {
	s, unlock, err := openToStop(ctx, dir, progress)
	if err != nil || s == nil {
		return err
	}
	defer unlock()
	if err := s.down(ctx); err != nil {
		return err
	}
	// By name: the directory may be one in which the user keeps other things too.
	for _, name := range []string{"run", "logs", "data", "stack.json", "secrets.json", "lock"} {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return fmt.Errorf("removing the state: %w", err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.RemoveAll(s.rootHome()); err != nil {
			return fmt.Errorf("removing the state: %w", err)
		}
	}
	os.Remove(s.Dir) // only where nothing else is in it
	s.say("removed the state in %s", s.Dir)
	return nil
}

// openToStop returns no stack where there is none.
func openToStop(ctx context.Context, dir string, progress func(string)) (*stack, func(), error) {
	s, err := openExisting(dir, progress)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, s.stopOrphans(ctx) // the directory was removed under them
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	return s, unlock, nil
}

func (s *stack) down(ctx context.Context) error {
	for _, tier := range tiers {
		group, ctx := errgroup.WithContext(ctx)
		for _, name := range tier {
			group.Go(func() error {
				began := time.Now()
				record, err := s.record(name)
				if err != nil {
					return err
				}
				if record.PID == 0 {
					return nil
				}
				running := record.Alive()
				if err := s.stop(ctx, record); err != nil {
					return err
				}
				if running {
					s.say("%-18s stopped after %.1f s", name, time.Since(began).Seconds())
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	if err := s.stopOrphans(ctx); err != nil {
		return err
	}
	s.announce()
	return nil
}
