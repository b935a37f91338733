package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	binariesDir    = "bin" // private copies of plugin files
	generationsDir = "g"   // short, because it is part of socket paths

	// maxSocketPath is what fits in sockaddr_un with its final zero byte.
	maxSocketPath = 107
	// socketName is the longest name that go-plugin gives its socket.
	socketName = "plugin4294967295"
)

// runDir is the server's private directory for running plugins: copies of their
// files and one directory for each generation. It is locked, so that two servers
// cannot sweep each other's.
type runDir struct {
	path string
	made bool // by us: so we remove it
	lock *os.File
}

// openRunDir makes or takes over the directory and sweeps what an earlier server
// left in it.
func openRunDir(path string) (*runDir, error) {
	if path == "" {
		return nil, errors.New("open run directory: no path given")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open run directory: %w", err)
	}
	d := &runDir{path: absolute}
	err = os.Mkdir(absolute, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(absolute, 0o700)
	}
	d.made = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	if d.lock, err = os.Open(absolute); err != nil {
		return nil, fmt.Errorf("open run directory: %w", err)
	}
	if err := d.claim(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	return d, nil
}

func (d *runDir) claim() error {
	info, err := d.lock.Stat()
	if err != nil {
		return fmt.Errorf("look at run directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("run directory %s is not a directory", d.path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("run directory %s has mode %04o, want 0700", d.path, mode)
	}
	if err := checkOwner(d.path, info); err != nil {
		return err
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock run directory %s, which another server may be using: %w", d.path, err)
	}
	for _, part := range []string{binariesDir, generationsDir} {
		at := filepath.Join(d.path, part)
		if err := os.RemoveAll(at); err != nil {
			return fmt.Errorf("sweep run directory: %w", err)
		}
		if err := os.Mkdir(at, 0o700); err != nil {
			return fmt.Errorf("make run directory: %w", err)
		}
	}
	return nil
}

// binaries is where private copies lie.
func (d *runDir) binaries() string { return filepath.Join(d.path, binariesDir) }

// generation is the directory of a plugin's n-th start. The error says when the
// path is too long for a socket in it.
func (d *runDir) generation(plugin string, n uint64) (string, error) {
	at := filepath.Join(d.path, generationsDir, plugin+"."+strconv.FormatUint(n, 10))
	if socket := filepath.Join(at, socketName); len(socket) > maxSocketPath {
		return "", fmt.Errorf("socket path %s has %d bytes, at most %d are possible: choose a shorter run directory", socket, len(socket), maxSocketPath)
	}
	return at, nil
}

// close removes what the server put there, and the directory if it made it.
func (d *runDir) close() error {
	var errs []error
	for _, part := range []string{binariesDir, generationsDir} {
		errs = append(errs, os.RemoveAll(filepath.Join(d.path, part)))
	}
	if d.made {
		errs = append(errs, os.Remove(d.path))
	}
	return errors.Join(append(errs, d.lock.Close())...)
}
