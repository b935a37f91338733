package sdktest

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// Instance is a running plugin. Its methods may be called from any goroutine.
type Instance struct {
	// Description is what the plugin answered to Describe.
	Description *pluginpb.DescribeResponse
	// Host is the server the plugin sees.
	Host *Host
	// Process is the plugin's process, nil after [Start].
	Process *os.Process

	t        testing.TB
	stream   pluginpb.Plugin_SessionClient
	lifeline *os.File
	commands map[string]*command
	ended    chan struct{} // closed when the stream has ended; err is set before
	err      error
	replies  sync.WaitGroup

	sendMu sync.Mutex // guards stream.Send
	mu     sync.Mutex
	lastID int
	calls  map[string]*pending
	pongs  map[uint64]chan struct{}
	logs   []LogRecord
}

type command struct{ params, result *jsonschema.Resolved }

type pending struct {
	progress func(Progress)
	answer   chan *pluginpb.PluginMessage
}

// Progress is one part of a streaming answer. Percent is nil where the author gave
// none.
type Progress struct {
	Data    stdjson.RawMessage
	Percent *float64
}

// LogRecord is one record the plugin logged. Attrs is a JSON object, or nil.
type LogRecord struct {
	Level   string // DEBUG, INFO, WARN or ERROR
	Message string
	Attrs   stdjson.RawMessage
	CallID  string
}

// open describes the plugin and opens its session, up to Ready.
func open(t testing.TB, client pluginpb.PluginClient, o options) *Instance {
	t.Helper()
	in := &Instance{
		t: t, ended: make(chan struct{}), commands: make(map[string]*command),
		calls: make(map[string]*pending), pongs: make(map[uint64]chan struct{}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if in.Description, err = client.Describe(ctx, &pluginpb.DescribeRequest{Server: "sdktest"}); err != nil {
		t.Fatalf("describe: %v", err)
	}
	in.resolveSchemas()
	if !o.limited {
		for _, c := range in.Description.GetCapabilities() {
			o.grants = append(o.grants, sdk.Capability(c))
		}
	}
	in.Host = newHost(o.grants)
	sessionCtx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	if in.stream, err = client.Session(sessionCtx); err != nil {
		t.Fatalf("open the session: %v", err)
	}
	in.configure(o)
	go in.receive()
	t.Cleanup(func() {
		_ = in.Stop() // how a session ends is for the test that ends it
		stop()
		<-in.ended
		in.replies.Wait()
	})
	return in
}

func (in *Instance) resolveSchemas() {
	in.t.Helper()
	resolve := func(raw []byte) *jsonschema.Resolved {
		var s jsonschema.Schema
		if err := stdjson.Unmarshal(raw, &s); err != nil {
			in.t.Fatalf("decode the schema %s: %v", raw, err)
		}
		r, err := s.Resolve(nil)
		if err != nil {
			in.t.Fatalf("resolve the schema %s: %v", raw, err)
		}
		return r
	}
	for _, c := range in.Description.GetCommands() {
		in.commands[c.GetName()] = &command{resolve(c.GetParamsSchema()), resolve(c.GetResultSchema())}
	}
}

func (in *Instance) configure(o options) {
	in.t.Helper()
	settings, err := encode(o.settings)
	if err != nil {
		in.t.Fatalf("encode the settings: %v", err)
	}
	configure := &pluginpb.Configure{Settings: settings}
	for _, c := range o.grants {
		configure.Grants = append(configure.Grants, string(c))
	}
	in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: configure}})
	first, err := in.stream.Recv()
	if err != nil {
		in.t.Fatalf("receive the first message: %v", err)
	}
	switch m := first.GetMessage().(type) {
	case *pluginpb.PluginMessage_Ready:
		if o.refused {
			in.t.Fatalf("settings %s: got accepted, want refused", settings)
		}
	case *pluginpb.PluginMessage_Failure:
		if !o.refused {
			in.t.Fatalf("settings %s: %v", settings, faultOf(m.Failure))
		}
		*o.err = faultOf(m.Failure)
	default:
		in.t.Fatalf("first message: got %T, want Ready or Failure", m)
	}
}

// send reports only what Recv would not tell better.
func (in *Instance) send(m *pluginpb.ServerMessage) {
	in.sendMu.Lock()
	defer in.sendMu.Unlock()
	if err := in.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		in.t.Errorf("send %T: %v", m.GetMessage(), err)
	}
}

// receive is the session's only reader.
func (in *Instance) receive() {
	defer close(in.ended)
	for {
		m, err := in.stream.Recv()
		if err != nil {
			in.err = err
			return
		}
		in.take(m)
	}
}

func (in *Instance) take(m *pluginpb.PluginMessage) {
	switch v := m.GetMessage().(type) {
	case *pluginpb.PluginMessage_Result:
		in.finish(v.Result.GetCallId(), m)
	case *pluginpb.PluginMessage_Failure:
		in.finish(v.Failure.GetCallId(), m)
	case *pluginpb.PluginMessage_Progress:
		in.mu.Lock()
		p := in.calls[v.Progress.GetCallId()]
		in.mu.Unlock()
		if p == nil {
			in.t.Errorf("progress of %q, which is not in flight", v.Progress.GetCallId())
		} else if p.progress != nil {
			p.progress(Progress{Data: v.Progress.GetData(), Percent: v.Progress.Percent})
		}
	case *pluginpb.PluginMessage_HostRequest:
		in.replies.Go(func() {
			in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: in.Host.answer(v.HostRequest)}})
		})
	case *pluginpb.PluginMessage_Log:
		in.mu.Lock()
		in.logs = append(in.logs, LogRecord{
			Level:   v.Log.GetLevel().String()[len("LEVEL_"):],
			Message: v.Log.GetMessage(), Attrs: v.Log.GetAttrs(), CallID: v.Log.GetCallId(),
		})
		in.mu.Unlock()
	case *pluginpb.PluginMessage_Pong:
		in.mu.Lock()
		if c := in.pongs[v.Pong.GetNonce()]; c != nil {
			delete(in.pongs, v.Pong.GetNonce())
			close(c)
		}
		in.mu.Unlock()
	default:
		in.t.Errorf("got %T after the first message", v)
	}
}

func (in *Instance) finish(id string, m *pluginpb.PluginMessage) {
	in.mu.Lock()
	p := in.calls[id]
	delete(in.calls, id)
	in.mu.Unlock()
	if p == nil {
		in.t.Errorf("answer to %q, which is not in flight", id)
		return
	}
	p.answer <- m
}

// Logs are the records the plugin has logged so far.
func (in *Instance) Logs() []LogRecord {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]LogRecord(nil), in.logs...)
}

// DefaultCaller is who a call is made for unless [As] says otherwise.
func DefaultCaller() sdk.Caller {
	return sdk.Caller{UserID: "alice", Username: "Alice", Roles: []string{"user"}, SessionID: "session-1", RemoteAddr: "192.0.2.1:4242", Surface: "websocket"}
}

// CallOption refines [Instance.Call].
type CallOption func(*callOptions)

type callOptions struct {
	caller   sdk.Caller
	progress func(Progress)
	signed   bool
	trace    *pluginpb.TraceContext
}

// As makes the call for this caller.
func As(c sdk.Caller) CallOption { return func(o *callOptions) { o.caller = c } }

// OnProgress is called for every part of a streaming answer, in order, and never
// after Call has returned.
func OnProgress(f func(Progress)) CallOption { return func(o *callOptions) { o.progress = f } }

// Traced gives the call a W3C Trace Context.
func Traced(traceparent, tracestate string) CallOption {
	return func(o *callOptions) {
		o.trace = &pluginpb.TraceContext{Traceparent: traceparent, Tracestate: tracestate}
	}
}

// Signed marks the call as signed by the client.
func Signed() CallOption { return func(o *callOptions) { o.signed = true } }

// Call runs a command as a user's request would: params, any value that JSON can
// hold or JSON text itself, are checked against the command's schema, ctx's deadline
// travels, and its end cancels the call in the plugin. The error is a [*fault.Error]
// with the code the user would see. A result that breaks its own schema fails the
// test.
func (in *Instance) Call(ctx context.Context, name string, params any, opts ...CallOption) (stdjson.RawMessage, error) {
	in.t.Helper()
	o := callOptions{caller: DefaultCaller()}
	for _, opt := range opts {
		opt(&o)
	}
	call, err := in.prepare(ctx, name, params, o)
	if err != nil {
		return nil, err
	}
	p := &pending{progress: o.progress, answer: make(chan *pluginpb.PluginMessage, 1)}
	in.mu.Lock()
	in.lastID++
	call.CallId = "call-" + strconv.Itoa(in.lastID)
	in.calls[call.GetCallId()] = p
	in.mu.Unlock()
	in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: call}})
	answer, err := in.await(ctx, call.GetCallId(), p)
	if err != nil {
		return nil, err
	}
	if f := answer.GetFailure(); f != nil {
		return nil, faultOf(f)
	}
	raw := answer.GetResult().GetResult()
	if err := check(in.commands[name].result, raw); err != nil {
		in.t.Errorf("result of %s breaks its schema: %v\n%s", name, err, raw)
	}
	return raw, nil
}

func (in *Instance) prepare(ctx context.Context, name string, params any, o callOptions) (*pluginpb.Call, error) {
	c := in.commands[name]
	if c == nil {
		return nil, fault.Newf(fault.UnknownCommand, "The plugin describes no command %q.", name)
	}
	raw, err := encode(params)
	if err == nil {
		err = check(c.params, raw)
	}
	if err != nil {
		return nil, fault.New(fault.InvalidParams, "Invalid params: "+err.Error())
	}
	call := &pluginpb.Call{
		Command: name, Params: raw, SignatureVerified: o.signed, Trace: o.trace,
		Caller: &pluginpb.Caller{
			UserId: o.caller.UserID, Username: o.caller.Username, Roles: o.caller.Roles,
			SessionId: o.caller.SessionID, RemoteAddress: o.caller.RemoteAddr, Surface: o.caller.Surface,
		},
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.TimeoutMs = max(time.Until(deadline).Milliseconds(), 1)
	}
	return call, nil
}

// await waits for the one answer; the end of ctx cancels the call, which must then
// be answered soon.
func (in *Instance) await(ctx context.Context, id string, p *pending) (*pluginpb.PluginMessage, error) {
	select {
	case m := <-p.answer:
		return m, nil
	case <-in.ended:
		return in.lost(p)
	case <-ctx.Done():
	}
	in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{Cancel: &pluginpb.Cancel{CallId: id}}})
	select {
	case m := <-p.answer:
		return m, nil
	case <-in.ended:
		return in.lost(p)
	case <-time.After(patience):
		return nil, fault.New(fault.CommandTimeout, "The handler ignores the end of its context.")
	}
}

func (in *Instance) lost(p *pending) (*pluginpb.PluginMessage, error) {
	select {
	case m := <-p.answer: // it came just before the end
		return m, nil
	default:
		return nil, fault.New(fault.PluginUnavailable, "The plugin's session has ended.").WithCause(in.err)
	}
}

// Ping sends a health check and waits for its Pong.
func (in *Instance) Ping(ctx context.Context) error {
	pong := make(chan struct{})
	in.mu.Lock()
	in.lastID++
	nonce := uint64(in.lastID)
	in.pongs[nonce] = pong
	in.mu.Unlock()
	in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Ping{Ping: &pluginpb.Ping{Nonce: nonce}}})
	select {
	case <-pong:
		return nil
	case <-in.ended:
		return fmt.Errorf("ping: the session has ended: %w", in.err)
	case <-ctx.Done():
		return fmt.Errorf("ping: %w", ctx.Err())
	}
}

// Drain tells the plugin that no call follows.
func (in *Instance) Drain() {
	in.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Drain{Drain: &pluginpb.Drain{}}})
}

// Stop drains the plugin and waits for the end of its session, which it returns: nil
// for a clean one. It fails the test when that takes ten seconds. The test's cleanup
// calls it, too.
func (in *Instance) Stop() error {
	in.t.Helper()
	select {
	case <-in.ended:
	default:
		in.Drain()
	}
	select {
	case <-in.ended:
	case <-time.After(patience):
		in.t.Errorf("the plugin did not drain within %s: a handler ignores the end of its context", patience)
		return context.DeadlineExceeded
	}
	if errors.Is(in.err, io.EOF) {
		return nil
	}
	return in.err
}

// CutLifeline does what the death of the server does to a process.
func (in *Instance) CutLifeline() {
	if in.lifeline != nil {
		_ = in.lifeline.Close() // the end of file is the point
	}
}

func faultOf(f *pluginpb.Failure) error {
	e := fault.New(fault.Code(f.GetCode()), f.GetMessage())
	if f.GetRetryAfterMs() > 0 {
		e = e.WithRetryAfter(time.Duration(f.GetRetryAfterMs()) * time.Millisecond)
	}
	if len(f.GetDetails()) > 0 {
		e = e.WithDetails(stdjson.RawMessage(f.GetDetails()))
	}
	return e
}

func check(schema *jsonschema.Resolved, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	return schema.Validate(v)
}
