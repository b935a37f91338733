package storetest

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

func testAppend(t *testing.T, s *suite) {
	s.register("alice", "bob", "carol")
	m := newMessage("alice", "bob", "m1")
	m.ServerTime = start.Add(999 * time.Nanosecond)
	m.Content = "\x00 ' \" % ☃" // binary-looking text must pass unchanged
	given := *m
	got := s.send(m)
	wantSame(t, "answer", got, core.Stored{Seq: 1, ServerTime: start})
	wantSame(t, "the caller's message", *m, given)

	if got := s.send(newMessage("alice", "bob", "m2")); got.Seq != 2 {
		t.Fatalf("second seq: got %d, want 2", got.Seq)
	}
	if got := s.send(newMessage("alice", "carol", "m3")); got.Seq != 1 {
		t.Fatalf("first seq of another recipient: got %d, want 1", got.Seq)
	}
	if got := s.send(newMessage("carol", "bob", "m1")); got.Seq != 3 || got.Repeated {
		t.Fatalf("another sender's message of the same id: got %+v, want seq 3, not repeated", got)
	}
	_, err := s.Append(t.Context(), newMessage("alice", "nobody", "m4"), 10)
	wantError(t, "append to nobody", err, core.ErrNotFound)

	list, err := s.Read(t.Context(), "bob", 0, 1, 1<<20)
	wantNone(t, "read", err)
	want := given
	want.Seq, want.ServerTime = 1, start
	wantSame(t, "message read", list, []core.Message{want})
	s.wantMailbox("bob", 3, 0)
	s.wantIDs("bob", "m1", "m2", "m1")
}

func testAppendRepeated(t *testing.T, s *suite) {
	s.register("alice", "bob")
	first := s.send(newMessage("alice", "bob", "m1"))
	want := first
	want.Repeated = true

	again := newMessage("alice", "bob", "m1")
	again.ServerTime = start.Add(time.Hour)
	wantSame(t, "answer to the same again", s.send(again), want)

	other := newMessage("alice", "bob", "m1")
	other.Digest = digestOf("something else")
	_, err := s.Append(t.Context(), other, 1000)
	wantError(t, "same id, other contents", err, core.ErrIDConflict)

	full, err := s.Append(t.Context(), again, 1)
	wantNone(t, "the same again into a full mailbox", err)
	wantSame(t, "answer from a full mailbox", full, want)
	s.ack("bob", 1, start)
	wantSame(t, "answer after the acknowledgement", s.send(again), want)

	found, err := s.FindStored(t.Context(), "alice", "m1", again.Digest)
	wantNone(t, "find stored", err)
	wantSame(t, "found", found, want)
	_, err = s.FindStored(t.Context(), "alice", "m1", other.Digest)
	wantError(t, "find other contents", err, core.ErrIDConflict)
	_, err = s.FindStored(t.Context(), "alice", "m2", again.Digest)
	wantError(t, "find an unknown id", err, core.ErrNotFound)
	_, err = s.FindStored(t.Context(), "bob", "m1", again.Digest)
	wantError(t, "find another sender's id", err, core.ErrNotFound)
	s.wantMailbox("bob", 1, 1)
}

func testAppendForeignSender(t *testing.T, s *suite) {
	s.register("bob")
	if got := s.send(newMessage("plugin:weather", "bob", "m1")); got.Seq != 1 {
		t.Fatalf("message of a plugin: got seq %d, want 1", got.Seq)
	}
	s.wantIDs("bob", "m1")
}

func testAppendMailboxFull(t *testing.T, s *suite) {
	s.register("alice", "bob")
	fill := func(id string) error {
		_, err := s.Append(t.Context(), newMessage("alice", "bob", id), 2)
		return err
	}
	wantNone(t, "first of two", fill("m1"))
	wantNone(t, "second of two", fill("m2"))
	wantError(t, "third of two", fill("m3"), core.ErrMailboxFull)
	s.wantMailbox("bob", 2, 0)
	s.ack("bob", 1, start)
	wantNone(t, "after an acknowledgement", fill("m3"))
	wantError(t, "full again", fill("m4"), core.ErrMailboxFull)
	s.wantMailbox("bob", 3, 1)
	_, err := s.Append(t.Context(), newMessage("alice", "alice", "m5"), 0)
	wantError(t, "limit 0", err, core.ErrMailboxFull)
}

func testAppendConcurrent(t *testing.T, s *suite) {
	const senders, each = 50, 20
	recipients := []string{"r0", "r1", "r2", "r3"}
	s.register(recipients...)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		got = map[string]map[uint64]string{} // recipient, seq: sender and id
	)
	for _, r := range recipients {
		got[r] = map[uint64]string{}
	}
	for i := range senders {
		from := fmt.Sprintf("sender%d", i)
		wg.Go(func() {
			for n := range each {
				m := newMessage(from, recipients[(i+n)%len(recipients)], fmt.Sprintf("m%d", n))
				stored, err := s.Append(t.Context(), m, 100000)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				if before, ok := got[m.To][stored.Seq]; ok {
					t.Errorf("seq %d of %s given twice: to %s and %s", stored.Seq, m.To, before, from+m.ID)
				}
				got[m.To][stored.Seq] = from + m.ID
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, r := range recipients {
		list, err := s.Read(t.Context(), r, 0, senders*each, 1<<30)
		wantNone(t, "read", err)
		for i, m := range list {
			if m.Seq != uint64(i+1) || got[r][m.Seq] != m.From+m.ID {
				t.Fatalf("message %d of %s: got seq %d of %s, want it without gaps and as answered (%s)", i, r, m.Seq, m.From+m.ID, got[r][m.Seq])
			}
		}
		s.wantMailbox(r, uint64(len(list)), 0)
		total += len(list)
	}
	if total != senders*each {
		t.Fatalf("messages: got %d, want %d", total, senders*each)
	}
}

func testAppendRepeatedConcurrent(t *testing.T, s *suite) {
	s.register("alice", "bob")
	answers := make([]core.Stored, 30)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = s.Append(t.Context(), newMessage("alice", "bob", "m1"), 5); err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	first := 0
	for _, a := range answers {
		if !a.Repeated {
			first++
		}
		if a.Seq != 1 || !a.ServerTime.Equal(start) {
			t.Fatalf("answer: got %+v, want seq 1 at %v", a, start)
		}
	}
	if first != 1 {
		t.Fatalf("answers that are not a repetition: got %d, want 1", first)
	}
	s.wantMailbox("bob", 1, 0)
}

func testRead(t *testing.T, s *suite) {
	s.register("alice", "bob")
	for i := range 5 {
		m := newMessage("alice", "bob", fmt.Sprintf("m%d", i+1))
		m.Content = "0123456789"
		s.send(m)
	}
	read := func(after uint64, limit, maxBytes int, want ...uint64) {
		t.Helper()
		list, err := s.Read(t.Context(), "bob", after, limit, maxBytes)
		wantNone(t, "read", err)
		var got []uint64
		for _, m := range list {
			got = append(got, m.Seq)
		}
		wantSame(t, fmt.Sprintf("seqs after %d, limit %d, %d bytes", after, limit, maxBytes), got, want)
	}
	read(0, 10, 1000, 1, 2, 3, 4, 5)
	read(2, 10, 1000, 3, 4, 5)
	read(2, 2, 1000, 3, 4)
	read(0, 10, 30, 1, 2, 3)
	read(0, 10, 29, 1, 2)
	read(0, 10, 1, 1)
	read(3, 10, 0, 4)
	read(5, 10, 1000)
	read(math.MaxUint64, 10, 1000)
	read(0, 0, 1000)
	list, err := s.Read(t.Context(), "nobody", 0, 10, 1000)
	if err != nil || len(list) != 0 {
		t.Fatalf("read mailbox of nobody: got %v, %v, want none", list, err)
	}
}

func testAck(t *testing.T, s *suite) {
	s.register("alice", "bob")
	s.sendMany("alice", "bob", 5)
	at := start.Add(time.Minute)
	receipt := func(seq uint64) core.Receipt {
		return core.Receipt{Seq: seq, From: "alice", To: "bob", ID: fmt.Sprintf("m%d", seq), Timestamp: wire.FormatTime(at)}
	}
	wantSame(t, "receipts up to 2", s.ack("bob", 2, at), []core.Receipt{receipt(1), receipt(2)})
	s.wantMailbox("bob", 5, 2)

	for _, seq := range []uint64{0, 1, 2} {
		if got := s.ack("bob", seq, at); len(got) != 0 {
			t.Fatalf("receipts of %d again: got %v, want none", seq, got)
		}
	}
	for _, seq := range []uint64{6, math.MaxUint64} {
		_, err := s.Ack(t.Context(), "bob", seq, at, nil)
		wantError(t, fmt.Sprintf("ack %d of 5", seq), err, core.ErrSeq)
	}
	_, err := s.Ack(t.Context(), "nobody", 1, at, nil)
	wantError(t, "ack of nobody", err, core.ErrNotFound)
	s.wantMailbox("bob", 5, 2)

	signed := map[uint64]core.Receipt{
		2: {Timestamp: "too late", Signature: "for it was acknowledged before"},
		4: {Seq: 4, From: "mallory", ID: "forged", Timestamp: "2026-03-01T12:00:30.000Z", Signature: "c2lnbmVk"},
		5: {Timestamp: "too early", Signature: "for it is not acknowledged yet"},
	}
	got, err := s.Ack(t.Context(), "bob", 4, at, signed)
	wantNone(t, "ack with receipts", err)
	four := receipt(4)
	four.Timestamp, four.Signature = "2026-03-01T12:00:30.000Z", "c2lnbmVk"
	wantSame(t, "receipts up to 4", got, []core.Receipt{receipt(3), four})
	s.wantMailbox("bob", 5, 4)
	s.wantIDs("bob", "m1", "m2", "m3", "m4", "m5") // acknowledged is not removed
}

func testAckConcurrent(t *testing.T, s *suite) {
	const n = 60
	s.register("alice", "bob")
	s.sendMany("alice", "bob", n)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[uint64]int{}
	)
	for device := range 6 { // several devices of one user acknowledge the same
		wg.Go(func() {
			for seq := uint64(1 + device%3); seq <= n; seq += 3 {
				receipts, err := s.Ack(t.Context(), "bob", seq, start, nil)
				if err != nil && !errors.Is(err, core.ErrSeq) {
					t.Errorf("ack %d: %v", seq, err)
				}
				mu.Lock()
				for _, r := range receipts {
					seen[r.Seq]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.ack("bob", n, start)
	for seq := uint64(1); seq <= n; seq++ {
		if seen[seq] != 1 {
			t.Fatalf("receipts of seq %d: got %d, want 1", seq, seen[seq])
		}
	}
	s.wantMailbox("bob", n, n)
}
