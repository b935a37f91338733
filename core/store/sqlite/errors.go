package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/plugboard/plugboard/core"
)

// isRefusal reports whether err is a no that the contract names: the storage
// works and nothing was written.
func isRefusal(err error) bool {
	for _, r := range []error{
		core.ErrNotFound, core.ErrExists, core.ErrIDConflict, core.ErrMailboxFull, core.ErrKeyVersion, core.ErrSeq,
		core.ErrRevision, core.ErrQuota,
	} {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// isFatal reports whether the file can no longer be trusted after err. After a
// failed sync the page cache may show what the disk does not hold, so nothing is
// tried again in this process. A full disk is not fatal: it passes.
func isFatal(err error) bool {
	if errors.Is(err, sql.ErrConnDone) {
		return true
	}
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrIoErr || e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB)
}

const restoreHint = "stop the server and put a backup of the file in its place"

// openError is the one sentence for a database that cannot be opened.
func openError(path string, err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("open database %s: %w", path, err)
	}
	switch e.Code {
	case sqlite3.ErrNotADB:
		return fmt.Errorf("open database %s: the file is not a SQLite database (%w); check the path, or %s", path, err, restoreHint)
	case sqlite3.ErrCorrupt:
		return fmt.Errorf("open database %s: the file is damaged (%w); %s", path, err, restoreHint)
	case sqlite3.ErrCantOpen, sqlite3.ErrReadonly, sqlite3.ErrPerm:
		return fmt.Errorf("open database %s: the server's user needs read and write access to the file and its folder: %w", path, err)
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return fmt.Errorf("open database %s: another program holds a lock on it: %w", path, err)
	}
	return fmt.Errorf("open database %s: %w", path, err)
}
