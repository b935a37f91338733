package pluginhost

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// maxParamsBytes leaves room in a message for what goes with the params. A message
// above the limit would end the stream for everybody.
const maxParamsBytes = pluginpb.MaxMessageBytes - 64<<10

// pending is a call that a plugin has been sent and has not answered.
type pending struct {
	call    *core.Call
	release func() // gives its place back; called once
	done    chan outcome
	fate    atomic.Int32 // whether the plugin may have it

	mu       sync.Mutex
	progress func(core.Progress) // nil once nobody listens
}

// What may have become of a call: it is decided once whether the sender takes it or
// the end of the session.
const (
	fateQueued int32 = iota
	fateSent
	fateUnsent
)

// send reports whether the call is to be sent.
func (p *pending) send() bool { return p.fate.CompareAndSwap(fateQueued, fateSent) }

// lose reports whether the call had been sent when the session ended.
func (p *pending) lose() bool { return !p.fate.CompareAndSwap(fateQueued, fateUnsent) }

type outcome struct {
	result []byte
	err    error
}

// lostError says that a session ended before it answered a call. Unless the call
// had been sent, it may be tried elsewhere.
type lostError struct {
	sent  bool
	cause error // for the caller
}

func (e *lostError) Error() string { return e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// finish is called once, by whoever took the call out of the session's map.
func (p *pending) finish(result []byte, err error) {
	p.release()
	p.done <- outcome{result, err} // room for one
}

// report passes a part on. The lock is what makes sure that none is passed on
// after the call returned; progress must not block, so neither does this.
func (p *pending) report(part core.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.progress != nil {
		p.progress(part)
	}
}

func (p *pending) abandon() {
	p.mu.Lock()
	p.progress = nil
	p.mu.Unlock()
}

// call runs one call to its answer, to the end of ctx or to the end of the
// session, which is a *lostError. release is called exactly once, when the plugin
// no longer works on it, which may be long after call has returned.
func (s *session) call(ctx context.Context, call *core.Call, progress func(core.Progress), release func()) ([]byte, error) {
	if len(call.Params) > maxParamsBytes {
		release()
		return nil, fault.Newf(fault.TooLarge, "The params have %d bytes; at most %d can be passed to a plugin.", len(call.Params), maxParamsBytes)
	}
	p := &pending{call: call, release: release, done: make(chan outcome, 1), progress: progress}
	defer p.abandon()
	id, err := s.add(p)
	if err != nil {
		release()
		return nil, err
	}
	select {
	case s.queue <- outgoing{&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: messageOf(ctx, id, call)}}, p}:
	case <-ctx.Done():
		// The plugin never heard of it.
		if s.remove(id) != nil {
			release()
		}
		return nil, ctx.Err()
	case out := <-p.done:
		return out.result, out.err
	}
	select {
	case out := <-p.done:
		return out.result, out.err
	case <-ctx.Done():
		s.offer(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{Cancel: &pluginpb.Cancel{CallId: id}}})
		return nil, ctx.Err()
	}
}

func messageOf(ctx context.Context, id string, call *core.Call) *pluginpb.Call {
	m := &pluginpb.Call{
		CallId: id, Command: call.Command, Params: call.Params, SignatureVerified: call.SignatureVerified,
		Caller: &pluginpb.Caller{
			UserId: call.Caller.UserID, Username: call.Caller.Username, Roles: call.Caller.Roles,
			SessionId: call.Caller.SessionID, RemoteAddress: call.Caller.RemoteAddr, Surface: call.Caller.Surface,
		},
	}
	if deadline, ok := ctx.Deadline(); ok {
		// At least 1, because 0 means no limit.
		m.TimeoutMs = max(1, time.Until(deadline).Milliseconds())
	}
	return m
}
