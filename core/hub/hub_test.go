package hub_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/sdk/fault"
)

func session(user, conn string) *core.Session {
	return core.NewSession(conn, core.Principal{UserID: user}, nil, core.Remote{}, time.Unix(0, 0), nil, nil)
}

// A second device must not take the place of the first, nor take it along when
// it leaves.
func TestDevicesOfOneUserAreIndependent(t *testing.T) {
	h := hub.New()
	phone, laptop := session("alice", "1"), session("alice", "2")
	for _, s := range []*core.Session{phone, laptop} {
		if err := h.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	before := h.Of("alice")
	h.Remove(phone)
	h.Remove(phone)
	if got := h.Of("alice"); len(got) != 1 || got[0] != laptop {
		t.Errorf("got %v, want the laptop alone", got)
	}
	if len(before) != 2 || before[0] != phone {
		t.Error("a slice that was handed out has changed")
	}
	if sessions, users := h.Count(); sessions != 1 || users != 1 {
		t.Errorf("got %d sessions of %d users, want 1 of 1", sessions, users)
	}
	h.Remove(laptop)
	if sessions, users := h.Count(); sessions != 0 || users != 0 {
		t.Errorf("got %d sessions of %d users, want none", sessions, users)
	}
}

func TestClosedHubRefuses(t *testing.T) {
	h := hub.New()
	h.Close()
	if err := h.Add(session("alice", "1")); fault.CodeOf(err) != fault.ShuttingDown {
		t.Errorf("got %v, want shutting_down", err)
	}
}

func TestActivePages(t *testing.T) {
	h := hub.New()
	for i := range 25 {
		if err := h.Add(session(fmt.Sprintf("user-%02d", i), "c")); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for after := ""; ; {
		page, total := h.Active(after, 10)
		if total != 25 {
			t.Fatalf("got total %d, want 25", total)
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			seen = append(seen, s.UserID())
		}
		after = seen[len(seen)-1]
	}
	for i, user := range seen {
		if want := fmt.Sprintf("user-%02d", i); user != want {
			t.Fatalf("place %d: got %s, want %s", i, user, want)
		}
	}
	if len(seen) != 25 {
		t.Errorf("got %d users over all pages, want 25", len(seen))
	}
}

func TestManyGoroutines(t *testing.T) {
	h := hub.New()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				s := session(fmt.Sprintf("user-%d", i%7), fmt.Sprintf("%d-%d", g, i))
				if err := h.Add(s); err != nil {
					t.Error(err)
				}
				h.Each(func(*core.Session) {})
				h.Of(s.UserID())
				h.Active("", 3)
				h.Remove(s)
			}
		})
	}
	wg.Wait()
	if sessions, users := h.Count(); sessions != 0 || users != 0 {
		t.Errorf("got %d sessions of %d users left, want none", sessions, users)
	}
}
