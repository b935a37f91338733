package sqlite_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
	"github.com/plugboard/plugboard/core/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(appenderEnv); path != "" {
		os.Exit(runAppender(path))
	}
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	var paths sync.Map // of testing.TB: one database each
	storetest.Run(t, func(t testing.TB) core.Store {
		path, _ := paths.LoadOrStore(t, newPath(t))
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path.(string)})
		if err != nil {
			t.Fatalf("open store: %v", err)
		}
		return s
	})
}

// open opens a store that the test's end closes.
func open(t testing.TB, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, core.ErrClosed) {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

func newPath(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "data", "plug board?#%.db") // a path is not a URL
}

func createUser(ctx context.Context, s core.Users, id string) error {
	return s.CreateUser(ctx, &core.User{ID: id, Username: id, PublicKey: make([]byte, 32), CreatedAt: time.Now()},
		&core.EncryptionKey{Version: 1, Public: make([]byte, 32), Signature: make([]byte, 64), PublishedAt: time.Now()})
}

// openWith opens a store that has the given users.
func openWith(t testing.TB, o sqlite.Options, users ...string) *sqlite.Store {
	t.Helper()
	s := open(t, o)
	for _, id := range users {
		if err := createUser(context.Background(), s, id); err != nil {
			t.Fatalf("create user: %v", err)
		}
	}
	return s
}

var serverTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newMessage(from, to, id string) *core.Message {
	return &core.Message{
		From: from, To: to, ID: id, Timestamp: "2026-03-01T12:00:00.000Z", ServerTime: serverTime, KeyVersion: 1,
		Content: "content", Digest: sha256.Sum256([]byte(from + to + id)),
	}
}

// connect opens a connection that knows nothing of the store.
func connect(t testing.TB, path string) *sql.Conn {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link") // a name that needs no escaping
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	c, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func run(t testing.TB, c *sql.Conn, statement string) {
	t.Helper()
	if _, err := c.ExecContext(context.Background(), statement); err != nil {
		t.Fatalf("run %s: %v", statement, err)
	}
}

// query reads one row of a database that no store has open.
func query(t testing.TB, path, statement string, dest ...any) {
	t.Helper()
	c := connect(t, path)
	if err := c.QueryRowContext(context.Background(), statement).Scan(dest...); err != nil {
		t.Fatalf("query %s: %v", statement, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// metric reads a counter, a gauge or how often a histogram observed.
func metric(t testing.TB, r *prometheus.Registry, name string) int {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatalf("gather metrics: %v", err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		m := f.GetMetric()[0]
		return int(m.GetCounter().GetValue()+m.GetGauge().GetValue()) + int(m.GetHistogram().GetSampleCount())
	}
	t.Fatalf("metric %s: got none", name)
	return 0
}

// waitMetric waits until a metric has a value.
func waitMetric(t testing.TB, r *prometheus.Registry, name string, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); metric(t, r, name) != want; {
		if time.Now().After(deadline) {
			t.Fatalf("metric %s: got %d, want %d", name, metric(t, r, name), want)
		}
		time.Sleep(time.Millisecond)
	}
}

func wantSame[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// appending is an Append under way.
type appending struct {
	stored core.Stored
	err    error
	done   chan struct{}
}

// held is a store whose writer waits, with one operation taken up, for a lock
// that release gives back.
type held struct {
	*sqlite.Store
	t        *testing.T
	registry *prometheus.Registry
	path     string
	first    *appending
	waiting  int
	release  func()
}

func hold(t *testing.T, o sqlite.Options) *held {
	t.Helper()
	h := &held{t: t, registry: prometheus.NewRegistry(), path: newPath(t)}
	o.Path, o.Metrics = h.path, h.registry
	h.Store = openWith(t, o, "bob")
	before := metric(t, h.registry, "plugboard_store_batch_operations")
	c := connect(t, h.path)
	run(t, c, "BEGIN IMMEDIATE")
	h.release = func() { run(t, c, "ROLLBACK") }
	h.first = h.start(t.Context(), newMessage("alice", "bob", "first"))
	waitMetric(t, h.registry, "plugboard_store_batch_operations", before+1)
	return h
}

func (h *held) start(ctx context.Context, m *core.Message) *appending {
	a := &appending{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.stored, a.err = h.Append(ctx, m, 1000)
	}()
	return a
}

// enqueue starts an append and waits until it stands in the queue.
func (h *held) enqueue(ctx context.Context, m *core.Message) *appending {
	h.t.Helper()
	a := h.start(ctx, m)
	h.waiting++
	waitMetric(h.t, h.registry, "plugboard_store_queue_depth", h.waiting)
	return a
}

func (h *held) wantStored(a *appending, seq uint64) {
	h.t.Helper()
	<-a.done
	if a.err != nil || a.stored.Seq != seq {
		h.t.Fatalf("append: got seq %d, %v, want %d", a.stored.Seq, a.err, seq)
	}
}

func id(n int) string { return fmt.Sprintf("m%d", n) }
