package crashtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// receipts follows the simulator's file. It is safe for concurrent use.
type receipts struct {
	file   string
	prefix string // of the paths of this run's merchants, in front of their names

	mu       sync.Mutex
	offset   int64
	accepted []Receipt
	unique   map[string]bool
	invalid  int // webhooks that were not signed well
}

// webhooks is what the paths of the merchants' endpoints begin with.
const webhooks = "/webhooks/"

func newReceipts(file, merchants string) *receipts {
	return &receipts{file: file, prefix: webhooks + merchants, unique: map[string]bool{}}
}

// read takes in what was appended since, whole lines only: the last one may be under way, or half of one that a kill
// cut off.
func (r *receipts) read() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	file, err := os.Open(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was received yet
	}
	if err != nil {
		return fmt.Errorf("opening the receipts: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() < r.offset {
		return errors.New("reading the receipts: the file has become shorter: somebody has reset the merchant")
	}
	if _, err := file.Seek(r.offset, io.SeekStart); err != nil {
		return fmt.Errorf("reading the receipts: %w", err)
	}
	lines := bufio.NewReaderSize(file, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the receipts: %w", err)
		}
		r.offset += int64(len(line))
		r.take(line)
	}
}

func (r *receipts) take(line []byte) {
	var receipt struct {
		ID            string    `json:"id"`
		Outcome       string    `json:"outcome"`
		ReceivedAt    time.Time `json:"received_at"`
		Path          string    `json:"path"`
		BodySHA256    string    `json:"body_sha256"`
		EventType     string    `json:"event_type"`
		ObjectID      string    `json:"object_id"`
		ObjectVersion int64     `json:"object_version"`
	}
	if json.Unmarshal(line, &receipt) != nil || !strings.HasPrefix(receipt.Path, r.prefix) {
		return // not ours
	}
	switch receipt.Outcome {
	case "accepted":
		r.unique[receipt.ID] = true
		r.accepted = append(r.accepted, Receipt{
			Object: Object{receipt.ObjectID, receipt.ObjectVersion}, ID: receipt.ID,
			MerchantID: strings.TrimPrefix(receipt.Path, webhooks), Type: receipt.EventType,
			BodySHA256: receipt.BodySHA256, At: receipt.ReceivedAt,
		})
	case "invalid_signature":
		r.invalid++
	}
}

// count is how many different webhooks were accepted.
func (r *receipts) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.unique)
}

// all returns what was accepted, and how many were not signed well.
func (r *receipts) all() ([]Receipt, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted, r.invalid
}
