package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
	"github.com/plugboard/plugboard/sdk/fault"
)

// wantRefused opens what must be refused in one sentence that holds the words.
func wantRefused(t *testing.T, o sqlite.Options, words ...string) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), o)
	if err == nil {
		_ = s.Close()
		t.Fatalf("open: got no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("open: got error %q, want %q in it", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("open: got error %q, want one line", err)
	}
}

// made makes a database with one user and one message and closes it.
func made(t *testing.T) string {
	t.Helper()
	path := newPath(t)
	s := openWith(t, sqlite.Options{Path: path}, "bob")
	if _, err := s.Append(t.Context(), newMessage("alice", "bob", "m1"), 10); err != nil {
		t.Fatalf("append: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("log after a clean stop: got %v, want none", err)
	}
	return path
}

// damage overwrites the page at which a table or index begins.
func damage(t *testing.T, path, name string) {
	t.Helper()
	var page, size int64
	query(t, path, `SELECT rootpage FROM sqlite_master WHERE name = '`+name+`'`, &page)
	query(t, path, `PRAGMA page_size`, &size)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, int(size)), (page-1)*size); err != nil {
		t.Fatal(err)
	}
}

func TestConnections(t *testing.T) {
	for mode, want := range map[string]string{"": "2", sqlite.SyncFull: "2", sqlite.SyncNormal: "1"} {
		s := open(t, sqlite.Options{Path: newPath(t), Synchronous: mode, Readers: 3})
		seen := map[string]int{}
		err := s.EachConn(t.Context(), func(role string, c *sql.Conn) {
			seen[role]++
			for name, want := range map[string]string{
				"synchronous": want, "journal_mode": "wal", "foreign_keys": "1", "trusted_schema": "0", "cell_size_check": "1",
			} {
				var got string
				if err := c.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != want {
					t.Errorf("pragma %s of %s with synchronous %q: got %q, %v, want %q", name, role, mode, got, err, want)
				}
			}
			if _, err := c.ExecContext(t.Context(), "DELETE FROM health"); role == "reader" && err == nil {
				t.Error("write by a reader: got no error")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if seen["writer"] != 1 || seen["checkpointer"] != 1 || seen["reader"] != 3 {
			t.Fatalf("connections: got %v", seen)
		}
	}
}

func TestFileModes(t *testing.T) {
	path := newPath(t)
	if err := os.MkdirAll(filepath.Dir(filepath.Dir(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	s := openWith(t, sqlite.Options{Path: path}, "bob")
	for name, want := range map[string]os.FileMode{
		filepath.Dir(path): 0o700 | os.ModeDir, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600, path + ".lock": 0o600,
	} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "mode of "+filepath.Base(name), info.Mode(), want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, sqlite.Options{Path: path})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "mode of a file that was readable for all", info.Mode(), 0o600)
}

func TestOptionsRefused(t *testing.T) {
	_, err := sqlite.Open(t.Context(), sqlite.Options{Synchronous: "off", QueueLen: -1, MaxBatch: 1 << 20, Readers: 65, MaxBytes: -1})
	for _, want := range []string{"path", `"off"`, "queue length", "batch size", "readers", "size limit"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open with bad options: got error %v, want %s in it", err, want)
		}
	}
}

func TestSecondOpenerRefused(t *testing.T) {
	path := newPath(t)
	s := open(t, sqlite.Options{Path: path})
	wantRefused(t, sqlite.Options{Path: path}, "another server is using it")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, sqlite.Options{Path: path})
}

func TestNoDatabaseRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	text := bytes.Repeat([]byte("this is no database\n"), 1000)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, sqlite.Options{Path: path}, "not a SQLite database", path)
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, text) {
		t.Fatalf("refused file: got it changed (%v)", err)
	}
	wantRefused(t, sqlite.Options{Path: t.TempDir()}, "is a directory")
}

func TestForeignDatabaseRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	c := connect(t, path)
	run(t, c, "CREATE TABLE recipes (id INTEGER PRIMARY KEY)")
	wantRefused(t, sqlite.Options{Path: path}, "belongs to another program")
}

func TestNewerSchemaRefused(t *testing.T) {
	path := made(t)
	c := connect(t, path)
	run(t, c, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, sqlite.Options{Path: path}, "version 99", "use a newer program")
}

func TestDamageRefusedAfterUncleanStop(t *testing.T) {
	path := made(t)
	damage(t, path, "messages")
	if err := os.WriteFile(path+"-wal", []byte("left behind"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, sqlite.Options{Path: path}, "damaged", "backup")
}

// TestDamageIsFatal: damage that shows up later ends all writing and is told once.
func TestDamageIsFatal(t *testing.T) {
	path := made(t)
	damage(t, path, "sqlite_autoindex_messages_2")
	var calls atomic.Int64
	fatal := make(chan error, 10)
	s := open(t, sqlite.Options{Path: path, OnFatal: func(err error) { calls.Add(1); fatal <- err }})
	_, first := s.Append(t.Context(), newMessage("alice", "bob", "m2"), 10)
	if first == nil {
		t.Fatal("append to a damaged file: got no error")
	}
	if got := <-fatal; !errors.Is(first, got) && got.Error() != first.Error() {
		t.Errorf("fatal error: got %v, want the append's: %v", got, first)
	}
	for range 3 {
		if err := createUser(t.Context(), s, "carol"); err == nil || err.Error() != first.Error() {
			t.Errorf("later write: got error %v, want the first: %v", err, first)
		}
	}
	if _, err := s.FindStored(t.Context(), "alice", "m1", [32]byte{}); err == nil {
		t.Error("read of a damaged page: got no error")
	}
	wantSame(t, "calls of OnFatal", calls.Load(), 1)
	var f *fault.Error
	if !errors.As(core.StoreFault(first), &f) || f.Code != fault.StorageUnavailable {
		t.Errorf("fault: got %v, want %s", f, fault.StorageUnavailable)
	}
}

// TestFull: a full disk refuses writes, keeps reading and recovers by itself.
func TestFull(t *testing.T) {
	s := openWith(t, sqlite.Options{Path: newPath(t), MaxBytes: 1 << 20, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }}, "bob")
	content := strings.Repeat("x", 10000)
	n := 0
	add := func() error {
		n++
		m := newMessage("alice", "bob", id(n))
		m.Content = content
		_, err := s.Append(t.Context(), m, 1000)
		return err
	}
	for range 20 {
		if err := add(); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if _, err := s.Ack(t.Context(), "bob", 20, serverTime, nil); err != nil {
		t.Fatalf("ack: %v", err)
	}
	var err error
	for err == nil && n < 1000 {
		err = add()
	}
	var f *fault.Error
	if !errors.As(core.StoreFault(err), &f) || f.Code != fault.StorageUnavailable {
		t.Fatalf("append to a full database: got %v, want %s", err, fault.StorageUnavailable)
	}
	box, err := s.Mailbox(t.Context(), "bob")
	if err != nil || box.LastSeq != uint64(n-1) {
		t.Fatalf("mailbox of a full database: got %+v, %v, want last seq %d", box, err, n-1)
	}
	later := serverTime.Add(100 * time.Hour)
	if got, err := s.Prune(t.Context(), later, later); err != nil || got != 20 {
		t.Fatalf("prune: got %d, %v, want 20", got, err)
	}
	n-- // the same message again
	if err := add(); err != nil {
		t.Fatalf("append after pruning: %v", err)
	}
}

// TestCheckpoint: the log moves into the file while the store is open.
func TestCheckpoint(t *testing.T) {
	path, r := newPath(t), prometheus.NewRegistry()
	s := openWith(t, sqlite.Options{Path: path, Metrics: r}, "bob")
	if _, err := s.Append(t.Context(), newMessage("alice", "bob", "m1"), 10); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); metric(t, r, "plugboard_store_wal_bytes") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("checkpoint: got none in 10 s")
		}
	}
	copied := filepath.Join(t.TempDir(), "copy.db") // of the file alone, without its log
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var users int
	query(t, copied, `SELECT count(*) FROM users`, &users)
	wantSame(t, "users in the file", users, 1)
}

// TestMetricsReopened: a registry serves one store after the other.
func TestMetricsReopened(t *testing.T) {
	r, path := prometheus.NewRegistry(), newPath(t)
	for range 2 {
		s := open(t, sqlite.Options{Path: path, Metrics: r})
		wantRefused(t, sqlite.Options{Path: newPath(t), Metrics: r}, "register store metrics")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Fatalf("metrics after close: got %d, %v, want 0", len(families), err)
	}
}

func TestOpenContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := newPath(t)
	if _, err := sqlite.Open(ctx, sqlite.Options{Path: path}); !errors.Is(err, context.Canceled) {
		t.Fatalf("open with a context that has ended: got error %v, want %v", err, context.Canceled)
	}
	open(t, sqlite.Options{Path: path})
}
