package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/core"
)

const (
	hasSessionSQL    = `SELECT 1 FROM sessions WHERE conn_id = ?`
	insertSessionSQL = `INSERT INTO sessions (conn_id, session_id, user_id, connected_at, ip_address, user_agent)
		VALUES (?, ?, ?, ?, ?, ?)`
	hasOpenSessionSQL = `SELECT 1 FROM sessions WHERE conn_id = ? AND disconnected_at IS NULL`
	endSessionSQL     = `UPDATE sessions SET disconnected_at = ?, messages_sent = ?, messages_received = ? WHERE conn_id = ?`
	endLostSQL        = `UPDATE sessions SET disconnected_at = ? WHERE disconnected_at IS NULL`
)

// OpenSession appends the row of a new connection: [core.ErrExists] where its id
// is taken, [core.ErrNotFound] where the user does not exist.
func (s *Store) OpenSession(ctx context.Context, r *core.SessionRow) error {
	return s.write(ctx, func(t *tx) error { return openSession(t, r) })
}

func openSession(t *tx, r *core.SessionRow) error {
	if taken, err := t.has(hasSessionSQL, r.ConnID); err != nil {
		return fmt.Errorf("find session: %w", err)
	} else if taken {
		return core.ErrExists
	}
	if known, err := t.has(hasUserSQL, r.UserID); err != nil {
		return fmt.Errorf("find user: %w", err)
	} else if !known {
		return core.ErrNotFound
	}
	_, err := t.exec(insertSessionSQL, r.ConnID, r.SessionID, r.UserID, r.ConnectedAt.UnixMicro(), r.Remote.Addr, r.Remote.UserAgent)
	if err != nil {
		return fmt.Errorf("insert session: %w", err)
	}
	return nil
}

// CloseSession ends the row of a connection with its EndedAt and counts:
// [core.ErrNotFound] where no open row has its id.
func (s *Store) CloseSession(ctx context.Context, r *core.SessionRow) error {
	return s.write(ctx, func(t *tx) error {
		if open, err := t.has(hasOpenSessionSQL, r.ConnID); err != nil {
			return fmt.Errorf("find session: %w", err)
		} else if !open {
			return core.ErrNotFound
		}
		if _, err := t.exec(endSessionSQL, r.EndedAt.UnixMicro(), r.SentCount, r.ReceiveCount, r.ConnID); err != nil {
			return fmt.Errorf("end session: %w", err)
		}
		return nil
	})
}

// endLostSessions ends what a crash left open. When each really ended is not
// known; now is the latest it can be.
func (s *Store) endLostSessions(ctx context.Context) error {
	r, err := s.writer.ExecContext(ctx, endLostSQL, time.Now().UnixMicro())
	if err != nil {
		return openError(s.path, err)
	}
	if n, err := r.RowsAffected(); err == nil && n > 0 {
		s.log.Info().Int64("sessions", n).Msg("Sessions left open by a crash were ended")
	}
	return nil
}
