package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

// errLocked: another process holds the lock file.
var errLocked = errors.New("another server is using it; stop that one first, or give this one a data folder of its own")

// Store is an open database. Its methods may be called from any goroutine; see
// [core.Store] for what they answer.
type Store struct {
	// Fixed after Open.
	log     zerolog.Logger
	path    string
	max     int // operations in a batch
	onFatal func(error)
	metrics *metrics
	queue   *queue
	dirty   chan struct{} // holds a token while there are commits to checkpoint

	// The connections, each closed by release.
	lock         *os.File
	writePool    *sql.DB
	writer       *sql.Conn // owned by the writer goroutine
	checkpointer *sql.DB   // owned by the checkpointer goroutine
	readers      *sql.DB

	// The lifetime.
	reads      gate
	fatal      sync.Once
	stop       context.CancelFunc
	goroutines sync.WaitGroup
}

var _ core.Store = (*Store)(nil)

// Open opens the database, makes it where it is missing, brings its schema up to
// date and starts the store. Sessions that a crash left open are ended with the
// time of now. ctx bounds the opening only.
//
// It refuses, in one sentence, a database that another server uses, that is
// damaged, that is none, that belongs to another program or has a newer schema.
// After an unclean stop the whole file is checked first, which takes some seconds
// for each GiB.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if o.Path, err = filepath.Abs(o.Path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s := &Store{
		log: o.Logger, path: o.Path, max: o.MaxBatch, onFatal: o.OnFatal,
		queue: newQueue(o.QueueLen), dirty: make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			_ = s.release() // err tells what matters
		}
	}()
	clean, err := s.takeFile()
	if err != nil {
		return nil, err
	}
	if err := s.connect(ctx, &o, clean); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(o.Metrics, s.queue.len); err != nil {
		return nil, fmt.Errorf("register store metrics: %w", err)
	}
	if o.Synchronous != SyncFull {
		s.log.Warn().Str("synchronous", o.Synchronous).Msg("A power cut may take the last acknowledged writes with it")
	}
	s.start()
	return s, nil
}

// takeFile locks the database and makes it where it is missing, before SQLite
// would with whatever the umask allows. It reports whether the last stop was
// clean: SQLite removes the log when the last connection closes.
func (s *Store) takeFile() (clean bool, err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return false, fmt.Errorf("make database folder: %w", err)
	}
	if s.lock, err = lockFile(s.path + ".lock"); err != nil {
		return false, fmt.Errorf("open database %s: %w", s.path, err)
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("open database: %w", err)
	}
	err = errors.Join(f.Chmod(0o600), f.Close())
	if err != nil {
		return false, fmt.Errorf("restrict database file: %w", err)
	}
	info, err := os.Stat(s.path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("look for a log left behind: %w", err)
	}
	return info.Size() == 0, nil
}

// connect opens the connections, checks the file after an unclean stop and
// brings its contents up to date.
func (s *Store) connect(ctx context.Context, o *Options, clean bool) (err error) {
	s.writePool = newPool(o, roleWriter, 1)
	if err := s.writePool.PingContext(ctx); err != nil {
		return openError(s.path, err)
	}
	if !clean {
		if err := s.quickCheck(ctx); err != nil {
			return err
		}
	}
	if err := migrate(ctx, o, s.writePool); err != nil {
		return err
	}
	if s.writer, err = s.writePool.Conn(ctx); err != nil {
		return openError(s.path, err)
	}
	if err := s.endLostSessions(ctx); err != nil {
		return err
	}
	s.checkpointer = newPool(o, roleCheckpointer, 1)
	s.readers = newPool(o, roleReader, o.Readers)
	return errors.Join(wrapOpen(s.path, s.checkpointer.PingContext(ctx)), wrapOpen(s.path, s.readers.PingContext(ctx)))
}

func wrapOpen(path string, err error) error {
	if err == nil {
		return nil
	}
	return openError(path, err)
}

const quickCheckSQL = `PRAGMA quick_check(1)`

func (s *Store) quickCheck(ctx context.Context) error {
	start := time.Now()
	s.log.Warn().Str("path", s.path).Msg("Database was not closed cleanly, checking it")
	var found string
	if err := s.writePool.QueryRowContext(ctx, quickCheckSQL).Scan(&found); err != nil {
		return openError(s.path, err)
	}
	if found != "ok" {
		return fmt.Errorf("open database %s: the file is damaged (%s); %s", s.path, strings.ReplaceAll(found, "\n", ": "), restoreHint)
	}
	s.log.Info().Dur("duration", time.Since(start)).Msg("Database is sound")
	return nil
}

func (s *Store) start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.goroutines.Go(s.runWriter)
	s.goroutines.Go(func() { s.runCheckpoints(ctx) })
}

// Close refuses what comes from now on, waits for the writer to finish all that
// it has accepted and for the reads under way, and closes the file. A second call
// answers [core.ErrClosed].
func (s *Store) Close() error {
	if !s.reads.close() {
		return core.ErrClosed
	}
	s.queue.close()
	s.stop()
	s.goroutines.Wait()
	s.reads.wait()
	return s.release()
}

// release closes what is open. The writer's connection goes last but the lock:
// the last one to close moves the rest of the log into the file.
func (s *Store) release() error {
	var errs []error
	s.metrics.unregister()
	for _, db := range []*sql.DB{s.readers, s.checkpointer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.writePool != nil {
		errs = append(errs, s.writePool.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close database %s: %w", s.path, err)
	}
	return nil
}

// fail makes err the answer to every write from now on and tells the owner once.
func (s *Store) fail(err error) {
	s.fatal.Do(func() {
		s.queue.fail(err)
		s.log.Error().Err(err).Msg("Database can no longer be trusted")
		if s.onFatal != nil {
			s.onFatal(err)
		}
	})
}

const (
	countHealthSQL = `UPDATE health SET count = count + 1 WHERE id = 1 RETURNING count`
	readHealthSQL  = `SELECT count FROM health WHERE id = 1`
)

// Check writes a row through the writer and reads it back by a reader.
func (s *Store) Check(ctx context.Context) error {
	var wrote, read int64
	err := s.write(ctx, func(t *tx) error { return t.row(countHealthSQL).Scan(&wrote) })
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	err = s.read(ctx, func(ctx context.Context) error {
		return s.readers.QueryRowContext(ctx, readHealthSQL).Scan(&read)
	})
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	if read < wrote {
		return fmt.Errorf("check store: read count %d after writing %d", read, wrote)
	}
	return nil
}
