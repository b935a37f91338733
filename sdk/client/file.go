package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile replaces a file durably: whatever happens, the old or the new one is
// there whole.
func writeFile(path string, v any) (err error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write identity %s: %w", path, err)
		}
	}()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// journalLine is one message that was dealt with.
type journalLine struct {
	From string `json:"from"`
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	// Message is a digest that tells a repeated message from another one under its id.
	Message string `json:"message,omitempty"`
	// Refused is why the message was put aside. It is then not seen: a forged frame
	// must not keep the real one out.
	Refused string `json:"refused,omitempty"`
}

// readJournal reads what was dealt with. A last line that was cut off by a crash
// was never acknowledged and is passed over.
func readJournal(path string) (map[string]string, error) {
	seen := make(map[string]string)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal of seen messages: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var l journalLine
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.From != "" && l.Refused == "" {
			seen[seenKey(l.From, l.ID)] = l.Message
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read journal of seen messages: %w", err)
	}
	return seen, nil
}

// appendJournal adds one line durably. Lines are small enough to be written at
// once, so several processes may append.
func appendJournal(path string, l journalLine) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write journal of seen messages: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write journal of seen messages: %w", err)
	}
	// A blank line first closes off what a crash may have cut.
	line := bytes.Join([][]byte{{'\n'}, data, {'\n'}}, nil)
	_, err = f.Write(line)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write journal of seen messages: %w", err)
	}
	return nil
}
