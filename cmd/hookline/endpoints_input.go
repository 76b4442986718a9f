package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// maxInput bounds what is read for a flag, in bytes. A URL, which is the longest of what is secret, has 2,048.
const maxInput = 64 << 10

// readSecretly fills in the flag whose value is "-" with a line of stdin: what is given there is in no shell's history, and
// no list of processes shows it. The flags are by name.
func readSecretly(ctx context.Context, stdin io.Reader, flags map[string]*string) error {
	var from []string
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		if *flags[name] == "-" {
			from = append(from, name)
		}
	}
	if len(from) == 0 {
		return nil
	}
	if len(from) > 1 {
		return wrongUsage("%s: only one can be read from standard input", strings.Join(from, " and "))
	}
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1) // who is asked at a terminal may interrupt
	go func() {
		line, err := bufio.NewReader(io.LimitReader(stdin, maxInput)).ReadString('\n')
		read <- result{strings.TrimSpace(line), err}
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case got := <-read:
		if got.err != nil && !errors.Is(got.err, io.EOF) {
			return fmt.Errorf("reading standard input: %w", got.err)
		}
		if got.line == "" {
			return wrongUsage("%s: standard input begins with an empty line", from[0])
		}
		*flags[from[0]] = got.line
		return nil
	}
}

// headerLines replaces each @FILE by the lines of the file.
func headerLines(given []string) ([]string, error) {
	var out []string
	for _, text := range given {
		name, isFile := strings.CutPrefix(text, "@")
		if !isFile {
			out = append(out, text)
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err //nolint:wrapcheck // it says all
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
	}
	return out, nil
}
