package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	queueLength    = 256
	urgentLength   = 64
	maxCalls       = 1024
	maxCallID      = 256 // bytes
	requestTimeout = 30 * time.Second
)

// session is the plugin's end of one stream. See doc.go for its goroutines and
// queues.
type session struct {
	// Fixed after construction.
	offer     *offer
	settings  []byte // in place of those of Configure, unless nil
	stream    messageStream
	receivers *sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelCauseFunc
	queue     chan *pluginpb.PluginMessage
	urgent    chan *pluginpb.PluginMessage // what the receiver itself sends: it must not wait
	drained   chan struct{}                // closed by Drain or the end of the server's messages
	deaf      chan struct{}                // closed when no reply can come any more
	calls     sync.WaitGroup

	// Written before the first call starts, then only read.
	grants map[Capability]bool

	// Owned by the receiver.
	draining bool

	lastRequest atomic.Uint64
	droppedLogs atomic.Uint64

	mu       sync.Mutex
	closing  bool // no call starts any more
	inFlight int  // calls whose answer is not yet queued
	running  map[string]context.CancelFunc
	requests map[uint64]chan *pluginpb.HostReply
}

func newSession(o *offer, stream messageStream, receivers *sync.WaitGroup) *session {
	s := &session{
		offer: o, stream: stream, receivers: receivers,
		queue:    make(chan *pluginpb.PluginMessage, queueLength),
		urgent:   make(chan *pluginpb.PluginMessage, urgentLength),
		drained:  make(chan struct{}),
		deaf:     make(chan struct{}),
		grants:   make(map[Capability]bool),
		running:  make(map[string]context.CancelFunc),
		requests: make(map[uint64]chan *pluginpb.HostReply),
	}
	s.ctx, s.cancel = context.WithCancelCause(stream.Context())
	return s
}

// run is the session from the first message to the last. It returns when every
// call and the background work have returned.
func (s *session) run() error {
	defer s.cancel(nil)
	first, err := s.stream.Recv()
	if err != nil {
		return err
	}
	configure := first.GetConfigure()
	if configure == nil {
		return status.Error(codes.InvalidArgument, "The first message must be Configure.")
	}
	if f := s.configure(configure); f != nil {
		return s.stream.Send(&pluginpb.PluginMessage{
			Message: &pluginpb.PluginMessage_Failure{Failure: failureMessage("", f)},
		})
	}
	if err := s.stream.Send(&pluginpb.PluginMessage{
		Message: &pluginpb.PluginMessage_Ready{Ready: &pluginpb.Ready{}},
	}); err != nil {
		return err
	}
	finished := make(chan struct{})
	stopBackground, background := s.startBackground()
	s.receivers.Go(s.receive)
	go s.finish(finished, stopBackground, background)
	return s.send(finished)
}

// configure takes the operator's settings and grants. A panic of the author's
// Validate refuses them, too.
func (s *session) configure(c *pluginpb.Configure) (f *fault.Error) {
	defer func() {
		if v := recover(); v != nil {
			f = fault.Newf(fault.InvalidParams, "Settings refused: their validation panicked: %v", v)
		}
	}()
	for _, g := range c.GetGrants() {
		s.grants[Capability(g)] = true
	}
	if s.settings != nil {
		return s.offer.settings.apply(s.settings)
	}
	return s.offer.settings.apply(c.GetSettings())
}

// send is the only writer of the stream, until finished and both queues are empty.
func (s *session) send(finished <-chan struct{}) error {
	for {
		var m *pluginpb.PluginMessage
		select {
		case m = <-s.urgent:
		default:
			select {
			case m = <-s.urgent:
			case m = <-s.queue:
			case <-finished:
				return s.flush()
			}
		}
		if err := s.stream.Send(m); err != nil {
			s.cancel(err)
			<-finished
			return err
		}
		s.reportDropped()
	}
}

// flush sends what is still queued after everything has finished.
func (s *session) flush() error {
	for {
		select {
		case m := <-s.urgent:
			if err := s.stream.Send(m); err != nil {
				return err
			}
		case m := <-s.queue:
			if err := s.stream.Send(m); err != nil {
				return err
			}
		default:
			return context.Cause(s.ctx)
		}
	}
}

// finish waits for the end of the session, then for all who take part in it.
func (s *session) finish(finished chan<- struct{}, stopBackground context.CancelFunc, background *sync.WaitGroup) {
	defer close(finished)
	select {
	case <-s.drained:
	case <-s.ctx.Done():
	}
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.calls.Wait()
	stopBackground()
	background.Wait()
}

// startBackground runs the author's background work, whose failure ends the
// session.
func (s *session) startBackground() (stop context.CancelFunc, done *sync.WaitGroup) {
	ctx, stop := context.WithCancel(s.ctx)
	done = new(sync.WaitGroup)
	if s.offer.plugin.Background == nil {
		return stop, done
	}
	log := slog.New(&logHandler{session: s})
	done.Go(func() {
		err := error(&panicked{value: "the background work ended its goroutine"})
		defer func() {
			if v := recover(); v != nil {
				err = &panicked{value: v, stack: string(debug.Stack())}
			}
			if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return
			}
			logFailure(log, "Background work failed", err)
			s.cancel(status.Error(codes.Aborted, "The plugin's background work failed; its log says why."))
		}()
		err = s.offer.plugin.Background(ctx, Background{Log: log, Host: Host{session: s}})
	})
	return stop, done
}

// receive is the only reader of the stream. It never waits for anything else.
func (s *session) receive() {
	defer close(s.deaf)
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			s.drain()
			return
		}
		if err == nil {
			err = s.take(m)
		}
		if err != nil {
			s.cancel(err)
			return
		}
	}
}

// take handles one message. An error is the server breaking the contract and ends
// the session. A message of an unknown kind is ignored, as an unknown field is.
func (s *session) take(m *pluginpb.ServerMessage) error {
	switch m := m.GetMessage().(type) {
	case *pluginpb.ServerMessage_Call:
		return s.startCall(m.Call)
	case *pluginpb.ServerMessage_Cancel:
		s.cancelCall(m.Cancel.GetCallId())
	case *pluginpb.ServerMessage_HostReply:
		s.deliver(m.HostReply)
	case *pluginpb.ServerMessage_Drain:
		s.drain()
	case *pluginpb.ServerMessage_Ping:
		return s.sendUrgent(&pluginpb.PluginMessage{
			Message: &pluginpb.PluginMessage_Pong{Pong: &pluginpb.Pong{Nonce: m.Ping.GetNonce()}},
		})
	case *pluginpb.ServerMessage_Configure:
		return status.Error(codes.InvalidArgument, "Configure comes once, as the first message.")
	}
	return nil
}

func (s *session) drain() {
	if !s.draining {
		s.draining = true
		close(s.drained)
	}
}

// sendUrgent queues what the receiver answers itself. Its queue fills only when the
// server sends without reading.
func (s *session) sendUrgent(m *pluginpb.PluginMessage) error {
	select {
	case s.urgent <- m:
		return nil
	default:
		return status.Error(codes.ResourceExhausted, "The server does not read its answers.")
	}
}

// enqueue waits for a place in the queue. It fails when ctx or the session ends, or
// when the message is above the limit.
func (s *session) enqueue(ctx context.Context, m *pluginpb.PluginMessage) error {
	if proto.Size(m) > pluginpb.MaxMessageBytes {
		return errTooLarge
	}
	select {
	case s.queue <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrNoServer
	}
}

// log queues a record or counts it as dropped.
func (s *session) log(record *pluginpb.Log) {
	select {
	case s.queue <- &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Log{Log: record}}:
	default:
		s.droppedLogs.Add(1)
	}
}

// reportDropped tells of dropped records once there is a place for it. The sender
// calls it.
func (s *session) reportDropped() {
	n := s.droppedLogs.Load()
	if n == 0 {
		return
	}
	select {
	case s.queue <- &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Log{Log: &pluginpb.Log{
		Level: pluginpb.Log_LEVEL_WARN, Message: "Log records dropped, the server did not keep up",
		Attrs: fmt.Appendf(nil, `{"dropped":%d}`, n), TimeUnixMs: time.Now().UnixMilli(),
	}}}:
		s.droppedLogs.Add(-n)
	default:
	}
}
