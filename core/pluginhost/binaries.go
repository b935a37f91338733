package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
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

// binaries is the private store of what runs and of what ran before, by content.
// A copy stays as long as somebody keeps it: each keep is answered by one drop.
type binaries struct {
	dir string

	mu    sync.Mutex
	users map[string]int // by hash
}

func newBinaries(dir string) *binaries { return &binaries{dir: dir, users: make(map[string]int)} }

// keep copies a plugin's file while hashing it, under the name of the hash. A copy
// that is there already is used.
func (b *binaries) keep(from *os.File) (*binary, error) {
	copied, sum, n, err := b.copy(from)
	if err != nil {
		return nil, fmt.Errorf("copy plugin file: %w", err)
	}
	kept := &binary{SHA256: sum, Bytes: n, Path: filepath.Join(b.dir, sum)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users[sum] > 0 {
		err = os.Remove(copied)
	} else {
		err = os.Rename(copied, kept.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("place copy: %w", errors.Join(err, os.RemoveAll(copied)))
	}
	b.users[sum]++
	return kept, nil
}

// again keeps what is kept already once more.
func (b *binaries) again(of *binary) *binary {
	if of != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.users[of.SHA256]++
	}
	return of
}

// drop gives up one keep of a copy; the last one removes it. A process that runs it
// is not disturbed.
func (b *binaries) drop(of *binary) {
	if of == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users[of.SHA256]--; b.users[of.SHA256] <= 0 {
		delete(b.users, of.SHA256)
		_ = os.Remove(of.Path) // what stays behind goes with the run directory
	}
}

// copy makes the copy under a temporary name.
func (b *binaries) copy(from *os.File) (path, sum string, n int64, err error) {
	// A fork elsewhere in this process while the copy is open for writing would
	// hand the descriptor to that child until it execs, and starting the copy
	// meanwhile fails with "text file busy". The lock keeps forks away.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	to, err := os.CreateTemp(b.dir, "copy-")
	if err != nil {
		return "", "", 0, err
	}
	hash := sha256.New()
	n, err = io.Copy(io.MultiWriter(to, hash), io.LimitReader(from, maxBinaryBytes+1))
	if err == nil && n > maxBinaryBytes {
		err = fmt.Errorf("more than %d bytes", maxBinaryBytes)
	}
	if err == nil {
		err = to.Chmod(0o500)
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return "", "", 0, errors.Join(err, os.Remove(to.Name()))
	}
	return to.Name(), hex.EncodeToString(hash.Sum(nil)), n, nil
}
