package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

var pluginName = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

// stamp tells whether a file is still the one that was looked at. Links count as
// what they lead to.
type stamp struct {
	device, inode uint64
	size          int64
	mode          fs.FileMode
	modified      time.Time
	changed       int64 // of the inode: mode, owner, names
}

// found is what lies in the plugins directory: the plugins, and why other entries
// are none.
type found struct {
	plugins map[string]stamp
	ignored map[string]string
}

// scan looks through a plugins directory (docs/plugin.md §1). Entries that begin
// with a dot are somebody's temporary files, and plugins.lock is ours: neither is
// worth a word.
func scan(dir string) (found, error) {
	f := found{plugins: make(map[string]stamp), ignored: make(map[string]string)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return f, fmt.Errorf("scan plugins: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Name() == lockfile.Name {
			continue
		}
		if s, err := look(dir, e.Name()); err != nil {
			f.ignored[e.Name()] = err.Error()
		} else {
			f.plugins[e.Name()] = s
		}
	}
	return f, nil
}

// look stamps a directory entry, or says why it is no plugin.
func look(dir, name string) (stamp, error) {
	info, err := os.Stat(filepath.Join(dir, name))
	switch {
	case err != nil:
		return stamp{}, fmt.Errorf("look at file: %w", err)
	case info.IsDir():
		return stamp{}, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return stamp{}, errors.New("is not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return stamp{}, errors.New("is not executable (chmod +x makes it so)")
	case !pluginName.MatchString(name):
		return stamp{}, fmt.Errorf("name does not match %s", pluginName)
	}
	return stampOf(info), nil
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mode: info.Mode(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode, s.changed = uint64(sys.Dev), sys.Ino, changeTime(sys) //nolint:unconvert // the types differ between systems
	}
	return s
}
