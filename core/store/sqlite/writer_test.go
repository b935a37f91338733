package sqlite_test

import (
	"context"
	"errors"
	"testing"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
)

func TestBatch(t *testing.T) {
	h := hold(t, sqlite.Options{})
	var list []*appending
	for n := range 20 {
		list = append(list, h.enqueue(t.Context(), newMessage("alice", "bob", id(n))))
	}
	before := metric(t, h.registry, "plugboard_store_batch_operations")
	h.release()
	h.wantStored(h.first, 1)
	for n, a := range list {
		h.wantStored(a, uint64(n+2))
	}
	wantSame(t, "batches for 20 that waited", metric(t, h.registry, "plugboard_store_batch_operations")-before, 1)
}

func TestMaxBatch(t *testing.T) {
	h := hold(t, sqlite.Options{MaxBatch: 3})
	var list []*appending
	for n := range 7 {
		list = append(list, h.enqueue(t.Context(), newMessage("alice", "bob", id(n))))
	}
	before := metric(t, h.registry, "plugboard_store_batch_operations")
	h.release()
	for n, a := range list {
		h.wantStored(a, uint64(n+2))
	}
	wantSame(t, "batches of at most 3 for 7", metric(t, h.registry, "plugboard_store_batch_operations")-before, 3)
}

// TestPoison: an operation that SQLite refuses does not hurt its neighbours.
func TestPoison(t *testing.T) {
	h := hold(t, sqlite.Options{OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	good1 := h.enqueue(t.Context(), newMessage("alice", "bob", "m1"))
	poison := h.enqueue(t.Context(), newMessage("alice", "bob", "")) // breaks a CHECK
	unknown := h.enqueue(t.Context(), newMessage("alice", "nobody", "m2"))
	again := h.enqueue(t.Context(), newMessage("alice", "bob", "m1"))
	good2 := h.enqueue(t.Context(), newMessage("alice", "bob", "m3"))
	h.release()
	h.wantStored(h.first, 1)
	h.wantStored(good1, 2)
	h.wantStored(again, 2)
	h.wantStored(good2, 3)
	wantSame(t, "same message in one batch is a repetition", again.stored.Repeated, true)
	<-poison.done
	if poison.err == nil || errors.Is(poison.err, core.ErrNotFound) {
		t.Fatalf("poison: got error %v, want SQLite's", poison.err)
	}
	<-unknown.done
	if !errors.Is(unknown.err, core.ErrNotFound) {
		t.Fatalf("unknown recipient: got error %v, want %v", unknown.err, core.ErrNotFound)
	}
	wantSame(t, "reruns", metric(t, h.registry, "plugboard_store_batch_reruns_total"), 1)
	box, err := h.Mailbox(t.Context(), "bob")
	if err != nil || box.LastSeq != 3 {
		t.Fatalf("mailbox: got %+v, %v, want last seq 3", box, err)
	}
}

// TestRefusalKeepsBatch: a refusal is no reason to run a batch again.
func TestRefusalKeepsBatch(t *testing.T) {
	h := hold(t, sqlite.Options{})
	unknown := h.enqueue(t.Context(), newMessage("alice", "nobody", "m1"))
	good := h.enqueue(t.Context(), newMessage("alice", "bob", "m2"))
	h.release()
	h.wantStored(good, 2)
	<-unknown.done
	if !errors.Is(unknown.err, core.ErrNotFound) {
		t.Fatalf("unknown recipient: got error %v, want %v", unknown.err, core.ErrNotFound)
	}
	wantSame(t, "reruns", metric(t, h.registry, "plugboard_store_batch_reruns_total"), 0)
}

func TestQueueFull(t *testing.T) {
	h := hold(t, sqlite.Options{QueueLen: 2})
	one := h.enqueue(t.Context(), newMessage("alice", "bob", "m1"))
	two := h.enqueue(t.Context(), newMessage("alice", "bob", "m2"))
	_, err := h.Append(t.Context(), newMessage("alice", "bob", "m3"), 1000)
	if !errors.Is(err, core.ErrBusy) {
		t.Fatalf("append to a full queue: got error %v, want %v", err, core.ErrBusy)
	}
	wantSame(t, "busy refusals", metric(t, h.registry, "plugboard_store_busy_total"), 1)
	if _, err := h.CountUsers(t.Context()); err != nil {
		t.Fatalf("read while the writer waits: %v", err)
	}
	h.release()
	h.wantStored(one, 2)
	h.wantStored(two, 3)
	stored, err := h.Append(t.Context(), newMessage("alice", "bob", "m3"), 1000)
	if err != nil || stored.Seq != 4 || stored.Repeated {
		t.Fatalf("append afterwards: got %+v, %v, want seq 4", stored, err)
	}
}

// TestContext: what waits is taken back, what was taken up is finished.
func TestContext(t *testing.T) {
	h := hold(t, sqlite.Options{QueueLen: 1})
	ctx, cancel := context.WithCancel(t.Context())
	waits := h.enqueue(ctx, newMessage("alice", "bob", "m1"))
	cancel()
	<-waits.done
	if !errors.Is(waits.err, context.Canceled) {
		t.Fatalf("append taken back: got error %v, want %v", waits.err, context.Canceled)
	}
	h.waiting = 0
	next := h.enqueue(t.Context(), newMessage("alice", "bob", "m2")) // its place is free again
	h.release()
	h.wantStored(h.first, 1)
	h.wantStored(next, 2)
}

func TestContextTakenUp(t *testing.T) {
	h := hold(t, sqlite.Options{MaxBatch: 1})
	h.release()
	h.wantStored(h.first, 1)

	c := connect(t, h.path)
	run(t, c, "BEGIN IMMEDIATE")
	ctx, cancel := context.WithCancel(t.Context())
	before := metric(t, h.registry, "plugboard_store_batch_operations")
	a := h.start(ctx, newMessage("alice", "bob", "m1"))
	waitMetric(t, h.registry, "plugboard_store_batch_operations", before+1)
	cancel()
	select {
	case <-a.done:
		t.Fatalf("append taken up: got answer %v before the commit", a.err)
	default:
	}
	run(t, c, "ROLLBACK")
	h.wantStored(a, 2)
}

// TestCloseWaits: Close finishes what was accepted.
func TestCloseWaits(t *testing.T) {
	h := hold(t, sqlite.Options{})
	waiting := h.enqueue(t.Context(), newMessage("alice", "bob", "m1"))
	closed := make(chan error)
	go func() { closed <- h.Close() }()
	for { // until Close has shut the door
		_, err := h.CountUsers(t.Context())
		if errors.Is(err, core.ErrClosed) {
			break
		} else if err != nil {
			t.Fatalf("count users: %v", err)
		}
	}
	h.release()
	if err := <-closed; err != nil {
		t.Fatalf("close: got error %v, want none", err)
	}
	h.wantStored(h.first, 1)
	h.wantStored(waiting, 2)
	s := open(t, sqlite.Options{Path: h.path})
	if box, err := s.Mailbox(t.Context(), "bob"); err != nil || box.LastSeq != 2 {
		t.Fatalf("mailbox after reopening: got %+v, %v, want last seq 2", box, err)
	}
}
