package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/core"
)

const (
	insertRunSQL = `INSERT INTO command_log (request_id, command, plugin, user_id, session_id, surface, ip_address,
			outcome, started_at, duration_us, params_bytes, result_bytes, params)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	hasSignedSQL    = `SELECT 1 FROM signed_commands WHERE from_user = ? AND request_id = ?`
	insertSignedSQL = `INSERT INTO signed_commands (from_user, request_id, digest, expires_at) VALUES (?, ?, ?, ?)`
)

// LogRuns appends lines in one transaction.
func (s *Store) LogRuns(ctx context.Context, runs []core.CommandRun) error {
	if len(runs) == 0 {
		return nil
	}
	return s.write(ctx, func(t *tx) error {
		for i := range runs {
			if err := insertRun(t, &runs[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func insertRun(t *tx, r *core.CommandRun) error {
	_, err := t.exec(insertRunSQL, r.ID, r.Command, r.Plugin, r.UserID, r.SessionID, r.Surface, r.RemoteAddr,
		r.Outcome, r.StartedAt.UnixMicro(), r.Duration.Microseconds(), r.ParamsBytes, r.ResultBytes, r.Params)
	if err != nil {
		return fmt.Errorf("insert command run: %w", err)
	}
	return nil
}

// SpendSigned remembers the id of a signed command. It is refused a second time
// until [Store.Prune] has removed it, which may be after its time.
func (s *Store) SpendSigned(ctx context.Context, from, id string, digest [32]byte, until time.Time) error {
	return s.write(ctx, func(t *tx) error {
		spent, err := t.has(hasSignedSQL, from, id)
		if err != nil {
			return fmt.Errorf("find signed command: %w", err)
		}
		if spent {
			return core.ErrIDConflict
		}
		if _, err := t.exec(insertSignedSQL, from, id, digest[:], until.UnixMicro()); err != nil {
			return fmt.Errorf("insert signed command: %w", err)
		}
		return nil
	})
}
