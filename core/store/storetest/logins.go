package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

func newLogin(session, user string) *core.Login {
	return &core.Login{
		SessionID: session, UserID: user, IssuedAt: start, ExpiresAt: start.Add(time.Hour),
		Remote: core.Remote{Addr: "192.0.2.1", Host: "chat.example", UserAgent: "test/1"},
	}
}

func testLogins(t *testing.T, s *suite) {
	s.register("alice")
	until := start.Add(time.Minute)
	wantNone(t, "first sign-in", s.CreateLogin(t.Context(), newLogin("s1", "alice"), digestOf("c1"), until))
	wantError(t, "challenge used twice", s.CreateLogin(t.Context(), newLogin("s2", "alice"), digestOf("c1"), until), core.ErrExists)
	wantError(t, "session id used twice", s.CreateLogin(t.Context(), newLogin("s1", "alice"), digestOf("c2"), until), core.ErrExists)
	wantNone(t, "challenge of a refused sign-in", s.CreateLogin(t.Context(), newLogin("s3", "alice"), digestOf("c2"), until))
	wantError(t, "sign-in of nobody", s.CreateLogin(t.Context(), newLogin("s4", "nobody"), digestOf("c4"), until), core.ErrNotFound)
	wantNone(t, "close", s.Close())
	s.reopen()
	wantError(t, "challenge used again after reopening", s.CreateLogin(t.Context(), newLogin("s5", "alice"), digestOf("c1"), until), core.ErrExists)
}

func testLoginConcurrent(t *testing.T, s *suite) {
	s.register("alice")
	for round := range 5 {
		var (
			wg  sync.WaitGroup
			won atomic.Int64
		)
		challenge := digestOf(fmt.Sprint(round))
		for i := range 20 {
			wg.Go(func() {
				err := s.CreateLogin(t.Context(), newLogin(fmt.Sprintf("s%d-%d", round, i), "alice"), challenge, start)
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, core.ErrExists) {
					t.Errorf("sign-in: got error %v, want %v", err, core.ErrExists)
				}
			})
		}
		wg.Wait()
		if got := won.Load(); got != 1 {
			t.Fatalf("sign-ins by one challenge: got %d, want 1", got)
		}
	}
}

func testRevocations(t *testing.T, s *suite) {
	revocation := func(session string, revoked, expires time.Duration) core.Revocation {
		return core.Revocation{SessionID: session, UserID: "alice", RevokedAt: start.Add(revoked), ExpiresAt: start.Add(expires)}
	}
	long, short := revocation("s1", 0, time.Hour), revocation("s2", time.Second, time.Minute)
	for _, r := range []core.Revocation{long, short} {
		wantNone(t, "revoke", s.Revoke(t.Context(), &r))
	}
	later := revocation("s1", time.Minute, 2*time.Hour)
	wantNone(t, "revoke again", s.Revoke(t.Context(), &later))
	list := func(now time.Time, want ...core.Revocation) {
		t.Helper()
		got, err := s.ListRevocations(t.Context(), now)
		wantNone(t, "list revocations", err)
		wantSame(t, "revocations", got, want)
	}
	list(start, long, short)
	list(start.Add(10*time.Minute), long)
	list(start.Add(2 * time.Hour))
	wantNone(t, "close", s.Close())
	s.reopen()
	list(start, long, short)
}
