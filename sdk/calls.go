package sdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// startCall admits a call and gives it a goroutine, or refuses it. The receiver
// calls it.
func (s *session) startCall(c *pluginpb.Call) error {
	id := c.GetCallId()
	if id == "" || len(id) > maxCallID {
		return status.Errorf(codes.InvalidArgument, "A Call needs a call_id of at most %d bytes.", maxCallID)
	}
	s.mu.Lock()
	_, twice := s.running[id]
	var refusal *fault.Error
	switch {
	case twice:
		s.mu.Unlock()
		return status.Errorf(codes.InvalidArgument, "The call_id %q is in flight already.", shorten(id, 64))
	case s.draining, s.closing:
		refusal = fault.New(fault.ShuttingDown, "The plugin is draining.")
	case s.inFlight >= maxCalls:
		refusal = fault.New(fault.Overloaded, "The plugin runs as many calls as it can.")
	}
	if refusal != nil {
		s.mu.Unlock()
		return s.sendUrgent(&pluginpb.PluginMessage{
			Message: &pluginpb.PluginMessage_Failure{Failure: failureMessage(id, refusal)},
		})
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if ms := c.GetTimeoutMs(); ms == 0 {
		ctx, cancel = context.WithCancel(s.ctx)
	} else {
		ctx, cancel = context.WithTimeout(s.ctx, millis(ms))
	}
	s.running[id] = cancel
	s.inFlight++
	s.calls.Add(1) // under mu and before closing is set: never beside the Wait in finish
	s.mu.Unlock()
	go s.runCall(ctx, cancel, c)
	return nil
}

// runCall runs one call to its one answer, whatever the author's code does: return,
// panic, or end the goroutine.
func (s *session) runCall(ctx context.Context, cancel context.CancelFunc, c *pluginpb.Call) {
	defer s.calls.Done()
	call := Call{
		ID:                c.GetCallId(),
		Command:           c.GetCommand(),
		Caller:            callerFrom(c.GetCaller()),
		SignatureVerified: c.GetSignatureVerified(),
		Traceparent:       c.GetTrace().GetTraceparent(),
		Tracestate:        c.GetTrace().GetTracestate(),
		Log:               slog.New(&logHandler{session: s, callID: c.GetCallId()}),
		Host:              Host{session: s, callID: c.GetCallId()},
	}
	progress := progressGate{session: s, ctx: ctx, callID: call.ID}
	var result []byte
	err := errHandlerGone
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{value: v, stack: string(debug.Stack())}
		}
		m := s.answerTo(ctx, call, result, err)
		cancel()
		progress.close()
		s.endCall(call.ID, m)
	}()
	command := s.offer.commands[call.Command]
	if command == nil {
		err = errUnknownCommand
		return
	}
	result, err = command.run(ctx, call, c.GetParams(), progress.send)
}

var (
	errUnknownCommand       = errors.New("no such command")
	errHandlerGone    error = &panicked{value: "the handler ended its goroutine"}
)

// answerTo is the one answer to a call. What the user is not told goes to the log.
// The error is the author's value, whose methods may panic as well as the handler.
func (s *session) answerTo(ctx context.Context, call Call, result []byte, err error) (m *pluginpb.PluginMessage) {
	failed := func(f *fault.Error) *pluginpb.PluginMessage {
		return &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: failureMessage(call.ID, f)}}
	}
	defer func() {
		if v := recover(); v != nil {
			logFailure(call.Log, "Command failed", &panicked{value: v, stack: string(debug.Stack())})
			m = failed(fault.New(fault.Internal, internalText))
		}
	}()
	if err == nil && len(result) > pluginpb.MaxMessageBytes-1024 {
		err = fmt.Errorf("answer with %d bytes: %w", len(result), errTooLarge)
	}
	switch {
	case err == nil:
		return &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Result{
			Result: &pluginpb.Result{CallId: call.ID, Result: result},
		}}
	case errors.Is(err, errUnknownCommand):
		return failed(fault.New(fault.UnknownCommand, "This plugin has no such command."))
	}
	f, keptBack := failureOf(ctx, err)
	if keptBack {
		logFailure(call.Log, "Command failed", err)
	}
	return failed(f)
}

// endCall sends the answer. The call's id is free again before that, for the server
// may use it as soon as it has the answer.
func (s *session) endCall(id string, answer *pluginpb.PluginMessage) {
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
	// Only the end of the session keeps an answer back: a cancelled call gets one. It
	// fits, since call id, result, message and details are each bounded.
	_ = s.enqueue(context.Background(), answer)
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
}

// logFailure writes what the user is not told; a panic with its stack.
func logFailure(log *slog.Logger, message string, err error) {
	if p, ok := errors.AsType[*panicked](err); ok {
		log.Error(message, "error", p.Error(), "stack", p.stack)
		return
	}
	log.Error(message, "error", err.Error())
}

func (s *session) cancelCall(id string) {
	s.mu.Lock()
	cancel := s.running[id]
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// progressGate is the ProgressFunc of one call. The lock keeps a progress message,
// sent from some other goroutine of the author's, from coming after the answer.
type progressGate struct {
	session *session
	ctx     context.Context
	callID  string

	mu   sync.RWMutex
	over bool
}

func (g *progressGate) send(percent float64, data any) error {
	raw, err := encode(data)
	if err != nil {
		return fmt.Errorf("send progress: %w", err)
	}
	p := &pluginpb.Progress{CallId: g.callID, Data: raw}
	if percent >= 0 && !math.IsInf(percent, 0) {
		percent = min(percent, 100)
		p.Percent = &percent
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.over {
		return errCallOver
	}
	if err := g.ctx.Err(); err != nil {
		return err
	}
	return g.session.enqueue(g.ctx, &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: p}})
}

// close waits for a progress message that is being queued; the call's context must
// have been cancelled, so that it does not wait for long.
func (g *progressGate) close() {
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
}

// request sends one request to the server and waits for its reply.
func (s *session) request(ctx context.Context, need Capability, req *pluginpb.HostRequest) (*pluginpb.HostReply, error) {
	if !s.grants[need] {
		return nil, &HostError{Code: string(fault.Forbidden), Message: s.notGranted(need)}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req.RequestId = s.lastRequest.Add(1)
	reply := make(chan *pluginpb.HostReply, 1)
	s.mu.Lock()
	s.requests[req.GetRequestId()] = reply
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.requests, req.GetRequestId())
		s.mu.Unlock()
	}()
	if err := s.enqueue(ctx, &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_HostRequest{HostRequest: req}}); err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	select {
	case r := <-reply:
		return replyOf(r)
	case <-ctx.Done():
		return nil, fmt.Errorf("ask the server: %w", ctx.Err())
	case <-s.deaf:
		select {
		case r := <-reply: // it came just before
			return replyOf(r)
		default:
			return nil, ErrNoServer
		}
	case <-s.ctx.Done():
		return nil, ErrNoServer
	}
}

func replyOf(r *pluginpb.HostReply) (*pluginpb.HostReply, error) {
	if e := r.GetError(); e != nil {
		return nil, &HostError{Code: e.GetCode(), Message: e.GetMessage(), RetryAfter: millis(e.GetRetryAfterMs())}
	}
	return r, nil
}

func (s *session) notGranted(need Capability) string {
	if slices.Contains(s.offer.plugin.Needs, need) {
		return fmt.Sprintf("the operator did not grant the capability %q", need)
	}
	return fmt.Sprintf("the plugin's Needs do not list the capability %q", need)
}

// deliver hands a reply to who waits for it; nobody may wait any more.
func (s *session) deliver(r *pluginpb.HostReply) {
	s.mu.Lock()
	reply := s.requests[r.GetRequestId()]
	delete(s.requests, r.GetRequestId())
	s.mu.Unlock()
	if reply != nil {
		reply <- r // buffered, and nobody else has it any more
	}
}
