package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/stack"
)

func logs(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("logs")
	dir := dirFlag(fs)
	follow := fs.Bool("f", false, "go on with what is written from now on, until interrupted")
	lines := fs.Int("n", 100, "`number` of lines of each component's log to begin with")
	rest, err := parse(fs, args, 1, "logs [NAME] [flags]",
		"Prints the end of the log of the component, or of all, each line with its component's name.")
	if err != nil {
		return err
	}
	names, files, err := stack.LogFiles(*dir)
	if err != nil {
		return err
	}
	prefix := true
	if len(rest) == 1 {
		if files[rest[0]] == "" {
			return fmt.Errorf("there is no log of %q; there are logs of: %s", rest[0], strings.Join(names, ", "))
		}
		names, prefix = rest, false
	}
	if len(names) == 0 {
		return errors.New("there are no logs yet: hookline up starts the stack")
	}
	var tails []*tail
	for _, name := range names {
		t := &tail{file: files[name]}
		if prefix {
			t.prefix = fmt.Sprintf("%-18s | ", name)
		}
		if err := t.last(stdout, *lines); err != nil {
			return err
		}
		tails = append(tails, t)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for *follow {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, t := range tails {
			if err := t.next(stdout); err != nil {
				return err
			}
		}
	}
	return nil
}

// tail reads a log that grows.
type tail struct {
	file, prefix string
	offset       int64 // up to which it is printed
}

// last prints the last n lines.
func (t *tail) last(w io.Writer, n int) error {
	content, err := os.ReadFile(t.file)
	if err != nil {
		return fmt.Errorf("reading a log: %w", err)
	}
	content = content[:bytes.LastIndexByte(content, '\n')+1] // a line that is being written comes later
	t.offset = int64(len(content))
	start := len(content)
	for ; n > 0 && start > 0; n-- {
		start = bytes.LastIndexByte(content[:start-1], '\n') + 1
	}
	return t.print(w, content[start:])
}

// next prints what was added.
func (t *tail) next(w io.Writer) error {
	file, err := os.Open(t.file)
	if err != nil {
		return nil // it is being rotated: next time
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() < t.offset {
		t.offset = 0
	}
	content, err := io.ReadAll(io.NewSectionReader(file, t.offset, 1<<62))
	if err != nil {
		return fmt.Errorf("reading a log: %w", err)
	}
	content = content[:bytes.LastIndexByte(content, '\n')+1]
	t.offset += int64(len(content))
	return t.print(w, content)
}

func (t *tail) print(w io.Writer, content []byte) error {
	var out bytes.Buffer
	for line := range bytes.Lines(content) {
		out.WriteString(t.prefix)
		out.Write(line)
	}
	_, err := out.WriteTo(w)
	return err
}
