package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/plugboard/plugboard/core"
)

// write has the writer run an operation and waits for the commit. When ctx ends
// first, an operation that still waits is taken back; one that has been taken up
// is finished and answered. run must decide on refusals before it writes.
func (s *Store) write(ctx context.Context, run func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{run: run, done: make(chan error, 1)}
	if err := s.queue.offer(o); err != nil {
		if errors.Is(err, core.ErrBusy) {
			s.metrics.busy.Inc()
		}
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if s.queue.remove(o) {
			return ctx.Err()
		}
		return <-o.done
	}
}

// runWriter is the writer goroutine.
func (s *Store) runWriter() {
	var buf []*op
	for {
		batch, failure := s.queue.take(buf[:0], s.max)
		if len(batch) == 0 {
			return
		}
		if failure != nil {
			s.answer(batch, failure)
		} else {
			s.runBatch(batch)
		}
		clear(batch)
		buf = batch
	}
}

// runBatch runs operations in one transaction. Where one of them breaks it, all
// are run again, each in its own, so that the others do not suffer.
func (s *Store) runBatch(batch []*op) {
	s.metrics.batch.Observe(float64(len(batch)))
	broken, err := s.transact(batch)
	if !broken || len(batch) == 1 || isFatal(err) {
		s.answer(batch, err)
		return
	}
	s.metrics.reruns.Inc()
	for i := range batch {
		one := batch[i : i+1]
		_, err := s.transact(one)
		s.answer(one, err)
		if err != nil && isFatal(err) {
			s.answer(batch[i+1:], err)
			return
		}
	}
}

// answer tells each operation how it went: err where the transaction failed.
func (s *Store) answer(ops []*op, err error) {
	if err != nil && isFatal(err) {
		s.fail(err)
	}
	for _, o := range ops {
		if err != nil {
			o.done <- err
		} else {
			o.done <- o.err
		}
	}
}

const (
	beginSQL    = `BEGIN IMMEDIATE`
	commitSQL   = `COMMIT`
	rollbackSQL = `ROLLBACK`
)

// transact runs ops in one transaction. On error nothing was stored; broken means
// that an operation was the cause, not the beginning or the commit.
func (s *Store) transact(ops []*op) (broken bool, err error) {
	start := time.Now()
	t := &tx{conn: s.writer}
	if _, err := t.exec(beginSQL); err != nil {
		return false, fmt.Errorf("begin transaction: %w", err)
	}
	for _, o := range ops {
		if o.err = o.run(t); o.err != nil && !isRefusal(o.err) {
			return true, s.rollback(t, o.err)
		}
	}
	if _, err := t.exec(commitSQL); err != nil {
		return false, s.rollback(t, fmt.Errorf("commit: %w", err))
	}
	s.metrics.commit.Observe(time.Since(start).Seconds())
	select {
	case s.dirty <- struct{}{}:
	default: // a token is there already
	}
	return false, nil
}

// rollback ends a transaction that err broke and returns err. SQLite may have
// ended it by itself (full disk, I/O error).
func (s *Store) rollback(t *tx, err error) error {
	_, failed := t.exec(rollbackSQL)
	if failed == nil {
		return err
	}
	ended := false
	if raw := s.writer.Raw(func(c any) error { ended = c.(*sqlite3.SQLiteConn).AutoCommit(); return nil }); raw == nil && ended {
		return err
	}
	failed = fmt.Errorf("roll back after %w: %w", err, failed)
	s.fail(failed)
	return failed
}

// tx is the writer's open transaction. Its calls have no context of their own:
// what has been taken up is finished, and locks are waited for busyTimeout at most.
type tx struct {
	conn *sql.Conn
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	r, err := t.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// row reads one row; Scan answers sql.ErrNoRows where there is none.
func (t *tx) row(query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(context.Background(), query, args...)
}

// rows reads many rows.
func (t *tx) rows(query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(context.Background(), query, args...)
}

// has reports whether a query finds a row.
func (t *tx) has(query string, args ...any) (bool, error) {
	var one int
	err := t.row(query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
