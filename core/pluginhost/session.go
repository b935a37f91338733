package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	// hostRequests is how many of a plugin's requests are worked on at once. While
	// all are, its stream is not read: it waits for itself.
	hostRequests       = 16
	hostRequestTimeout = 10 * time.Second
	maxLogText         = 8 << 10
	maxLostTold        = 20
)

// stream is the part of the gRPC stream that a session uses.
type stream interface {
	Send(*pluginpb.ServerMessage) error
	Recv() (*pluginpb.PluginMessage, error)
}

// outgoing is a message to the plugin, with the call that it begins, if it does.
type outgoing struct {
	message *pluginpb.ServerMessage
	call    *pending
}

// session is the server's end of the one stream to a plugin process. A call is an
// entry in a map. It starts a sender and a receiver and ends when the stream does,
// or when it is told to.
type session struct {
	// Fixed after construction.
	plugin  string
	stream  stream
	ctx     context.Context    // the stream's
	cancel  context.CancelFunc // ends the stream
	service *hostsvc.Service
	out     *output
	metrics *metrics

	queue    chan outgoing
	requests chan struct{} // a place for each host request that is worked on
	ended    chan struct{} // closed by end
	workers  sync.WaitGroup

	received atomic.Uint64 // messages from the plugin, for the health check
	nonce    atomic.Uint64

	mu    sync.Mutex
	calls map[string]*pending
	last  uint64
	err   error    // why it ended
	lost  []string // the calls in flight then
}

// newSession takes a stream on which Configure and Ready have passed, with its
// context and what cancels it. maxCalls is how many calls there will be at most at
// one time.
func newSession(ctx context.Context, cancel context.CancelFunc, plugin string, s stream, service *hostsvc.Service, out *output, m *metrics, maxCalls int) *session {
	return &session{
		plugin: plugin, stream: s, ctx: ctx, cancel: cancel, service: service, out: out, metrics: m,
		// Each call is at most two messages at one time: itself and its cancellation.
		queue:    make(chan outgoing, 2*maxCalls+hostRequests+8),
		requests: make(chan struct{}, hostRequests), ended: make(chan struct{}),
		calls: make(map[string]*pending),
	}
}

func (s *session) start() {
	s.workers.Go(s.send)
	s.workers.Go(s.receive)
}

// wait returns when everything the session started has ended. It must have been
// ended before.
func (s *session) wait() { s.workers.Wait() }

// end fails the calls in flight with err and lets the goroutines go. Only the
// first call counts.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	calls := s.calls
	s.calls = nil
	for _, p := range calls {
		if len(s.lost) < maxLostTold {
			s.lost = append(s.lost, p.call.Command+" "+p.call.ID)
		}
	}
	s.mu.Unlock()
	close(s.ended)
	s.cancel()
	for _, p := range calls {
		sent := p.lose()
		cause := err
		if sent && fault.CodeOf(err) == fault.PluginUnavailable {
			cause = unknownOutcome(s.plugin).WithCause(err)
		}
		p.finish(nil, &lostError{sent, cause})
	}
}

// cause is why the session ended, and some of the calls in flight then.
func (s *session) cause() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost, s.err
}

func (s *session) send() {
	for {
		select {
		case m := <-s.queue:
			if m.call != nil && !m.call.send() {
				continue
			}
			if err := s.stream.Send(m.message); err != nil {
				// The receiver learns the reason; Send only says that there is one.
				s.cancel()
				return
			}
		case <-s.ended:
			return
		}
	}
}

func (s *session) receive() {
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errors.New("plugin closed its stream")
		}
		if err != nil {
			s.end(unavailable(s.plugin, "stopped working").WithCause(fmt.Errorf("read from plugin: %w", err)))
			return
		}
		s.received.Add(1)
		s.take(m)
	}
}

// take handles one message. What makes no sense is dropped and counted: a plugin's
// mistake costs nobody but its own calls.
func (s *session) take(m *pluginpb.PluginMessage) {
	switch m := m.GetMessage().(type) {
	case *pluginpb.PluginMessage_Result:
		if p := s.remove(m.Result.GetCallId()); p != nil {
			p.finish(m.Result.GetResult(), nil)
		} else {
			s.drop(dropUnknownCall)
		}
	case *pluginpb.PluginMessage_Failure:
		if p := s.remove(m.Failure.GetCallId()); p != nil {
			p.finish(nil, failureOf(m.Failure))
		} else {
			s.drop(dropUnknownCall)
		}
	case *pluginpb.PluginMessage_Progress:
		s.takeProgress(m.Progress)
	case *pluginpb.PluginMessage_HostRequest:
		s.takeRequest(m.HostRequest)
	case *pluginpb.PluginMessage_Log:
		s.takeLog(m.Log)
	case *pluginpb.PluginMessage_Pong:
		// That it came is all that counts.
	default:
		s.drop(dropUnexpected)
	}
}

func (s *session) drop(reason string) { s.metrics.dropped.WithLabelValues(s.plugin, reason).Inc() }

func (s *session) takeProgress(m *pluginpb.Progress) {
	p := s.find(m.GetCallId())
	if p == nil {
		s.drop(dropUnknownCall)
		return
	}
	part, ok := progressOf(m)
	if !ok {
		s.drop(dropBadProgress)
		return
	}
	p.report(part)
}

// takeRequest hands a request of the plugin to a goroutine of its own.
func (s *session) takeRequest(req *pluginpb.HostRequest) {
	select {
	case s.requests <- struct{}{}:
	case <-s.ended:
		return
	}
	s.workers.Go(func() {
		defer func() { <-s.requests }()
		ctx, cancel := context.WithTimeout(s.ctx, hostRequestTimeout)
		defer cancel()
		reply := fitting(s.service.Handle(ctx, req, s.caller))
		select {
		case s.queue <- outgoing{message: &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: reply}}}:
		case <-s.ended:
		}
	})
}

// fitting is the reply, or a refusal where it is above the limit of a message,
// which would end the stream.
func fitting(reply *pluginpb.HostReply) *pluginpb.HostReply {
	if proto.Size(reply) <= pluginpb.MaxMessageBytes-64 {
		return reply
	}
	return &pluginpb.HostReply{RequestId: reply.GetRequestId(), Reply: &pluginpb.HostReply_Error{Error: &pluginpb.HostError{
		Code: string(fault.TooLarge), Message: "The answer is larger than a message may be; ask for less.",
	}}}
}

// takeLog writes a record of the plugin's log into the server's.
func (s *session) takeLog(r *pluginpb.Log) {
	text := clip(clean(r.GetMessage()), maxLogText)
	if !s.out.within(len(text) + len(r.GetAttrs())) {
		return
	}
	e := s.out.log.WithLevel(logLevel(r.GetLevel()))
	if p := s.find(r.GetCallId()); p != nil {
		e = e.Str("call", p.call.ID).Str("command", p.call.Command)
	}
	if attrs := jsontext.Value(r.GetAttrs()); len(attrs) > 0 && isObject(attrs, maxLogText) {
		// Compact, or a line break in it would make two lines of one record.
		if attrs = attrs.Clone(); attrs.Compact() == nil {
			e = e.RawJSON("attrs", attrs)
		}
	}
	e.Str("text", text).Msg("Plugin log")
}

func logLevel(l pluginpb.Log_Level) zerolog.Level {
	switch l {
	case pluginpb.Log_LEVEL_DEBUG:
		return zerolog.DebugLevel
	case pluginpb.Log_LEVEL_WARN:
		return zerolog.WarnLevel
	case pluginpb.Log_LEVEL_ERROR:
		return zerolog.ErrorLevel
	}
	return zerolog.InfoLevel
}

// caller finds on whose behalf a call in flight runs.
func (s *session) caller(callID string) (core.Caller, bool) {
	if p := s.find(callID); p != nil {
		return p.call.Caller, true
	}
	return core.Caller{}, false
}

func (s *session) find(callID string) *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[callID]
}

func (s *session) remove(callID string) *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.calls[callID]
	delete(s.calls, callID)
	return p
}

// add registers a call under an id of its own: the caller's id is unique only per
// caller. It stays readable in it for whoever reads the plugin's log. A *lostError
// when the session is over.
func (s *session) add(p *pending) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", &lostError{cause: s.err}
	}
	s.last++
	id := strconv.FormatUint(s.last, 36) + "." + clip(p.call.ID, 64)
	s.calls[id] = p
	return id, nil
}

// inFlight is how many calls the plugin has not answered.
func (s *session) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// ping asks the plugin for a sign of life, if there is room.
func (s *session) ping() {
	s.offer(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Ping{Ping: &pluginpb.Ping{Nonce: s.nonce.Add(1)}}})
}

// drain tells the plugin that no call follows, if there is room.
func (s *session) drain() {
	s.offer(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Drain{Drain: &pluginpb.Drain{}}})
}

func (s *session) offer(m *pluginpb.ServerMessage) {
	select {
	case s.queue <- outgoing{message: m}:
	default:
		s.drop(dropQueueFull)
	}
}
