package pluginhost

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

const (
	// settleTime is how long a file must have been left alone before it counts, and
	// settleUnsure how long where the system cannot tell whether it is being written.
	settleTime   = 100 * time.Millisecond
	settleUnsure = time.Second
	// goneTime is how long a file must have been away before its plugin is removed:
	// some tools replace a file by removing it first.
	goneTime = 500 * time.Millisecond
	// lookInterval is how often the directory is looked at although nothing was
	// heard: a lost event costs time, never a plugin. What links lead to is only
	// noticed so.
	lookInterval = 10 * time.Second
)

// watcher knows what lies in the plugins directory and tells of changes once they
// are whole. One goroutine uses it.
type watcher struct {
	dir    string
	locked bool // plugins.lock counts, too
	log    zerolog.Logger
	told   func(changes)

	events  *fsnotify.Watcher // nil where events cannot be had
	watched bool
	files   map[string]sight
	lock    sight
	ignored map[string]string
	failed  string // why the directory could not be read, as it was told last
}

// sight is what was seen of a file.
type sight struct {
	stamp    stamp // zero while there is none
	since    time.Time
	reported bool
}

// changes are what is to be done after a look at the directory.
type changes struct {
	present map[string]stamp // new ones and changed ones
	gone    []string
	lock    bool // plugins.lock has changed
}

// watch looks whenever something happens in the directory, when asked to, and now
// and then, until ctx ends.
func (w *watcher) watch(ctx context.Context, asked <-chan chan<- struct{}) {
	defer w.close()
	due := time.Now().Add(lookInterval)
	timer := time.NewTimer(lookInterval)
	defer timer.Stop()
	for {
		settle := settleTime
		var answer chan<- struct{}
		select {
		case <-ctx.Done():
			return
		case <-w.happens():
			// Files that change without pause must not put off the look at others.
			if soon := time.Now().Add(settleTime); soon.Before(due) {
				due = soon
				timer.Reset(settleTime)
			}
			continue
		case err := <-w.overflows(): // events were lost, which the next look makes up for
			w.log.Debug().Err(err).Msg("Events of the plugins directory were lost")
			continue
		case answer = <-asked:
			w.forget()
			settle = 0
		case <-timer.C:
		}
		now := time.Now()
		next := w.look(now, settle)
		if answer != nil {
			close(answer)
		}
		due = now.Add(next)
		timer.Reset(next)
	}
}

// forget has every file reported again, for an operator who asks for a fresh look.
func (w *watcher) forget() {
	for name, s := range w.files {
		s.reported = false
		w.files[name] = s
	}
}

func (w *watcher) happens() <-chan fsnotify.Event {
	if w.events == nil {
		return nil
	}
	return w.events.Events
}

func (w *watcher) overflows() <-chan error {
	if w.events == nil {
		return nil
	}
	return w.events.Errors
}

// open begins to watch. Where the system gives no events, looking now and then has
// to do.
func (w *watcher) open() {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn().Err(err).Dur("every_ms", lookInterval).Msg("Plugins directory cannot be watched, it is looked at now and then")
		return
	}
	w.events = events
}

func (w *watcher) close() {
	if w.events != nil {
		_ = w.events.Close() // ends both channels
	}
}

// look compares the directory with what was seen before, reports what has been
// whole for settle, and returns when to look again.
func (w *watcher) look(now time.Time, settle time.Duration) time.Duration {
	if w.events != nil && !w.watched {
		w.watched = w.events.Add(w.dir) == nil
	}
	seen, err := scan(w.dir)
	if err != nil {
		w.unreadable(err)
		return lookInterval
	}
	w.failed = ""
	w.tellIgnored(seen.ignored)
	var c changes
	next := lookInterval
	for name, s := range seen.plugins {
		wait := w.sightOf(name, s, now, settle)
		if wait > 0 {
			next = min(next, wait)
			continue
		}
		if !w.files[name].reported {
			c.add(name, s)
			w.files[name] = sight{stamp: s, since: now, reported: true}
		}
	}
	next = min(next, w.missing(seen.plugins, now, &c))
	c.lock = w.lockChanged()
	if len(c.present) > 0 || len(c.gone) > 0 || c.lock {
		w.told(c)
	}
	return next
}

func (c *changes) add(name string, s stamp) {
	if c.present == nil {
		c.present = make(map[string]stamp)
	}
	c.present[name] = s
}

// sightOf notes how a file is now and returns how long it must be waited for.
func (w *watcher) sightOf(name string, s stamp, now time.Time, settle time.Duration) time.Duration {
	before, known := w.files[name]
	if !known || before.stamp != s {
		before = sight{stamp: s, since: now}
		w.files[name] = before
	}
	if before.reported {
		return 0
	}
	written, sure := isWritten(filepath.Join(w.dir, name))
	if written {
		return settleTime
	}
	if !sure && settle > 0 {
		settle = settleUnsure
	}
	// A file that was written long ago has been left alone already.
	quiet := max(now.Sub(before.since), now.Sub(s.modified))
	return max(0, settle-quiet)
}

// missing finds files that have been away for long enough.
func (w *watcher) missing(present map[string]stamp, now time.Time, c *changes) time.Duration {
	next := lookInterval
	for name, s := range w.files {
		if _, ok := present[name]; ok {
			continue
		}
		if s.stamp != (stamp{}) {
			s = sight{since: now}
			w.files[name] = s
		}
		if left := goneTime - now.Sub(s.since); left > 0 {
			next = min(next, left)
			continue
		}
		delete(w.files, name)
		c.gone = append(c.gone, name)
	}
	return next
}

func (w *watcher) lockChanged() bool {
	if !w.locked {
		return false
	}
	var s stamp
	if info, err := os.Stat(filepath.Join(w.dir, lockfile.Name)); err == nil {
		s = stampOf(info)
	}
	changed := w.lock.reported && w.lock.stamp != s
	w.lock = sight{stamp: s, reported: true}
	return changed
}

// unreadable tells of a directory that cannot be read, once. What runs goes on.
func (w *watcher) unreadable(err error) {
	if err.Error() == w.failed {
		return
	}
	w.failed = err.Error()
	w.watched = false
	if errors.Is(err, fs.ErrNotExist) {
		w.log.Warn().Str("dir", w.dir).Msg("No plugins directory, so no new plugins")
		return
	}
	w.log.Error().Err(err).Msg("Plugins directory cannot be read, what runs goes on")
}

// tellIgnored logs each reason for leaving a file out once.
func (w *watcher) tellIgnored(ignored map[string]string) {
	for name, reason := range ignored {
		if w.ignored[name] != reason {
			w.log.Warn().Str("file", name).Str("reason", reason).Msg("File ignored in the plugins directory")
		}
	}
	w.ignored = ignored
}
