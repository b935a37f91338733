package sqlite

import (
	"context"
	"fmt"
	"time"
)

const (
	// minRetention is how long a message is kept at the least, so that its sender's
	// repetition is recognised (docs/e2ee.md §4).
	minRetention = 25 * time.Hour
	// pruneBatch is how many rows go in one operation: few enough that writes which
	// come meanwhile hardly wait.
	pruneBatch = 256
)

const (
	pruneMessagesSQL = `DELETE FROM messages WHERE id IN (
		SELECT id FROM messages WHERE acked_at IS NOT NULL AND acked_at < ? AND server_time < ? LIMIT ?)`
	pruneChallengesSQL = `DELETE FROM challenges WHERE digest IN (
		SELECT digest FROM challenges WHERE expires_at < ? LIMIT ?)`
	pruneLoginsSQL = `DELETE FROM logins WHERE session_id IN (
		SELECT session_id FROM logins WHERE expires_at < ? LIMIT ?)`
	pruneSignedSQL = `DELETE FROM signed_commands WHERE (from_user, request_id) IN (
		SELECT from_user, request_id FROM signed_commands WHERE expires_at < ? LIMIT ?)`
	pruneRevocationsSQL = `DELETE FROM revocations WHERE session_id IN (
		SELECT session_id FROM revocations WHERE expires_at < ? LIMIT ?)`
)

// Prune removes messages acknowledged before delivered, but none younger than 25
// hours at now, and what else ended before now. Each batch is a write of its own.
// An early end is told by an error beside the count: that of ctx, or
// [core.ErrBusy] while the writer has better things to do.
func (s *Store) Prune(ctx context.Context, now, delivered time.Time) (int, error) {
	messages, err := s.prune(ctx, pruneMessagesSQL, delivered.UnixMicro(), now.Add(-minRetention).UnixMicro())
	if err != nil {
		return messages, err
	}
	for _, query := range []string{pruneChallengesSQL, pruneLoginsSQL, pruneSignedSQL, pruneRevocationsSQL} {
		if _, err := s.prune(ctx, query, now.UnixMicro()); err != nil {
			return messages, err
		}
	}
	return messages, s.pruneKV(ctx, now)
}

// prune runs query, whose last argument is the batch size, until it finds less.
func (s *Store) prune(ctx context.Context, query string, args ...any) (total int, err error) {
	args = append(args, pruneBatch)
	for {
		var n int64
		err := s.write(ctx, func(t *tx) (err error) { n, err = t.exec(query, args...); return err })
		if err != nil {
			return total, fmt.Errorf("prune: %w", err)
		}
		total += int(n)
		if n < pruneBatch {
			return total, nil
		}
	}
}
