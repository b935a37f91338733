package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

const (
	// checkpointInterval is how long commits gather before the log is moved into
	// the file. Small and often keeps the writer's slowest commits short.
	checkpointInterval = 200 * time.Millisecond
	// walLimit is the size at which the log is cut, which holds the writer up.
	walLimit = 64 << 20
)

const (
	passiveSQL  = `PRAGMA wal_checkpoint(PASSIVE)` //nolint:gosec // no password
	truncateSQL = `PRAGMA wal_checkpoint(TRUNCATE)`
)

// runCheckpoints is the checkpointer goroutine: some time after a commit it moves
// the log into the file. It sleeps while nobody writes.
func (s *Store) runCheckpoints(ctx context.Context) {
	timer := time.NewTimer(checkpointInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		}
		timer.Reset(checkpointInterval)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := s.checkpoint(); err != nil {
			if isFatal(err) {
				s.fail(err)
				return
			}
			s.log.Warn().Err(err).Msg("Checkpoint failed, the log will grow until one succeeds")
		}
	}
}

// checkpoint moves what no reader still needs out of the log, and cuts the log
// where it has grown beyond walLimit all the same.
func (s *Store) checkpoint() error {
	if err := s.runCheckpoint(passiveSQL); err != nil {
		return err
	}
	info, err := os.Stat(s.path + "-wal")
	if err != nil {
		return fmt.Errorf("measure log: %w", err)
	}
	s.metrics.wal.Set(float64(info.Size()))
	if info.Size() <= walLimit {
		return nil
	}
	return s.runCheckpoint(truncateSQL)
}

func (s *Store) runCheckpoint(query string) error {
	var busy, pages, moved int
	err := s.checkpointer.QueryRowContext(context.Background(), query).Scan(&busy, &pages, &moved)
	var e sqlite3.Error
	if errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked) {
		return nil // somebody reads or writes; the next commit brings us back
	}
	if err != nil {
		return fmt.Errorf("run checkpoint: %w", err)
	}
	return nil
}
