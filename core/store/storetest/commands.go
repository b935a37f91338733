package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

func testCommands(t *testing.T, s *suite) {
	wantNone(t, "log no runs", s.LogRuns(t.Context(), nil))
	runs := make([]core.CommandRun, 10)
	for i := range runs {
		runs[i] = core.CommandRun{
			ID: fmt.Sprintf("r%d", i), Command: "echo", Plugin: "echo", UserID: "alice", SessionID: "s1", Surface: core.SurfaceHTTP,
			RemoteAddr: "192.0.2.1", Outcome: "ok", StartedAt: start, Duration: time.Second, ParamsBytes: 7, ResultBytes: 9,
		}
	}
	runs[3].Params = []byte(`{"a":1}`)
	wantNone(t, "log runs", s.LogRuns(t.Context(), runs))
	wantNone(t, "log the same ids again", s.LogRuns(t.Context(), runs))

	until := start.Add(time.Hour)
	wantNone(t, "spend", s.SpendSigned(t.Context(), "alice", "r1", digestOf("a"), until))
	wantError(t, "spend again", s.SpendSigned(t.Context(), "alice", "r1", digestOf("a"), until), core.ErrIDConflict)
	wantError(t, "spend with another digest", s.SpendSigned(t.Context(), "alice", "r1", digestOf("b"), until), core.ErrIDConflict)
	wantNone(t, "spend another user's", s.SpendSigned(t.Context(), "bob", "r1", digestOf("a"), until))
	wantNone(t, "close", s.Close())
	s.reopen()
	wantError(t, "spend after reopening", s.SpendSigned(t.Context(), "alice", "r1", digestOf("a"), until), core.ErrIDConflict)

	var (
		wg  sync.WaitGroup
		won atomic.Int64
	)
	for range 20 {
		wg.Go(func() {
			if s.SpendSigned(t.Context(), "alice", "r2", digestOf("a"), until) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if got := won.Load(); got != 1 {
		t.Fatalf("concurrent runs of one signed command: got %d taken, want 1", got)
	}
}

func testSessions(t *testing.T, s *suite) {
	s.register("alice")
	row := &core.SessionRow{
		ConnID: "c1", SessionID: "s1", UserID: "alice", ConnectedAt: start,
		Remote: core.Remote{Addr: "192.0.2.1", Host: "chat.example", UserAgent: "test/1"},
	}
	wantError(t, "close before open", s.CloseSession(t.Context(), row), core.ErrNotFound)
	wantNone(t, "open session", s.OpenSession(t.Context(), row))
	wantError(t, "open session again", s.OpenSession(t.Context(), row), core.ErrExists)
	second := *row
	second.ConnID = "c2"
	wantNone(t, "second connection of the same session", s.OpenSession(t.Context(), &second))
	row.EndedAt, row.SentCount, row.ReceiveCount = start.Add(time.Minute), 3, 4
	wantNone(t, "close session", s.CloseSession(t.Context(), row))
	wantError(t, "close session again", s.CloseSession(t.Context(), row), core.ErrNotFound)
	stranger := *row
	stranger.ConnID, stranger.UserID = "c3", "nobody"
	wantError(t, "open session of nobody", s.OpenSession(t.Context(), &stranger), core.ErrNotFound)

	wantNone(t, "close", s.Close())
	s.reopen()
	second.EndedAt = start.Add(time.Hour)
	wantError(t, "close a session that the last run left open", s.CloseSession(t.Context(), &second), core.ErrNotFound)
}
