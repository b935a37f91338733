package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

func testPrune(t *testing.T, s *suite) {
	s.register("alice", "bob")
	s.sendMany("alice", "bob", 4)
	s.ack("bob", 1, start.Add(time.Hour))
	s.ack("bob", 2, start.Add(2*time.Hour))
	now := start.Add(1000 * time.Hour)
	s.prune(now, start.Add(time.Hour), 0) // not before, at
	s.prune(now, start.Add(90*time.Minute), 1)
	s.wantIDs("bob", "m2", "m3", "m4")
	s.prune(now, now, 1)
	s.prune(now, now, 0)
	s.wantIDs("bob", "m3", "m4") // never what is not acknowledged
	s.wantMailbox("bob", 4, 2)
	if got := s.send(newMessage("alice", "bob", "m5")); got.Seq != 5 {
		t.Fatalf("seq after pruning: got %d, want 5", got.Seq)
	}
	_, err := s.FindStored(t.Context(), "alice", "m1", newMessage("alice", "bob", "m1").Digest)
	wantError(t, "find a pruned message", err, core.ErrNotFound)
}

func testPruneKeepsRecent(t *testing.T, s *suite) {
	s.register("alice", "bob")
	s.sendMany("alice", "bob", 1)
	s.ack("bob", 1, start)
	s.prune(start.Add(25*time.Hour-time.Second), start.Add(1000*time.Hour), 0)
	if got := s.send(newMessage("alice", "bob", "m1")); !got.Repeated {
		t.Fatalf("the same again within 25 hours: got %+v, want it repeated", got)
	}
	s.prune(start.Add(25*time.Hour+time.Second), start.Add(1000*time.Hour), 1)
}

func testPruneSpent(t *testing.T, s *suite) {
	s.register("alice")
	soon, late := start.Add(time.Minute), start.Add(time.Hour)
	spend := func(id string, until time.Time) error {
		return s.SpendSigned(t.Context(), "alice", id, digestOf(id), until)
	}
	login := func(session, challenge string, until time.Time) error {
		l := newLogin(session, "alice")
		l.ExpiresAt = until
		return s.CreateLogin(t.Context(), l, digestOf(challenge), until)
	}
	wantNone(t, "spend", spend("r1", soon))
	wantNone(t, "spend", spend("r2", late))
	wantNone(t, "sign in", login("s1", "c1", soon))
	wantNone(t, "sign in", login("s2", "c2", late))
	kept := core.Revocation{SessionID: "s2", UserID: "alice", RevokedAt: start, ExpiresAt: late}
	wantNone(t, "revoke", s.Revoke(t.Context(), &core.Revocation{SessionID: "s1", UserID: "alice", RevokedAt: start, ExpiresAt: soon}))
	wantNone(t, "revoke", s.Revoke(t.Context(), &kept))

	s.prune(start.Add(30*time.Minute), start, 0)
	wantNone(t, "spend what was forgotten", spend("r1", late))
	wantError(t, "spend what is remembered", spend("r2", late), core.ErrIDConflict)
	wantNone(t, "sign in by what was forgotten", login("s1", "c1", late))
	wantError(t, "sign in by what is remembered", login("s3", "c2", late), core.ErrExists)
	wantError(t, "sign in as a session that is remembered", login("s2", "c3", late), core.ErrExists)
	got, err := s.ListRevocations(t.Context(), start)
	wantNone(t, "list revocations", err)
	wantSame(t, "revocations kept", got, []core.Revocation{kept})
}

func testPruneMany(t *testing.T, s *suite) {
	const n = 600 // more than a batch of any engine
	s.register("alice", "bob")
	s.sendMany("alice", "bob", n)
	s.ack("bob", n-1, start)
	now := start.Add(1000 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, _ := s.Prune(ctx, now, now); got != 0 {
		t.Fatalf("prune with a context that has ended: got %d, want 0", got)
	}
	s.prune(now, now, n-1)
	s.wantIDs("bob", fmt.Sprintf("m%d", n))
}
