package router

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Appender stores direct messages.
type Appender interface {
	Append(ctx context.Context, m *core.Message, limit int) (core.Stored, error)
}

// Live are the connected sessions.
type Live interface {
	Each(fn func(*core.Session))
}

// Dispatcher runs commands.
type Dispatcher interface {
	Dispatch(ctx context.Context, call *core.Call, progress func(core.Progress)) (result []byte, elapsed time.Duration, err error)
}

// Acknowledger moves mailboxes forward.
type Acknowledger interface {
	Acknowledge(ctx context.Context, s *core.Session, a *wire.MailboxAck) error
}

// Authenticator verifies tokens.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (core.Principal, error)
}

// Options are the router's neighbours.
type Options struct {
	Mailboxes    Appender
	Bus          core.Bus
	Live         Live
	Commands     Dispatcher
	Acks         Acknowledger
	Tokens       Authenticator
	MailboxLimit int // undelivered messages per user
	// MaxFrameBytes is the largest frame that a client is sent; 0 sets no limit.
	MaxFrameBytes int
	Now           func() time.Time
	Logger        zerolog.Logger
	Registerer    prometheus.Registerer // nil: counted but not shown
}

// Router processes requests. It is immutable and may be used by any number of
// connections at once.
type Router struct {
	Options
	metrics *metrics
}

// New makes a router.
func New(o Options) *Router { return &Router{o, newMetrics(o.Registerer)} }

// Route processes a request that passed the pipeline; it is the core.Route of the
// server.
func (r *Router) Route(ctx context.Context, req *core.Request) error {
	switch f := req.Frame.(type) {
	case *wire.Direct:
		return r.direct(ctx, req)
	case *wire.Broadcast:
		return r.broadcast(req, f)
	case *wire.Command:
		return r.command(req, f)
	case *wire.Cancel:
		return r.cancel(req, f)
	case *wire.MailboxAck:
		return r.Acks.Acknowledge(ctx, req.Session, f)
	case *wire.Auth:
		return r.auth(ctx, req, f)
	}
	return fault.Newf(fault.UnknownType, "The server has no use for a frame of type %q.", req.Frame.Type())
}

// cancel stops a running command, whose own final answer then says so. A cancel
// that comes too late has nothing to stop and is no mistake.
func (r *Router) cancel(req *core.Request, f *wire.Cancel) error {
	req.Session.Calls.Cancel(f.ID)
	return nil
}

// auth puts a fresh token of the same user in place of the one that runs out.
func (r *Router) auth(ctx context.Context, req *core.Request, f *wire.Auth) error {
	p, err := r.Tokens.Authenticate(ctx, f.Token)
	if err != nil {
		return err
	}
	if p.UserID != req.Session.UserID() {
		return fault.New(fault.Forbidden, "The token is another user's; a connection keeps its user.")
	}
	req.Session.Renew(p)
	// Whoever revoked the token between the look and the renewal did not find this
	// session under it.
	if _, err := r.Tokens.Authenticate(ctx, f.Token); err != nil {
		req.Session.Outbox.Close(wire.CloseTokenRevoked)
		return err
	}
	r.ack(req, &wire.Ack{Status: wire.StatusOK})
	return nil
}

// addedBytes is more than the server adds to a frame that it passes on: from, seq
// and server_time.
const addedBytes = 256

// fits refuses what would be larger than the limit with what the server adds: a
// client that holds to the size in its welcome could never get past it. Writing a
// frame anew makes it no longer otherwise, so most need no look.
func (r *Router) fits(raw []byte, out func() wire.Frame) error {
	if r.MaxFrameBytes == 0 || len(raw)+addedBytes <= r.MaxFrameBytes || len(out().Append(nil)) <= r.MaxFrameBytes {
		return nil
	}
	return fault.Newf(fault.TooLarge, "With what the server adds the frame would be larger than %d bytes; leave %d of them free.", r.MaxFrameBytes, addedBytes)
}

// ack is the final answer to a frame that is not a command.
func (r *Router) ack(req *core.Request, a *wire.Ack) {
	a.ID = req.ID
	if a.Timestamp == "" {
		a.Timestamp = wire.FormatTime(r.Now())
	}
	req.Session.Outbox.Answer(core.Encode(a))
}
