package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
)

// madeAt makes a database whose schema is an older version, without the store.
func madeAt(t *testing.T, path string, version int64, statements ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", link)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(context.Background(), version); err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("run %s: %v", s, err)
		}
	}
}

// TestFirstSchemaMigrated: what stood in plugin_kv before its usage was counted is
// kept, counts towards the quota, and its revisions are not given again.
func TestFirstSchemaMigrated(t *testing.T) {
	path := newPath(t)
	madeAt(t, path, 1,
		`INSERT INTO users (user_id, username, public_key, roles, created_at) VALUES ('bob', 'Bob', zeroblob(32), '["user"]', 0)`,
		`INSERT INTO plugin_kv (plugin, key, value, revision, expires_at) VALUES ('weather', 'ü', x'0102', 7, NULL), ('weather', 'b', x'03', 9, 1)`)
	s := open(t, sqlite.Options{Path: path})
	e, err := s.KVGet(t.Context(), "weather", "ü", serverTime)
	if err != nil || string(e.Value) != "\x01\x02" || e.Revision != 7 {
		t.Fatalf("entry of the first schema: got %+v, %v, want revision 7", e, err)
	}
	if n, err := s.CountUsers(t.Context()); err != nil || n != 1 {
		t.Fatalf("users of the first schema: got %d, %v, want 1", n, err)
	}
	put := func(key, value string, q core.KVQuota) (uint64, error) {
		return s.KVPut(t.Context(), "weather", &core.KVWrite{Key: key, Value: []byte(value)}, q, serverTime)
	}
	if _, err := put("c", "1234", core.KVQuota{Keys: 2, Bytes: 8}); !errors.Is(err, core.ErrQuota) {
		t.Fatalf("put above the quota: got %v, want %v", err, core.ErrQuota)
	}
	if got, err := put("c", "123", core.KVQuota{Keys: 2, Bytes: 8}); err != nil || got != 10 {
		t.Fatalf("put: got revision %d, %v, want 10", got, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var keys, bytes int64
	query(t, path, `SELECT keys, bytes FROM plugin_kv_usage WHERE plugin = 'weather'`, &keys, &bytes)
	wantSame(t, "keys that are counted", keys, 2)
	wantSame(t, "bytes that are counted", bytes, 8)
}

// TestUsageFitsTheKeys: usage is what the rows are, whatever was done.
func TestUsageFitsTheKeys(t *testing.T) {
	path := newPath(t)
	s := open(t, sqlite.Options{Path: path})
	q := core.KVQuota{Keys: 5, Bytes: 100}
	for i := range 200 {
		key := string(rune('a' + i*7%11))
		w := &core.KVWrite{Key: key, Value: make([]byte, i*13%17)}
		if i%3 == 0 {
			w.ExpiresAt = serverTime
		}
		var err error
		switch {
		case i%10 == 9:
			_, err = s.KVDelete(t.Context(), "weather", key, nil, serverTime)
		case i%40 == 38:
			_, err = s.Prune(t.Context(), serverTime, serverTime)
		default:
			_, err = s.KVPut(t.Context(), "weather", w, q, serverTime)
		}
		if err != nil && !errors.Is(err, core.ErrQuota) {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var keys, bytes, wantKeys, wantBytes int64
	query(t, path, `SELECT keys, bytes FROM plugin_kv_usage`, &keys, &bytes)
	query(t, path, `SELECT count(*), sum(length(CAST(key AS BLOB)) + length(value)) FROM plugin_kv`, &wantKeys, &wantBytes)
	wantSame(t, "keys that are counted", keys, wantKeys)
	wantSame(t, "bytes that are counted", bytes, wantBytes)
	if wantKeys == 0 {
		t.Error("no keys were left to count")
	}
}
