package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// maxBinaryBytes bounds a plugin's file: what is larger is no plugin but a
// mistake that would fill the run directory.
const maxBinaryBytes = 1 << 30

// binary is a private copy of a plugin's file. It never changes: what was hashed
// is what runs, whatever becomes of the original.
type binary struct {
	Path   string
	SHA256 string // hexadecimal
	Bytes  int64
}

// keep copies a plugin's file into dir while hashing it, under the name of the
// hash. A copy that is there already is used.
func keep(dir string, from *os.File) (*binary, error) {
	// A fork elsewhere in this process while the copy is open for writing would
	// hand the descriptor to that child until it execs, and starting the copy
	// meanwhile fails with "text file busy". The lock keeps forks away.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	to, err := os.CreateTemp(dir, "copy-")
	if err != nil {
		return nil, fmt.Errorf("create copy: %w", err)
	}
	defer func() { _ = os.Remove(to.Name()) }() // gone already after the rename
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(from, maxBinaryBytes+1))
	if err == nil && n > maxBinaryBytes {
		err = fmt.Errorf("more than %d bytes", maxBinaryBytes)
	}
	if err == nil {
		err = to.Chmod(0o500)
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, fmt.Errorf("copy plugin file: %w", err)
	}
	b := &binary{SHA256: hex.EncodeToString(sum.Sum(nil)), Bytes: n}
	b.Path = filepath.Join(dir, b.SHA256)
	if err := os.Rename(to.Name(), b.Path); err != nil {
		return nil, fmt.Errorf("place copy: %w", err)
	}
	return b, nil
}
