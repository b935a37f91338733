package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

func testUsers(t *testing.T, s *suite) {
	u, k := newUser("alice")
	u.Username, u.Roles = "Ælice ☺", []string{core.RoleUser, core.RoleAdmin}
	u.CreatedAt = start.Add(789 * time.Nanosecond).In(time.FixedZone("", 3600))
	wantNone(t, "create user", s.CreateUser(t.Context(), u, k))

	got, err := s.FindAccount(t.Context(), "alice")
	wantNone(t, "find account", err)
	want := &core.Account{User: *u, Keys: []core.EncryptionKey{*k}}
	want.CreatedAt = start // UTC, cut to the microsecond
	wantSame(t, "account", got, want)
	s.wantMailbox("alice", 0, 0)

	other, otherKey := newUser("alice")
	other.Username = "somebody else"
	wantError(t, "create user again", s.CreateUser(t.Context(), other, otherKey), core.ErrExists)
	again, err := s.FindAccount(t.Context(), "alice")
	wantNone(t, "find account again", err)
	wantSame(t, "account after a refused user", again, want)

	_, err = s.FindAccount(t.Context(), "nobody")
	wantError(t, "find nobody", err, core.ErrNotFound)
	_, err = s.Mailbox(t.Context(), "nobody")
	wantError(t, "mailbox of nobody", err, core.ErrNotFound)
	bob, bobKey := newUser("bob")
	bobKey.Version = 2
	wantError(t, "create user with a second key", s.CreateUser(t.Context(), bob, bobKey), core.ErrKeyVersion)
	_, err = s.FindAccount(t.Context(), "bob")
	wantError(t, "find the refused user", err, core.ErrNotFound)
}

func testUserDefaultRole(t *testing.T, s *suite) {
	u, k := newUser("alice")
	u.Roles = nil
	wantNone(t, "create user", s.CreateUser(t.Context(), u, k))
	got, err := s.FindAccount(t.Context(), "alice")
	wantNone(t, "find account", err)
	wantSame(t, "roles", got.Roles, []string{core.RoleUser})
}

func testUserIndex(t *testing.T, s *suite) {
	count := func(want int) {
		t.Helper()
		if n, err := s.CountUsers(t.Context()); err != nil || n != want {
			t.Fatalf("count users: got %d, %v, want %d", n, err, want)
		}
	}
	list := func(after string, limit int, want ...string) {
		t.Helper()
		users, err := s.ListUsers(t.Context(), after, limit)
		wantNone(t, "list users", err)
		var got []string
		for _, u := range users {
			got = append(got, u.ID)
		}
		wantSame(t, fmt.Sprintf("users behind %q", after), got, want)
	}
	count(0)
	list("", 10)
	s.register("bob", "a-1", "zoe", "a.1", "a_1", "a1", "9")
	count(7)
	all := []string{"9", "a-1", "a.1", "a1", "a_1", "bob", "zoe"} // by bytes
	list("", 10, all...)
	list("", 2, all[:2]...)
	list("a-1", 3, all[2:5]...)
	list("a2", 10, all[4:]...)
	list("zoe", 10)
	list("", 0)
	list("", -1)
	users, err := s.ListUsers(t.Context(), "bob", 1)
	wantNone(t, "list users", err)
	zoe, _ := newUser("zoe")
	wantSame(t, "listed user", users, []core.User{*zoe})
}

func testKeyVersions(t *testing.T, s *suite) {
	s.register("alice")
	for _, version := range []uint64{0, 1, 3} {
		wantError(t, fmt.Sprintf("add key %d after 1", version), s.AddKey(t.Context(), "alice", newKey("alice", version)), core.ErrKeyVersion)
	}
	wantNone(t, "add key 2", s.AddKey(t.Context(), "alice", newKey("alice", 2)))
	wantError(t, "add key 2 again", s.AddKey(t.Context(), "alice", newKey("alice", 2)), core.ErrKeyVersion)
	wantError(t, "add key of nobody", s.AddKey(t.Context(), "nobody", newKey("nobody", 1)), core.ErrNotFound)

	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = s.AddKey(t.Context(), "alice", newKey("alice", 3)) })
	}
	wg.Wait()
	won := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })
	if len(won) != 1 {
		t.Fatalf("concurrent uploads of key 3: got %d taken (%v), want 1", len(won), errs)
	}
	got, err := s.FindAccount(t.Context(), "alice")
	wantNone(t, "find account", err)
	wantSame(t, "keys, newest first", got.Keys, []core.EncryptionKey{*newKey("alice", 3), *newKey("alice", 2), *newKey("alice", 1)})
}
