package simulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// journal is the receipts file: one JSON object a line, each appended by one write. It is not synced: it must outlive
// the process, not the machine. It is not safe for concurrent use.
type journal struct {
	file  file
	whole int64 // bytes of whole lines
	// torn says that something follows them: half a line, whose 2xx was never sent. It goes before the next line
	// comes, lest it be read back as a receipt.
	torn bool
}

// file is what the journal needs of *os.File.
type file interface {
	io.WriteCloser
	Truncate(size int64) error
}

// openJournal opens or makes the file at path and hands every receipt in it to each, oldest first. It returns how many
// lines could not be read: a process that was killed leaves at most one, at the end.
func openJournal(path string, each func(Receipt)) (*journal, int, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the receipts file: %w", err)
	}
	j := &journal{file: f}
	unreadable := 0
	lines := bufio.NewReaderSize(f, 1<<16)
	for ended := false; !ended; {
		line, err := lines.ReadBytes('\n')
		ended = errors.Is(err, io.EOF)
		if err != nil && !ended {
			return nil, 0, errors.Join(fmt.Errorf("reading the receipts file: %w", err), f.Close())
		}
		if j.torn = len(line) > 0 && ended; !j.torn {
			j.whole += int64(len(line))
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r Receipt
		if j.torn || json.Unmarshal(line, &r) != nil || r.Outcome == "" {
			unreadable++
			continue
		}
		each(r)
	}
	return j, unreadable, nil
}

// append writes the receipt. After an error the receipt does not count, whatever of it reached the file.
func (j *journal) append(r Receipt) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a receipt: %w", err)
	}
	if j.torn {
		if err := j.file.Truncate(j.whole); err != nil {
			return fmt.Errorf("removing half a receipt: %w", err)
		}
		j.torn = false
	}
	n, err := j.file.Write(append(line, '\n'))
	if err != nil {
		j.torn = n > 0
		return fmt.Errorf("writing a receipt: %w", err)
	}
	j.whole += int64(n)
	return nil
}

// clear empties the file.
func (j *journal) clear() error {
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("emptying the receipts file: %w", err)
	}
	j.whole, j.torn = 0, false
	return nil
}
