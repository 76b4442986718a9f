package stack

import (
	"context"
	"errors"
)

// Up starts what does not run, restarts what differs from what the options ask for, and waits until
// everything is ready. progress, which may be nil, gets one line at a time for a person to read.
func Up(_ context.Context, _ Options, _ func(line string)) (Status, error) {
	return Status{}, errors.New("not implemented")
}

// Down stops the stack of the state directory, and leaves its data.
func Down(_ context.Context, _ Options, _ func(line string)) error {
	return errors.New("not implemented")
}

// ReadStatus says what of the stack in the state directory runs.
func ReadStatus(_ context.Context, _ string) (Status, error) {
	return Status{}, errors.New("not implemented")
}
