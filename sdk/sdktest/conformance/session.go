package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// session plays the server's side of a session, and notes everything that the
// contract forbids.
type session struct {
	stream pluginpb.Plugin_SessionClient
	cancel context.CancelFunc
	grants []string
	ended  chan struct{} // closed when the stream is over
	err    error         // why; nil is the status OK. Written before ended is closed
	pongs  chan uint64

	sending sync.Mutex
	mu      sync.Mutex
	last    int
	calls   map[string]*pending
	store   map[string]*pluginpb.KVEntry
	breach  []string // of the contract, first ones first
}

// pending is a call without its answer.
type pending struct {
	id       string
	parts    int
	answered chan *pluginpb.PluginMessage // holds one
}

// openSession configures a plugin and waits until it is ready.
func openSession(ctx context.Context, client pluginpb.PluginClient, settings []byte, grants []string) (*session, error) {
	own, cancel := context.WithCancel(context.Background())
	stream, err := client.Session(own)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open session: %w", err)
	}
	s := &session{
		stream: stream, cancel: cancel, grants: grants, ended: make(chan struct{}), pongs: make(chan uint64, 64),
		calls: make(map[string]*pending), store: make(map[string]*pluginpb.KVEntry),
	}
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	first, err := s.first(settings)
	if err != nil {
		cancel()
		return nil, err
	}
	if f := first.GetFailure(); f != nil {
		cancel()
		return nil, &refused{f}
	}
	go s.receive()
	return s, nil
}

// refused says that a plugin did not take its settings, which it may.
type refused struct{ failure *pluginpb.Failure }

func (r *refused) Error() string { return "it refused its settings: " + quote(r.failure.GetMessage()) }

// first sends the settings and reads up to Ready or Failure.
func (s *session) first(settings []byte) (*pluginpb.PluginMessage, error) {
	if err := s.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{
		Configure: &pluginpb.Configure{Settings: settings, Grants: s.grants},
	}}); err != nil {
		return nil, fmt.Errorf("send settings: %w", err)
	}
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("wait for Ready: %w", err)
		}
		switch m.GetMessage().(type) {
		case *pluginpb.PluginMessage_Ready, *pluginpb.PluginMessage_Failure:
			return m, nil
		case *pluginpb.PluginMessage_Log:
			continue
		}
		return nil, fmt.Errorf("the first message is %T, want Ready or Failure", m.GetMessage())
	}
}

func (s *session) send(m *pluginpb.ServerMessage) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.Send(m)
}

func (s *session) receive() {
	defer close(s.ended)
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.err = err
			return
		}
		s.take(m)
	}
}

func (s *session) take(m *pluginpb.PluginMessage) {
	switch m := m.GetMessage().(type) {
	case *pluginpb.PluginMessage_Progress:
		s.progress(m.Progress)
	case *pluginpb.PluginMessage_Result:
		if !jsontext.Value(m.Result.GetResult()).IsValid() {
			s.against("the result of a call is not JSON: %s", quote(string(m.Result.GetResult())))
		}
		s.answer(m.Result.GetCallId(), &pluginpb.PluginMessage{Message: m})
	case *pluginpb.PluginMessage_Failure:
		s.answer(m.Failure.GetCallId(), &pluginpb.PluginMessage{Message: m})
	case *pluginpb.PluginMessage_Pong:
		select {
		case s.pongs <- m.Pong.GetNonce():
		default:
			s.against("it sends pongs that nobody asked for")
		}
	case *pluginpb.PluginMessage_HostRequest:
		reply := s.host(m.HostRequest)
		reply.RequestId = m.HostRequest.GetRequestId()
		if m.HostRequest.GetRequestId() == 0 {
			s.against("a request has the id 0")
		}
		_ = s.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: reply}}) // the end of the stream tells
	case *pluginpb.PluginMessage_Ready:
		s.against("it says Ready more than once")
	}
}

// against notes what the contract forbids.
func (s *session) against(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.breach) < 5 {
		s.breach = append(s.breach, fmt.Sprintf(format, args...))
	}
}

// kept is an error where the contract was broken.
func (s *session) kept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.breach) > 0 {
		return errors.New(strings.Join(s.breach, "; "))
	}
	return nil
}

func (s *session) progress(m *pluginpb.Progress) {
	s.mu.Lock()
	p := s.calls[m.GetCallId()]
	if p != nil {
		p.parts++
	}
	s.mu.Unlock()
	if p == nil {
		s.against("progress of the call %q, which is not in flight", quote(m.GetCallId()))
	}
	if p := m.GetPercent(); !(p >= 0 && p <= 100) { // NaN is in no range
		s.against("progress of %v percent", p)
	}
	if len(m.GetData()) > 0 && !jsontext.Value(m.GetData()).IsValid() {
		s.against("progress that is not JSON: %s", quote(string(m.GetData())))
	}
}

func (s *session) answer(id string, m *pluginpb.PluginMessage) {
	s.mu.Lock()
	p := s.calls[id]
	delete(s.calls, id)
	s.mu.Unlock()
	if p == nil {
		s.against("an answer to the call %q, which is not in flight", quote(id))
		return
	}
	p.answered <- m
}

// begin sends a call.
func (s *session) begin(c call, timeout time.Duration) (*pending, error) {
	return s.beginAs(c.command.GetName(), c.params, timeout)
}

func (s *session) beginAs(command string, params []byte, timeout time.Duration) (*pending, error) {
	s.mu.Lock()
	s.last++
	p := &pending{id: "check-" + strconv.Itoa(s.last), answered: make(chan *pluginpb.PluginMessage, 1)}
	s.calls[p.id] = p
	s.mu.Unlock()
	return p, s.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: &pluginpb.Call{
		CallId: p.id, Command: command, Params: params, TimeoutMs: max(1, timeout.Milliseconds()),
		Caller: &pluginpb.Caller{UserId: "alice", Username: "Alice", Roles: []string{"user"}, SessionId: "check", RemoteAddress: "127.0.0.1", Surface: "cli"},
	}}})
}

// await waits for the answer of a call.
func (s *session) await(ctx context.Context, p *pending) (*pluginpb.PluginMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit+exitLimit) // no call has more time
	defer cancel()
	select {
	case m := <-p.answered:
		return m, nil
	case <-s.ended:
		select {
		case m := <-p.answered:
			return m, nil
		default:
		}
		return nil, fmt.Errorf("the stream ended instead of an answer: %w", orEOF(s.err))
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer to the call %s: %w", p.id, ctx.Err())
	}
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// cancelCall cancels a call.
func (s *session) cancelCall(p *pending) error {
	return s.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{Cancel: &pluginpb.Cancel{CallId: p.id}}})
}

// ping asks for a sign of life and waits for it.
func (s *session) ping(ctx context.Context, nonce uint64) error {
	if err := s.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Ping{Ping: &pluginpb.Ping{Nonce: nonce}}}); err != nil {
		return fmt.Errorf("send ping: %w", err)
	}
	select {
	case got := <-s.pongs:
		if got != nonce {
			return fmt.Errorf("the pong has the nonce %d, want %d", got, nonce)
		}
		return nil
	case <-s.ended:
		return fmt.Errorf("the stream ended instead of a pong: %w", orEOF(s.err))
	case <-ctx.Done():
		return fmt.Errorf("no pong: %w", ctx.Err())
	}
}

// host answers what a plugin asks of the server: from memory, where it was granted.
func (s *session) host(r *pluginpb.HostRequest) *pluginpb.HostReply {
	refuse := func(code, message string) *pluginpb.HostReply {
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_Error{Error: &pluginpb.HostError{Code: code, Message: message}}}
	}
	var need string
	switch r.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		need = "server"
	case *pluginpb.HostRequest_CountUsers, *pluginpb.HostRequest_ListUsers:
		need = "users"
	case *pluginpb.HostRequest_ListCommands:
		need = "commands"
	case *pluginpb.HostRequest_Send:
		need = "send"
	case *pluginpb.HostRequest_Broadcast:
		need = "broadcast"
	default:
		need = "kv"
	}
	if !slices.Contains(s.grants, need) {
		return refuse("forbidden", "Not granted.")
	}
	switch q := r.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ServerInfo{ServerInfo: &pluginpb.ServerInfoReply{
			Name: "plugboard", Version: "0.0.0", StartedAtUnixMs: time.Now().UnixMilli(), GoVersion: "go1", Protocol: "plugboard.v1", Connections: 1,
		}}}
	case *pluginpb.HostRequest_CountUsers:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_CountUsers{CountUsers: &pluginpb.CountUsersReply{Connected: 1, Registered: 1}}}
	case *pluginpb.HostRequest_ListUsers:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListUsers{ListUsers: &pluginpb.ListUsersReply{Users: []*pluginpb.User{{UserId: "alice", Username: "Alice"}}}}}
	case *pluginpb.HostRequest_ListCommands:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListCommands{ListCommands: &pluginpb.ListCommandsReply{}}}
	case *pluginpb.HostRequest_Send:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_Send{Send: &pluginpb.SendReply{MessageId: "check", Seq: 1}}}
	case *pluginpb.HostRequest_Broadcast:
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_Broadcast{Broadcast: &pluginpb.BroadcastReply{Recipients: 1}}}
	case *pluginpb.HostRequest_KvGet:
		if e := s.store[q.KvGet.GetKey()]; e != nil {
			return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvGet{KvGet: &pluginpb.KVGetReply{Entry: e}}}
		}
		return refuse("not_found", "No such key.")
	case *pluginpb.HostRequest_KvPut:
		return s.put(q.KvPut, refuse)
	case *pluginpb.HostRequest_KvDelete:
		_, ok := s.store[q.KvDelete.GetKey()]
		delete(s.store, q.KvDelete.GetKey())
		return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvDelete{KvDelete: &pluginpb.KVDeleteReply{Deleted: ok}}}
	case *pluginpb.HostRequest_KvList:
		return s.list(q.KvList)
	}
	return refuse("invalid_request", "Not known.")
}

func (s *session) put(q *pluginpb.KVPutRequest, refuse func(code, message string) *pluginpb.HostReply) *pluginpb.HostReply {
	before := s.store[q.GetKey()]
	if q.IfRevision != nil && before.GetRevision() != q.GetIfRevision() {
		return refuse("revision_conflict", "Another revision is there.")
	}
	e := &pluginpb.KVEntry{Key: q.GetKey(), Value: q.GetValue(), Revision: uint64(time.Now().UnixNano())}
	s.store[q.GetKey()] = e
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvPut{KvPut: &pluginpb.KVPutReply{Revision: e.GetRevision()}}}
}

func (s *session) list(q *pluginpb.KVListRequest) *pluginpb.HostReply {
	out := &pluginpb.KVListReply{}
	for key, e := range s.store {
		if strings.HasPrefix(key, q.GetPrefix()) && key > q.GetAfter() {
			out.Entries = append(out.Entries, e)
		}
	}
	slices.SortFunc(out.GetEntries(), func(a, b *pluginpb.KVEntry) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvList{KvList: out}}
}
