package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quietTime is how long no file may change before a change is told: editors and
	// version control write several at once. Never longer than quietMost, for files
	// that change without pause.
	quietTime = 200 * time.Millisecond
	quietMost = 2 * time.Second
)

// treeWatch tells of changes of a plugin's sources. One goroutine runs it, from
// [watchTree] to [treeWatch.close].
type treeWatch struct {
	// changed holds one token: something has changed since it was taken last.
	changed chan struct{}

	events *fsnotify.Watcher
	file   string // when one file is all that counts
	skip   string // the scratch directory
	done   sync.WaitGroup
}

// watchTree begins to watch the directory of a source and all below it, without
// those below skip.
func watchTree(s source, skip string) (*treeWatch, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", s.dir, explainWatch(err))
	}
	w := &treeWatch{changed: make(chan struct{}, 1), events: events, file: s.file, skip: skip}
	if s.file != "" {
		err = events.Add(s.dir)
	} else {
		err = w.addBelow(s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", s.dir, errors.Join(explainWatch(err), events.Close()))
	}
	w.done.Go(w.run)
	return w, nil
}

// explainWatch adds what to do about the limit that is met first in practice.
func explainWatch(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("%w: too many files are watched on this machine; sysctl fs.inotify.max_user_watches and max_user_instances raise the limit", err)
	}
	return err
}

func (w *treeWatch) close() {
	_ = w.events.Close() // ends run
	w.done.Wait()
}

// addAll watches further directories, without those below them. What cannot be
// watched is not: the plugin's own directory is.
func (w *treeWatch) addAll(dirs []string) {
	for _, dir := range dirs {
		_ = w.events.Add(dir) // see above; twice is once
	}
}

func (w *treeWatch) addBelow(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir:
			return nil // it went while we looked
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case path == w.skip, path != dir && isForeignDir(path):
			return filepath.SkipDir
		}
		return w.events.Add(path)
	})
}

// isForeignDir reports whether a directory holds no sources: version control, what
// others wrote, test data, the output of builds.
func isForeignDir(path string) bool {
	name := filepath.Base(path)
	if strings.HasPrefix(name, ".") || slices.Contains([]string{
		"node_modules", "vendor", "testdata", "bin", "build", "dist", "out", "target", "obj", "__pycache__",
	}, name) {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "CACHEDIR.TAG")) // bford.info/cachedir
	return err == nil
}

// run waits after the first event until there are no more for a while.
func (w *treeWatch) run() {
	var quiet <-chan time.Time
	var latest time.Time
	for {
		select {
		case e, open := <-w.events.Events:
			if !open {
				return
			}
			if !w.counts(e) {
				continue
			}
			if quiet == nil {
				latest = time.Now().Add(quietMost)
			}
			quiet = time.After(min(quietTime, time.Until(latest)))
		case _, open := <-w.events.Errors:
			if !open {
				return
			}
			quiet = time.After(quietTime) // events were lost: as if there had been one
		case <-quiet:
			quiet = nil
			select {
			case w.changed <- struct{}{}:
			default: // it is told already
			}
		}
	}
}

// counts reports whether an event is about a file that the plugin may be made of; a
// new directory is watched from now on.
func (w *treeWatch) counts(e fsnotify.Event) bool {
	if w.file != "" {
		return e.Name == w.file
	}
	if e.Op == fsnotify.Chmod || isForeignFile(filepath.Base(e.Name)) {
		return false
	}
	info, err := os.Lstat(e.Name)
	switch {
	case err != nil: // gone
		return !isForeignDir(e.Name)
	case info.IsDir():
		return e.Name != w.skip && !isForeignDir(e.Name) && w.addBelow(e.Name) == nil && e.Has(fsnotify.Create)
	}
	// An executable without an extension is what a build in the directory writes.
	return !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 || filepath.Ext(e.Name) != ""
}

// isForeignFile reports whether a file is an editor's, a test or the output of a
// build, by its name.
func isForeignFile(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") ||
		strings.HasSuffix(name, "_test.go") || name == "4913" { // vim tries whether it may write
		return true
	}
	return slices.Contains([]string{".swp", ".swx", ".tmp", ".test", ".prof", ".log", ".o", ".a", ".so", ".exe", ".pyc", ".class"}, filepath.Ext(name))
}
