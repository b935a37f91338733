package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/plugboard/plugboard/core"
)

const (
	getKVSQL  = `SELECT value, revision, expires_at FROM plugin_kv WHERE plugin = ? AND key = ?`
	findKVSQL = `SELECT revision, length(value), expires_at FROM plugin_kv WHERE plugin = ? AND key = ?`
	listKVSQL = `SELECT key, value, revision, expires_at FROM plugin_kv
		WHERE plugin = ? AND key >= ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY key LIMIT ?`
	putKVSQL = `INSERT INTO plugin_kv (plugin, key, value, revision, expires_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, revision = excluded.revision, expires_at = excluded.expires_at`
	deleteKVSQL = `DELETE FROM plugin_kv WHERE plugin = ? AND key = ?`

	findUsageSQL = `SELECT last_revision, keys, bytes FROM plugin_kv_usage WHERE plugin = ?`
	setUsageSQL  = `INSERT INTO plugin_kv_usage (plugin, last_revision, keys, bytes) VALUES (?, ?, ?, ?)
		ON CONFLICT (plugin) DO UPDATE SET last_revision = excluded.last_revision, keys = excluded.keys, bytes = excluded.bytes`
	lowerUsageSQL  = `UPDATE plugin_kv_usage SET keys = keys - ?, bytes = bytes - ? WHERE plugin = ?`
	pluginsKVSQL   = `SELECT plugin FROM plugin_kv_usage WHERE keys > 0`
	countExpireSQL = `SELECT count(*), coalesce(sum(length(CAST(key AS BLOB)) + length(value)), 0)
		FROM plugin_kv WHERE plugin = ? AND expires_at <= ? AND key <> ?`
	expireKVSQL = `DELETE FROM plugin_kv WHERE rowid IN (
			SELECT rowid FROM plugin_kv WHERE plugin = ? AND expires_at <= ? AND key <> ? ORDER BY expires_at LIMIT ?)
		RETURNING length(CAST(key AS BLOB)) + length(value)`
)

// KVGet returns the entry of a plugin's key.
func (s *Store) KVGet(ctx context.Context, plugin, key string, now time.Time) (core.KVEntry, error) {
	e := core.KVEntry{Key: key}
	var expires sql.Null[int64]
	err := s.read(ctx, func(ctx context.Context) error {
		return s.readers.QueryRowContext(ctx, getKVSQL, plugin, key).Scan(&e.Value, &e.Revision, &expires)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return core.KVEntry{}, core.ErrNotFound
	case err != nil:
		return core.KVEntry{}, wrapRead("get plugin's key", err)
	case expired(expires, now):
		return core.KVEntry{}, core.ErrNotFound
	}
	e.ExpiresAt = fromExpiry(expires)
	return e, nil
}

// KVList returns a piece of a plugin's keys.
func (s *Store) KVList(ctx context.Context, plugin string, r core.KVRange, now time.Time) (entries []core.KVEntry, more bool, err error) {
	// The keys of a prefix stand together, from the first that is not below it; the
	// key right behind another is that one and a zero byte.
	from := r.Prefix
	if r.After != "" {
		from = max(from, r.After+"\x00")
	}
	limit := max(1, r.Limit)
	err = s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, listKVSQL, plugin, from, now.UnixMicro(), limit+1)
		if err != nil {
			return err
		}
		size := 0
		return scanAll(rows, func() error {
			var (
				e       core.KVEntry
				expires sql.Null[int64]
			)
			if err := rows.Scan(&e.Key, &e.Value, &e.Revision, &expires); err != nil {
				return err
			}
			if !strings.HasPrefix(e.Key, r.Prefix) {
				return errEnough
			}
			size += len(e.Key) + len(e.Value)
			if len(entries) == limit || len(entries) > 0 && size > r.MaxBytes {
				more = true
				return errEnough
			}
			e.ExpiresAt = fromExpiry(expires)
			entries = append(entries, e)
			return nil
		})
	})
	if err != nil {
		return nil, false, wrapRead("list plugin's keys", err)
	}
	return entries, more, nil
}

// KVPut writes a plugin's key.
func (s *Store) KVPut(ctx context.Context, plugin string, w *core.KVWrite, quota core.KVQuota, now time.Time) (uint64, error) {
	var revision uint64
	err := s.write(ctx, func(t *tx) (err error) { revision, err = putKV(t, plugin, w, quota, now); return err })
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// KVDelete removes a plugin's key.
func (s *Store) KVDelete(ctx context.Context, plugin, key string, ifRevision *uint64, now time.Time) (bool, error) {
	var deleted bool
	err := s.write(ctx, func(t *tx) (err error) { deleted, err = deleteKV(t, plugin, key, ifRevision, now); return err })
	if err != nil {
		return false, err
	}
	return deleted, nil
}

// kvRow is a row of plugin_kv without its value; the zero kvRow is none.
type kvRow struct {
	revision uint64
	bytes    int64 // of the value
	expires  sql.Null[int64]
}

func findKV(t *tx, plugin, key string) (kvRow, error) {
	var r kvRow
	err := t.row(findKVSQL, plugin, key).Scan(&r.revision, &r.bytes, &r.expires)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return kvRow{}, fmt.Errorf("find plugin's key: %w", err)
	}
	return r, nil
}

// current is the revision that a plugin would see, 0 where it sees none.
func (r *kvRow) current(now time.Time) uint64 {
	if expired(r.expires, now) {
		return 0
	}
	return r.revision
}

// kvUsage is a row of plugin_kv_usage.
type kvUsage struct {
	last        uint64
	keys, bytes int64
}

// within reports whether the plugin may have keys and bytes more than now. What
// grows in neither way is not held up: a quota that was lowered must not keep a
// plugin from making room.
func (u *kvUsage) within(q core.KVQuota, keys, bytes int64) bool {
	return (keys <= 0 || u.keys+keys <= int64(q.Keys)) && (bytes <= 0 || u.bytes+bytes <= q.Bytes)
}

func putKV(t *tx, plugin string, w *core.KVWrite, quota core.KVQuota, now time.Time) (uint64, error) {
	row, err := findKV(t, plugin, w.Key)
	if err != nil {
		return 0, err
	}
	if w.IfRevision != nil && *w.IfRevision != row.current(now) {
		return 0, core.ErrRevision
	}
	var use kvUsage
	err = t.row(findUsageSQL, plugin).Scan(&use.last, &use.keys, &use.bytes)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("find plugin's usage: %w", err)
	}
	keys, bytes := int64(1), int64(len(w.Key)+len(w.Value))
	if row.revision != 0 { // also where it has expired: the row is there
		keys, bytes = 0, int64(len(w.Value))-row.bytes
	}
	if err := makeRoom(t, plugin, w.Key, &use, quota, keys, bytes, now); err != nil {
		return 0, err
	}
	use.last++
	use.keys += keys
	use.bytes += bytes
	value := w.Value
	if value == nil {
		value = []byte{} // the driver takes nil for NULL
	}
	if _, err := t.exec(putKVSQL, plugin, w.Key, value, use.last, toExpiry(w.ExpiresAt)); err != nil {
		return 0, fmt.Errorf("write plugin's key: %w", err)
	}
	if _, err := t.exec(setUsageSQL, plugin, use.last, use.keys, use.bytes); err != nil {
		return 0, fmt.Errorf("write plugin's usage: %w", err)
	}
	return use.last, nil
}

// makeRoom removes as many expired rows, but not that of key, as it takes for keys
// and bytes more to be within the quota; [core.ErrQuota], and nothing removed, where
// all of them would not suffice.
func makeRoom(t *tx, plugin, key string, use *kvUsage, quota core.KVQuota, keys, bytes int64, now time.Time) error {
	if use.within(quota, keys, bytes) {
		return nil
	}
	var gone kvUsage
	if err := t.row(countExpireSQL, plugin, now.UnixMicro(), key).Scan(&gone.keys, &gone.bytes); err != nil {
		return fmt.Errorf("count plugin's expired keys: %w", err)
	}
	rest := kvUsage{keys: use.keys - gone.keys, bytes: use.bytes - gone.bytes}
	if !rest.within(quota, keys, bytes) {
		return core.ErrQuota
	}
	for !use.within(quota, keys, bytes) {
		n, freed, err := expireKV(t, plugin, key, now)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("make room for plugin %q: its usage does not fit its keys", plugin)
		}
		use.keys -= n
		use.bytes -= freed
	}
	return nil
}

// expireKV removes a batch of a plugin's expired rows, but not that of key; the
// caller lowers the usage.
func expireKV(t *tx, plugin, key string, now time.Time) (n, bytes int64, err error) {
	rows, err := t.rows(expireKVSQL, plugin, now.UnixMicro(), key, pruneBatch)
	if err != nil {
		return 0, 0, fmt.Errorf("remove plugin's expired keys: %w", err)
	}
	sizes, err := scanColumn[int64](rows)
	if err != nil {
		return 0, 0, fmt.Errorf("remove plugin's expired keys: %w", err)
	}
	for _, size := range sizes {
		bytes += size
	}
	return int64(len(sizes)), bytes, nil
}

func deleteKV(t *tx, plugin, key string, ifRevision *uint64, now time.Time) (bool, error) {
	row, err := findKV(t, plugin, key)
	if err != nil {
		return false, err
	}
	current := row.current(now)
	switch {
	case ifRevision != nil && (current == 0 || current != *ifRevision):
		return false, core.ErrRevision
	case current == 0:
		return false, nil // one that has expired is left to Prune
	}
	if _, err := t.exec(deleteKVSQL, plugin, key); err != nil {
		return false, fmt.Errorf("delete plugin's key: %w", err)
	}
	return true, lowerUsage(t, plugin, 1, int64(len(key))+row.bytes)
}

func lowerUsage(t *tx, plugin string, keys, bytes int64) error {
	if _, err := t.exec(lowerUsageSQL, keys, bytes, plugin); err != nil {
		return fmt.Errorf("lower plugin's usage: %w", err)
	}
	return nil
}

// pruneKV removes the expired rows of all plugins, a batch in each operation.
func (s *Store) pruneKV(ctx context.Context, now time.Time) error {
	plugins, err := s.pluginsWithKeys(ctx)
	if err != nil {
		return err
	}
	for _, plugin := range plugins {
		for n := int64(pruneBatch); n == pruneBatch; {
			err := s.write(ctx, func(t *tx) (err error) {
				var bytes int64
				if n, bytes, err = expireKV(t, plugin, "", now); err != nil || n == 0 {
					return err
				}
				return lowerUsage(t, plugin, n, bytes)
			})
			if err != nil {
				return fmt.Errorf("prune: %w", err)
			}
		}
	}
	return nil
}

func (s *Store) pluginsWithKeys(ctx context.Context) (plugins []string, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, pluginsKVSQL)
		if err != nil {
			return err
		}
		plugins, err = scanColumn[string](rows)
		return err
	})
	return plugins, wrapRead("list plugins with keys", err)
}

// scanColumn reads the one column of rows and closes them.
func scanColumn[T any](rows *sql.Rows) (column []T, err error) {
	err = scanAll(rows, func() error {
		var v T
		if err := rows.Scan(&v); err != nil {
			return err
		}
		column = append(column, v)
		return nil
	})
	return column, err
}

// expired reports whether an entry is over at now.
func expired(expires sql.Null[int64], now time.Time) bool {
	return expires.Valid && expires.V <= now.UnixMicro()
}

func fromExpiry(v sql.Null[int64]) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return fromMicros(v.V)
}

// toExpiry is NULL for an entry that stays.
func toExpiry(at time.Time) sql.Null[int64] {
	return sql.Null[int64]{V: at.UnixMicro(), Valid: !at.IsZero()}
}
