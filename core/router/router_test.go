package router_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/core/router"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// outbox records frames; a full one refuses what may be refused.
type outbox struct {
	mu     sync.Mutex
	full   bool
	frames []string
	shared []*core.Encoded
	closes []wire.Close
}

func (o *outbox) setFull(full bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.full = full
}

func (o *outbox) Offer(f *core.Encoded) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return false
	}
	o.shared = append(o.shared, f)
	o.frames = append(o.frames, string(f.JSON))
	return true
}

func (o *outbox) Answer(f *core.Encoded) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frames = append(o.frames, string(f.JSON))
}

func (o *outbox) Room() int { return 1 }

func (o *outbox) Close(reason wire.Close) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closes = append(o.closes, reason)
}

// take returns what was sent since the last call.
func (o *outbox) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	frames := o.frames
	o.frames = nil
	return frames
}

// neighbours are all of the router's, each by a function or a record.
type neighbours struct {
	store        func(*core.Message) (core.Stored, error)
	published    []core.Committed
	dispatch     func(context.Context, *core.Call, func(core.Progress)) ([]byte, error)
	acked        []uint64
	authenticate func(token string) (core.Principal, error)
	hub          *hub.Hub
	log          bytes.Buffer
	router       *router.Router
}

// Append is router.Appender.
func (n *neighbours) Append(ctx context.Context, m *core.Message, limit int) (core.Stored, error) {
	if _, ok := ctx.Deadline(); !ok || limit != 1000 {
		panic("no deadline or another limit")
	}
	return n.store(m)
}

// Publish is core.Bus.
func (n *neighbours) Publish(c core.Committed) { n.published = append(n.published, c) }

// Dispatch is router.Dispatcher.
func (n *neighbours) Dispatch(ctx context.Context, c *core.Call, progress func(core.Progress)) ([]byte, time.Duration, error) {
	result, err := n.dispatch(ctx, c, progress)
	return result, 1500 * time.Microsecond, err
}

// Acknowledge is router.Acknowledger.
func (n *neighbours) Acknowledge(_ context.Context, _ *core.Session, a *wire.MailboxAck) error {
	n.acked = append(n.acked, a.Seq)
	return nil
}

// Authenticate is router.Authenticator.
func (n *neighbours) Authenticate(_ context.Context, token string) (core.Principal, error) {
	return n.authenticate(token)
}

func newRouter() *neighbours {
	n := &neighbours{hub: hub.New()}
	n.router = router.New(router.Options{
		Mailboxes: n, Bus: n, Live: n.hub, Commands: n, Acks: n, Tokens: n, MailboxLimit: 1000,
		Now: func() time.Time { return noon }, Logger: zerolog.New(&n.log),
	})
	return n
}

func (n *neighbours) session(t *testing.T, user string) (*core.Session, *outbox) {
	t.Helper()
	out := new(outbox)
	p := core.Principal{UserID: user, Username: "Name", Roles: []string{"user"}, SessionID: "sid", IssuedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	s := core.NewSession(user, p, nil, core.Remote{Addr: "192.0.2.1"}, noon, out, core.NewCalls(t.Context(), 2))
	if err := n.hub.Add(s); err != nil {
		t.Fatal(err)
	}
	return s, out
}

func (n *neighbours) route(t *testing.T, s *core.Session, f wire.ClientFrame) error {
	t.Helper()
	r := &core.Request{Session: s, Frame: f, ID: f.RequestID()}
	if d, ok := f.(*wire.Direct); ok {
		r.Message = &core.Message{From: s.UserID(), To: d.To, ID: d.ID, Content: d.Content, Timestamp: d.Timestamp}
	}
	return n.router.Route(t.Context(), r)
}

func wantFrames(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("frames (-want +got):\n" + diff)
	}
}

const stamp = "2026-01-31T12:00:00.000Z"

func TestDirectIsToldAfterTheCommit(t *testing.T) {
	n := newRouter()
	s, out := n.session(t, "alice")
	n.store = func(m *core.Message) (core.Stored, error) {
		if len(n.published) != 0 || len(out.frames) != 0 {
			t.Error("somebody was told before the commit")
		}
		if !m.ServerTime.Equal(noon) {
			t.Errorf("got server time %v, want the server's clock", m.ServerTime)
		}
		return core.Stored{Seq: 41, ServerTime: m.ServerTime}, nil
	}
	f := &wire.Direct{ID: "a", To: "bob", Content: "c", Timestamp: stamp}
	if err := n.route(t, s, f); err != nil {
		t.Fatal(err)
	}
	wantFrames(t, out.take(), `{"type":"ack","id":"a","status":"stored","seq":41,"timestamp":"`+stamp+`"}`)
	if len(n.published) != 1 || n.published[0].UserID != "bob" || n.published[0].Seq != 41 || n.published[0].Message.Seq != 41 {
		t.Errorf("got published %+v", n.published)
	}
	if s.Received.Load() != 1 {
		t.Errorf("got %d counted, want 1", s.Received.Load())
	}
}

func TestDirectRepeated(t *testing.T) {
	n := newRouter()
	s, out := n.session(t, "alice")
	first := core.Stored{Seq: 7, ServerTime: noon.Add(-time.Hour), Repeated: true}
	want := `{"type":"ack","id":"a","status":"stored","seq":7,"timestamp":"2026-01-31T11:00:00.000Z"}`
	n.store = func(*core.Message) (core.Stored, error) { return first, nil }
	if err := n.route(t, s, &wire.Direct{ID: "a", To: "bob"}); err != nil {
		t.Fatal(err)
	}
	wantFrames(t, out.take(), want)
	n.store = func(*core.Message) (core.Stored, error) { t.Error("stored what verify had found"); return first, nil }
	if err := n.router.Route(t.Context(), &core.Request{Session: s, ID: "a", Frame: &wire.Direct{ID: "a"}, Stored: &first}); err != nil {
		t.Fatal(err)
	}
	wantFrames(t, out.take(), want)
	if len(n.published) != 0 {
		t.Error("a repeated message was delivered again")
	}
}

func TestDirectRefused(t *testing.T) {
	n := newRouter()
	s, out := n.session(t, "alice")
	for err, want := range map[error]fault.Code{
		core.ErrIDConflict: fault.IDConflict, core.ErrMailboxFull: fault.MailboxFull, core.ErrNotFound: fault.UnknownUser,
		core.ErrBusy: fault.Overloaded, core.ErrClosed: fault.ShuttingDown, errors.New("disk"): fault.StorageUnavailable,
	} {
		n.store = func(*core.Message) (core.Stored, error) { return core.Stored{}, err }
		if got := n.route(t, s, &wire.Direct{ID: "a", To: "bob"}); fault.CodeOf(got) != want {
			t.Errorf("%v: got %v, want %s", err, got, want)
		}
	}
	if len(n.published) != 0 || len(out.take()) != 0 || s.Received.Load() != 0 {
		t.Error("a refused message was published, acked or counted")
	}
}

func TestBroadcastReachesAllWithRoom(t *testing.T) {
	n := newRouter()
	s, own := n.session(t, "alice")
	_, bob := n.session(t, "bob")
	carol, full := n.session(t, "carol")
	full.full = true
	if err := n.route(t, s, &wire.Broadcast{ID: "a", From: "alice", Content: "c", Timestamp: stamp}); err != nil {
		t.Fatal(err)
	}
	frame := `{"type":"broadcast","id":"a","from":"alice","server_time":"` + stamp + `","timestamp":"` + stamp + `","content":"c"}`
	wantFrames(t, bob.take(), frame)
	wantFrames(t, own.take(), frame, `{"type":"ack","id":"a","status":"sent","timestamp":"`+stamp+`","recipients":2}`)
	wantFrames(t, full.take())
	if bob.shared[0] != own.shared[0] || !bob.shared[0].Shared {
		t.Error("the frame was encoded more than once")
	}
	if carol.Sent.Load() != 0 || s.Sent.Load() != 1 {
		t.Error("sent frames were counted wrongly")
	}
}

func TestCommandAnswersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newRouter()
		s, out := n.session(t, "alice")
		raw := []byte(`{"n":1}`)
		release := make(chan struct{})
		var seen core.Call
		n.dispatch = func(_ context.Context, c *core.Call, progress func(core.Progress)) ([]byte, error) {
			<-release
			seen = *c
			half := 50.0
			progress(core.Progress{Data: []byte(`"x"`), Percent: &half})
			out.setFull(true)
			time.AfterFunc(time.Second, func() { out.setFull(false) })
			progress(core.Progress{Data: []byte(`"late"`)})
			return []byte(`{"ok":true}`), nil
		}
		digest := [32]byte{1}
		err := n.router.Route(t.Context(), &core.Request{
			Session: s, ID: "a", Frame: &wire.Command{ID: "a", Command: "ping", Params: raw}, SignatureVerified: true, SignedDigest: digest,
		})
		if err != nil {
			t.Fatal(err)
		}
		copy(raw, "xxxxxxx") // the reader's buffer is used again
		close(release)
		s.Calls.Wait()
		wantFrames(t, out.take(), `{"type":"progress","id":"a","data":"x","percent":50}`, `{"type":"progress","id":"a","data":"late"}`,
			`{"type":"response","id":"a","command":"ping","result":{"ok":true},"elapsed_ms":1.5}`)
		want := core.Call{ID: "a", Command: "ping", Params: []byte(`{"n":1}`), SignatureVerified: true, SignedDigest: digest, Caller: core.Caller{
			UserID: "alice", Username: "Name", Roles: []string{"user"}, SessionID: "sid", RemoteAddr: "192.0.2.1", Surface: core.SurfaceWebSocket}}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCommandFailures(t *testing.T) {
	for name, c := range map[string]struct {
		dispatch func() ([]byte, error)
		want     string
	}{
		"fault": {func() ([]byte, error) { return nil, fault.New(fault.CommandFailed, "No such city.") }, `"command_failed","message":"No such city."`},
		"error": {func() ([]byte, error) { return nil, errors.New("inner secret") }, `"internal"`},
		"panic": {func() ([]byte, error) { panic("inner secret") }, `"internal"`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newRouter()
			s, out := n.session(t, "alice")
			n.dispatch = func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) { return c.dispatch() }
			if err := n.route(t, s, &wire.Command{ID: "a", Command: "ping"}); err != nil {
				t.Fatal(err)
			}
			s.Calls.Wait()
			got := out.take()
			if len(got) != 1 || !strings.HasPrefix(got[0], `{"type":"error","id":"a","code":`+c.want) || strings.Contains(got[0], "secret") {
				t.Errorf("got %s, want one error with %s", got, c.want)
			}
			if name != "fault" {
				_, rest, _ := strings.Cut(got[0], "reference ")
				if reference, _, ok := strings.Cut(rest, " "); !ok || !strings.Contains(n.log.String(), reference) || !strings.Contains(n.log.String(), "inner secret") {
					t.Errorf("the log does not explain %s: %s", got[0], n.log.String())
				}
			}
		})
	}
}

func TestCancelAndBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newRouter()
		s, out := n.session(t, "alice")
		n.dispatch = func(ctx context.Context, _ *core.Call, _ func(core.Progress)) ([]byte, error) {
			<-ctx.Done()
			return nil, fault.New(fault.CommandCancelled, "Cancelled.")
		}
		for _, id := range []string{"a", "b"} {
			if err := n.route(t, s, &wire.Command{ID: id, Command: "ping"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.route(t, s, &wire.Command{ID: "a", Command: "ping"}); fault.CodeOf(err) != fault.IDConflict {
			t.Errorf("got %v, want id_conflict", err)
		}
		if err := n.route(t, s, &wire.Command{ID: "c", Command: "ping"}); fault.CodeOf(err) != fault.Overloaded {
			t.Errorf("got %v, want overloaded", err)
		}
		for _, id := range []string{"a", "never", "a"} {
			if err := n.route(t, s, &wire.Cancel{ID: id}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		wantFrames(t, out.take(), `{"type":"error","id":"a","code":"command_cancelled","message":"Cancelled."}`)
		s.Calls.Cancel("b")
		s.Calls.Wait()
	})
}

func TestAckGoesToDelivery(t *testing.T) {
	n := newRouter()
	s, out := n.session(t, "alice")
	if err := n.route(t, s, &wire.MailboxAck{Seq: 9}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{9}, n.acked); diff != "" || len(out.take()) != 0 {
		t.Error("an ack went astray or was answered", diff)
	}
}

func TestAuth(t *testing.T) {
	n := newRouter()
	s, out := n.session(t, "alice")
	later := core.Principal{UserID: "alice", SessionID: "sid2", IssuedAt: noon.Add(time.Minute), ExpiresAt: noon.Add(2 * time.Hour)}
	asked := 0
	n.authenticate = func(token string) (core.Principal, error) {
		asked++
		switch {
		case token == "other":
			return core.Principal{UserID: "mallory", ExpiresAt: noon.Add(99 * time.Hour)}, nil
		case token == "good", token == "revoked meanwhile" && asked == 1:
			return later, nil
		case token == "revoked meanwhile":
			return core.Principal{}, fault.New(fault.TokenRevoked, "revoked")
		}
		return core.Principal{}, fault.New(fault.AuthenticationFailed, "no")
	}
	if err := n.route(t, s, &wire.Auth{ID: "a", Token: "bad"}); fault.CodeOf(err) != fault.AuthenticationFailed {
		t.Errorf("got %v, want authentication_failed", err)
	}
	if err := n.route(t, s, &wire.Auth{ID: "a", Token: "other"}); fault.CodeOf(err) != fault.Forbidden {
		t.Errorf("got %v, want forbidden", err)
	}
	if _, expires := s.TokenTimes(); !expires.Equal(noon.Add(time.Hour)) || len(out.take()) != 0 {
		t.Errorf("a refused token took effect until %v", expires)
	}
	if err := n.route(t, s, &wire.Auth{ID: "a", Token: "good"}); err != nil {
		t.Fatal(err)
	}
	if issued, expires := s.TokenTimes(); !expires.Equal(later.ExpiresAt) || !issued.Equal(later.IssuedAt) || s.SessionID() != "sid2" {
		t.Errorf("got %v to %v of %s, want the new token's", issued, expires, s.SessionID())
	}
	wantFrames(t, out.take(), `{"type":"ack","id":"a","status":"ok","timestamp":"`+stamp+`"}`)
	asked = 0
	if err := n.route(t, s, &wire.Auth{ID: "b", Token: "revoked meanwhile"}); fault.CodeOf(err) != fault.TokenRevoked {
		t.Errorf("got %v, want token_revoked", err)
	}
	if len(out.closes) != 1 || out.closes[0] != wire.CloseTokenRevoked {
		t.Errorf("got closes %v, want 4002", out.closes)
	}
}
