package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// EachConn calls f for every connection that the store may use: the writer's, the
// checkpointer's and all that the readers' pool has room for. The store must be idle.
func (s *Store) EachConn(ctx context.Context, f func(role string, c *sql.Conn)) error {
	f("writer", s.writer)
	for role, pool := range map[string]*sql.DB{"checkpointer": s.checkpointer, "reader": s.readers} {
		var open []*sql.Conn
		for range pool.Stats().MaxOpenConnections {
			c, err := pool.Conn(ctx)
			if err != nil {
				return fmt.Errorf("open connection of %s: %w", role, err)
			}
			open = append(open, c)
			f(role, c)
		}
		for _, c := range open {
			if err := c.Close(); err != nil {
				return fmt.Errorf("give connection of %s back: %w", role, err)
			}
		}
	}
	return nil
}
