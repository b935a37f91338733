package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/core"
)

const (
	hasChallengeSQL    = `SELECT 1 FROM challenges WHERE digest = ?`
	insertChallengeSQL = `INSERT INTO challenges (digest, expires_at) VALUES (?, ?)`
	hasLoginSQL        = `SELECT 1 FROM logins WHERE session_id = ?`
	insertLoginSQL     = `INSERT INTO logins (session_id, user_id, issued_at, expires_at, ip_address, host, user_agent)
		VALUES (?, ?, ?, ?, ?, ?, ?)`

	insertRevocationSQL = `INSERT INTO revocations (session_id, user_id, revoked_at, expires_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (session_id) DO NOTHING`
	listRevocationsSQL = `SELECT session_id, user_id, revoked_at, expires_at FROM revocations
		WHERE expires_at > ? ORDER BY revoked_at, session_id`
)

// CreateLogin spends the challenge and stores the sign-in. A spent challenge is
// refused until [Store.Prune] has removed it, which may be after its time.
// [core.ErrExists] is also the answer to a session id that is taken,
// [core.ErrNotFound] to a user that does not exist.
func (s *Store) CreateLogin(ctx context.Context, l *core.Login, challenge [32]byte, challengeExpires time.Time) error {
	return s.write(ctx, func(t *tx) error { return createLogin(t, l, challenge, challengeExpires) })
}

func createLogin(t *tx, l *core.Login, challenge [32]byte, challengeExpires time.Time) error {
	spent, err := t.has(hasChallengeSQL, challenge[:])
	if err != nil {
		return fmt.Errorf("find challenge: %w", err)
	}
	taken, err := t.has(hasLoginSQL, l.SessionID)
	if err != nil {
		return fmt.Errorf("find sign-in: %w", err)
	}
	if spent || taken {
		return core.ErrExists
	}
	if known, err := t.has(hasUserSQL, l.UserID); err != nil {
		return fmt.Errorf("find user: %w", err)
	} else if !known {
		return core.ErrNotFound
	}
	if _, err := t.exec(insertChallengeSQL, challenge[:], challengeExpires.UnixMicro()); err != nil {
		return fmt.Errorf("insert challenge: %w", err)
	}
	_, err = t.exec(insertLoginSQL, l.SessionID, l.UserID, l.IssuedAt.UnixMicro(), l.ExpiresAt.UnixMicro(),
		l.Remote.Addr, l.Remote.Host, l.Remote.UserAgent)
	if err != nil {
		return fmt.Errorf("insert sign-in: %w", err)
	}
	return nil
}

// Revoke ends a session; repeating it keeps the first revocation.
func (s *Store) Revoke(ctx context.Context, r *core.Revocation) error {
	return s.write(ctx, func(t *tx) error {
		if _, err := t.exec(insertRevocationSQL, r.SessionID, r.UserID, r.RevokedAt.UnixMicro(), r.ExpiresAt.UnixMicro()); err != nil {
			return fmt.Errorf("insert revocation: %w", err)
		}
		return nil
	})
}

// ListRevocations returns those whose tokens could still be valid at now, oldest
// first.
func (s *Store) ListRevocations(ctx context.Context, now time.Time) (list []core.Revocation, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, listRevocationsSQL, now.UnixMicro())
		if err != nil {
			return err
		}
		return scanAll(rows, func() error {
			var (
				r                core.Revocation
				revoked, expires int64
			)
			if err := rows.Scan(&r.SessionID, &r.UserID, &revoked, &expires); err != nil {
				return err
			}
			r.RevokedAt, r.ExpiresAt = fromMicros(revoked), fromMicros(expires)
			list = append(list, r)
			return nil
		})
	})
	if err != nil {
		return nil, wrapRead("list revocations", err)
	}
	return list, nil
}
