package core_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestAccountAccepts(t *testing.T) {
	rotated := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	a := &core.Account{User: core.User{ID: "bob"}, Keys: []core.EncryptionKey{
		{Version: 3, PublishedAt: rotated}, {Version: 2, PublishedAt: rotated.Add(-time.Hour)}, {Version: 1, PublishedAt: rotated.Add(-2 * time.Hour)},
	}}
	for _, c := range []struct {
		version uint64
		after   time.Duration
		want    bool
	}{
		{3, 0, true},
		{3, -time.Hour, true}, // clocks of two nodes
		{3, 1000 * time.Hour, true},
		{2, 0, true},
		{2, core.KeyGrace - time.Microsecond, true},
		{2, core.KeyGrace, true},
		{2, core.KeyGrace + time.Microsecond, false},
		{1, 0, false}, // two versions back, however young
		{4, 0, false},
		{0, 0, false},
	} {
		t.Run(fmt.Sprintf("version %d after %v", c.version, c.after), func(t *testing.T) {
			if got := a.Accepts(c.version, rotated.Add(c.after)); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestSessionRenewal(t *testing.T) {
	start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	p := core.Principal{UserID: "alice", SessionID: "first", IssuedAt: start, ExpiresAt: start.Add(time.Hour)}
	s := core.NewSession("c", p, nil, core.Remote{}, start, nil, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Renew(core.Principal{UserID: "alice", SessionID: "second", IssuedAt: start.Add(time.Hour), ExpiresAt: start.Add(2 * time.Hour)})
	}()
	for renewed := false; !renewed; renewed = s.SessionID() == "second" {
		if issued, expires := s.TokenTimes(); expires.Sub(issued) != time.Hour {
			t.Fatalf("got a token from %v to %v, which never was", issued, expires)
		}
	}
	<-done
	if got := s.Caller().SessionID; got != "second" {
		t.Errorf("got caller of session %q, want that of the newest token", got)
	}
}

func TestStoreFault(t *testing.T) {
	for err, want := range map[error]fault.Code{
		core.ErrBusy: fault.Overloaded, core.ErrClosed: fault.ShuttingDown, fmt.Errorf("disk: %w", core.ErrNotFound): fault.StorageUnavailable,
		fault.New(fault.MailboxFull, "full"): fault.MailboxFull,
	} {
		wantCode(t, core.StoreFault(err), want)
	}
	if core.StoreFault(nil) != nil {
		t.Error("no error became one")
	}
}
