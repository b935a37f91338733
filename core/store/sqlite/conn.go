package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// How long a connection waits for a lock that another one holds. Within the
// process only a truncating checkpoint can hold the writer up, and it gives way
// first; a tool that copies the database may do so too.
const (
	busyTimeout           = 5 * time.Second
	checkpointBusyTimeout = 100 * time.Millisecond
)

// stmtCacheSize is how many prepared statements a connection keeps: more than
// there are statements in this package.
const stmtCacheSize = 64

// writerCacheKiB is the writer's page cache: the index by which a repeated message
// is recognised is hit at random and should stay in memory.
const writerCacheKiB = 64 << 10

// role is what a connection is for.
type role int

const (
	roleWriter role = iota
	roleCheckpointer
	roleReader
)

// connector opens connections of one role. It is a connector and not a
// registered driver so that the package needs no global state.
type connector struct {
	driver *sqlite3.SQLiteDriver
	dsn    string
}

// Connect opens one connection (database/sql/driver.Connector).
func (c *connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver is part of database/sql/driver.Connector.
func (c *connector) Driver() driver.Driver { return c.driver }

// newPool makes a pool of at most size connections of a role.
func newPool(o *Options, r role, size int) *sql.DB {
	db := sql.OpenDB(&connector{
		driver: &sqlite3.SQLiteDriver{ConnectHook: func(c *sqlite3.SQLiteConn) error { return prepareConn(c, o, r) }},
		dsn:    dsn(o, r),
	})
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

// dsn says what the driver sets before the connection's first use. The
// synchronous mode is in it explicitly: left out, the driver sets NORMAL.
func dsn(o *Options, r role) string {
	q := url.Values{}
	q.Set("_synchronous", strings.ToUpper(o.Synchronous))
	q.Set("_foreign_keys", "on")
	q.Set("_busy_timeout", strconv.FormatInt(busyTimeout.Milliseconds(), 10))
	q.Set("_stmt_cache_size", strconv.Itoa(stmtCacheSize))
	switch r {
	case roleReader:
		q.Set("mode", "ro")
		q.Set("_query_only", "on")
	case roleCheckpointer:
		q.Set("mode", "rw")
		q.Set("_busy_timeout", strconv.FormatInt(checkpointBusyTimeout.Milliseconds(), 10))
	default:
		q.Set("mode", "rw")
		q.Set("_txlock", "immediate")
		q.Set("_journal_mode", "WAL")
		q.Set("_cache_size", strconv.Itoa(-writerCacheKiB)) // negative: KiB, not pages
	}
	return "file:" + (&url.URL{Path: o.Path}).EscapedPath() + "?" + q.Encode()
}

// prepareConn sets what the driver has no name for and asserts what durability
// hangs on.
func prepareConn(c *sqlite3.SQLiteConn, o *Options, r role) error {
	set := []string{
		"PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON",
		"PRAGMA fullfsync=ON", "PRAGMA checkpoint_fullfsync=ON", // macOS; elsewhere without effect
	}
	if r != roleReader {
		set = append(set, "PRAGMA wal_autocheckpoint=0") // the checkpointer's work
	}
	for _, s := range set {
		if _, err := c.Exec(s, nil); err != nil {
			return fmt.Errorf("run %q: %w", s, err)
		}
	}
	if r == roleWriter && o.MaxBytes > 0 {
		if err := limitSize(c, o.MaxBytes); err != nil {
			return err
		}
	}
	want := map[string]string{"synchronous": "2", "foreign_keys": "1", "journal_mode": "wal", "trusted_schema": "0", "cell_size_check": "1"}
	if o.Synchronous == SyncNormal {
		want["synchronous"] = "1"
	}
	for name, w := range want {
		got, err := pragma(c, name)
		if err != nil {
			return err
		}
		if got != w {
			return fmt.Errorf("assert pragma %s: got %s, want %s", name, got, w)
		}
	}
	return nil
}

func limitSize(c *sqlite3.SQLiteConn, maxBytes int64) error {
	text, err := pragma(c, "page_size")
	if err != nil {
		return err
	}
	page, err := strconv.ParseInt(text, 10, 64)
	if err != nil || page <= 0 {
		return fmt.Errorf("read pragma page_size: got %q", text)
	}
	if _, err := c.Exec("PRAGMA max_page_count="+strconv.FormatInt(max(1, maxBytes/page), 10), nil); err != nil {
		return fmt.Errorf("limit database size: %w", err)
	}
	return nil
}

// pragma reads a pragma that answers one value.
func pragma(c *sqlite3.SQLiteConn, name string) (string, error) {
	rows, err := c.Query("PRAGMA "+name, nil)
	if err != nil {
		return "", fmt.Errorf("read pragma %s: %w", name, err)
	}
	defer func() { _ = rows.Close() }() // what it could tell, Next told
	row := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); errors.Is(err, io.EOF) || len(row) == 0 {
		return "", fmt.Errorf("read pragma %s: no answer", name)
	} else if err != nil {
		return "", fmt.Errorf("read pragma %s: %w", name, err)
	}
	return fmt.Sprint(row[0]), nil
}
