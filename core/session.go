package core

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Outbox is the sending side of a live connection. No method blocks.
type Outbox interface {
	// Offer queues an encoded text frame, or refuses when the queue is full.
	Offer(frame *Encoded) bool
	// Answer queues a frame that must not be dropped; a full queue ends the
	// connection with 1013 instead.
	Answer(frame *Encoded)
	// Room is how many more frames Offer would take now.
	Room() int
	// Close ends the connection with a close code, after what is queued where
	// that is possible.
	Close(reason wire.Close)
}

// Encoded is a frame encoded once, for any number of connections. It is
// immutable.
type Encoded struct {
	JSON []byte
	// Shared says that many connections get the frame, so that it is worth
	// framing once.
	Shared bool

	once   sync.Once
	framed any
}

// Encode encodes a frame for one connection.
func Encode(f wire.Frame) *Encoded { return &Encoded{JSON: f.Append(nil)} }

// EncodeShared encodes a frame for many connections.
func EncodeShared(f wire.Frame) *Encoded { return &Encoded{JSON: f.Append(nil), Shared: true} }

// Framed returns what transport made of the frame, made once by the first
// connection that asks.
func (e *Encoded) Framed(frame func(json []byte) any) any {
	e.once.Do(func() { e.framed = frame(e.JSON) })
	return e.framed
}

// Session is one live connection of a signed-in user. It is found only through
// the hub.
type Session struct {
	// Fixed after construction.

	ConnID      string // unique on this node
	Principal   Principal
	Identity    *Account // the signed-in user's keys as they were at the start
	Remote      Remote
	ConnectedAt time.Time
	Outbox      Outbox
	Calls       *Calls

	// token is whom the newest token spoke for, and when.
	token atomic.Pointer[Principal]

	// Delivered is the seq up to which stored messages were queued on this
	// connection. Owned by delivery.
	Delivered uint64
	// Acked is the highest seq that this connection acknowledged. Owned by the
	// connection's reader.
	Acked uint64

	// Received and Sent count direct and broadcast messages for the session's row.
	Received, Sent atomic.Uint64
}

// NewSession makes the session of a connection whose token was verified.
func NewSession(connID string, p Principal, identity *Account, remote Remote, now time.Time, out Outbox, calls *Calls) *Session {
	s := &Session{ConnID: connID, Principal: p, Identity: identity, Remote: remote, ConnectedAt: now, Outbox: out, Calls: calls}
	s.Renew(p)
	return s
}

// UserID is whom the session speaks for.
func (s *Session) UserID() string { return s.Principal.UserID }

// TokenTimes are the begin and end of the newest token.
func (s *Session) TokenTimes() (issued, expires time.Time) {
	p := s.token.Load()
	return p.IssuedAt, p.ExpiresAt
}

// SessionID is the session of the newest token: a fresh token comes from a
// sign-in of its own, and it is the newest one's revocation that ends the
// connection.
func (s *Session) SessionID() string { return s.token.Load().SessionID }

// Renew puts a fresh token of the same user in place of the former. It may be called from
// any goroutine.
func (s *Session) Renew(p Principal) {
	s.token.Store(&p)
}

// Caller is the session as plugins see it.
func (s *Session) Caller() Caller {
	return Caller{
		UserID: s.Principal.UserID, Username: s.Principal.Username, Roles: s.Principal.Roles,
		SessionID: s.SessionID(), RemoteAddr: s.Remote.Addr, Surface: SurfaceWebSocket,
	}
}

// Calls are the commands that run for one connection, beside its reader. The
// connection that made it calls Wait before it ends.
type Calls struct {
	ctx   context.Context
	limit int

	wg sync.WaitGroup

	mu       sync.Mutex
	draining bool
	running  map[string]context.CancelFunc
}

// NewCalls makes an empty set of at most limit running calls. The end of ctx
// cancels them all.
func NewCalls(ctx context.Context, limit int) *Calls {
	return &Calls{ctx: ctx, limit: limit}
}

// Start runs fn in a goroutine of its own under id. It refuses with id_conflict
// while a call of that id runs, and with overloaded when the set is full.
func (c *Calls) Start(id string, fn func(ctx context.Context)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.running[id]; ok {
		return fault.Newf(fault.IDConflict, "A command with id %q is still running; choose another id.", id)
	}
	if len(c.running) >= c.limit {
		return fault.Newf(fault.Overloaded, "%d commands of this connection are running; wait for one to end.", c.limit).WithRetryAfter(100 * time.Millisecond)
	}
	if c.draining || c.ctx.Err() != nil {
		return fault.New(fault.ShuttingDown, "The server is shutting down; connect again and repeat the command.")
	}
	if c.running == nil {
		c.running = make(map[string]context.CancelFunc)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.running[id] = cancel
	c.wg.Go(func() {
		defer c.end(id, cancel)
		fn(ctx)
	})
	return nil
}

func (c *Calls) end(id string, cancel context.CancelFunc) {
	cancel()
	c.mu.Lock()
	delete(c.running, id)
	c.mu.Unlock()
}

// Cancel cancels the running call of id; it reports whether there was one.
func (c *Calls) Cancel(id string) bool {
	c.mu.Lock()
	cancel, ok := c.running[id]
	c.mu.Unlock()
	if ok {
		cancel()
	}
	return ok
}

// CancelAll cancels every running call.
func (c *Calls) CancelAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.running {
		cancel()
	}
}

// Running is how many calls run now.
func (c *Calls) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running)
}

// Drain makes every later Start refuse with shutting_down, so that Wait ends.
func (c *Calls) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
}

// Wait returns when every call has ended. It is called after Drain, or when
// nobody can call Start any more.
func (c *Calls) Wait() { c.wg.Wait() }
