// Command bad is a plugin without the SDK that keeps the contract, but for what the
// name says under which it is started: each name breaks one rule.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

var name = filepath.Base(os.Args[0])

// is reports whether this is the plugin that breaks a rule.
func is(rule string) bool { return name == rule }

func main() {
	if os.Getenv(pluginpb.MagicCookieKey) == "" {
		byHand()
	}
	switch {
	case is("nohandshake"):
		fmt.Println("hello")
		os.Exit(3)
	case is("elsewhere"):
		_ = os.Setenv(plugin.EnvUnixSocketDir, filepath.Dir(filepath.Dir(os.Getenv(pluginpb.EnvRuntimeDir))))
	case is("plaintext"):
		_ = os.Unsetenv("PLUGIN_CLIENT_CERT")
	case is("alone"):
		lock()
	case is("noisy"):
		fmt.Println("loading the model …")
	}
	watchLifeline()
	signals := make(chan os.Signal, 1)
	if !is("mortal") {
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	}
	handshake := pluginpb.Handshake()
	if is("protocoltwo") {
		handshake.ProtocolVersion = 2
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         pluginpb.ServerPlugins(&service{}),
		Logger:          hclog.NewNullLogger(),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			if is("narrow") {
				return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(1<<20))...)
			}
			return grpc.NewServer(append(o, pluginpb.ServerOptions()...)...)
		},
	})
	switch {
	case is("stays"):
		time.Sleep(time.Hour)
	case is("forks"):
		_ = exec.Command("sleep", "60").Start()
	}
}

func byHand() {
	if is("waits") {
		time.Sleep(time.Hour)
	}
	fmt.Fprintln(os.Stderr, "This is a plugin of a Plugboard server.")
	os.Exit(2)
}

// lock keeps a second process from starting.
func lock() {
	f, err := os.Open("/proc/self/exe")
	if err != nil || syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		fmt.Fprintln(os.Stderr, "already running")
		os.Exit(1)
	}
}

func watchLifeline() {
	n, err := strconv.Atoi(os.Getenv(pluginpb.EnvLifelineFD))
	if err != nil || is("orphan") {
		return
	}
	syscall.CloseOnExec(n)
	pipe := os.NewFile(uintptr(n), "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		os.Exit(4)
	}()
}

const (
	echoSchema = `{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}`
	slowSchema = `{"type":"object","additionalProperties":false}`
	doneSchema = `{"type":"object","properties":{"done":{"type":"boolean"}},"required":["done"]}`
)

type service struct {
	pluginpb.UnimplementedPluginServer
}

func (*service) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	echo := &pluginpb.CommandDescription{
		Name: name, Summary: "Says its params back", ParamsSchema: []byte(echoSchema), ResultSchema: []byte(echoSchema),
		ReadOnly: true, Idempotent: true, Examples: []*pluginpb.Example{{Params: []byte(`{"text":"a"}`), Result: []byte(`{"text":"a"}`)}},
	}
	d := &pluginpb.DescribeResponse{
		Name: name, Version: "1.0.0", Summary: "Breaks a rule", Capabilities: []string{"send"},
		SettingsSchema: []byte(`{"type":"object","properties":{"greeting":{"type":"string"}},"additionalProperties":false}`),
		Commands: []*pluginpb.CommandDescription{
			echo,
			{Name: name + ".slow", Summary: "Takes a while", ParamsSchema: []byte(slowSchema), ResultSchema: []byte(doneSchema), ReadOnly: true, Streaming: true},
			{Name: name + ".tell", Summary: "Sends a message", ParamsSchema: []byte(slowSchema), ResultSchema: []byte(doneSchema), Examples: []*pluginpb.Example{{Params: []byte(`{}`), Result: []byte(`{"done":true}`)}}},
			{Name: name + ".wipe", Summary: "Must not be called by a check", ParamsSchema: []byte(slowSchema), Destructive: true, Examples: []*pluginpb.Example{{Params: []byte(`{}`), Result: []byte(`{}`)}}},
			{Name: name + ".change", Summary: "Must not be called either", ParamsSchema: []byte(slowSchema)},
		},
	}
	switch {
	case is("misnamed"):
		d.Name = "other"
	case is("unversioned"):
		d.Version = "1.0"
	case is("badschema"):
		echo.ResultSchema = []byte(`{"$ref":"https://example.org/schema.json"}`)
	case is("badexample"):
		echo.Examples = append(echo.Examples, &pluginpb.Example{Params: []byte(`{"text":1}`), Result: []byte(`{"text":"a"}`)})
	}
	return d, nil
}

// session is one stream.
type session struct {
	stream pluginpb.Plugin_SessionServer
	wg     sync.WaitGroup

	sending sync.Mutex
	mu      sync.Mutex
	calls   map[string]context.CancelFunc
	replies map[uint64]chan *pluginpb.HostReply
	last    uint64
	count   int
}

func (*service) Session(stream pluginpb.Plugin_SessionServer) error {
	s := &session{stream: stream, calls: map[string]context.CancelFunc{}, replies: map[uint64]chan *pluginpb.HostReply{}}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := configure(first.GetConfigure()); err != nil {
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: &pluginpb.Failure{Code: "invalid_params", Message: err.Error()}}})
		return nil
	}
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Ready{Ready: &pluginpb.Ready{}}})
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetMessage() == nil && is("strict") {
			return status.Error(codes.InvalidArgument, "unknown message")
		}
		if done, err := s.take(m); done {
			return err
		}
	}
}

func configure(c *pluginpb.Configure) error {
	var settings map[string]any
	if len(c.GetSettings()) > 0 {
		if err := json.Unmarshal(c.GetSettings(), &settings); err != nil {
			return err
		}
	}
	if is("lax") {
		return nil
	}
	for member, v := range settings {
		if _, ok := v.(string); member != "greeting" || !ok {
			return fmt.Errorf("%s is no setting, or no text", member)
		}
	}
	return nil
}

func (s *session) send(m *pluginpb.PluginMessage) {
	s.sending.Lock()
	defer s.sending.Unlock()
	_ = s.stream.Send(m)
}

func (s *session) take(m *pluginpb.ServerMessage) (done bool, err error) {
	switch m := m.GetMessage().(type) {
	case *pluginpb.ServerMessage_Call:
		s.call(m.Call)
	case *pluginpb.ServerMessage_Cancel:
		s.mu.Lock()
		cancel := s.calls[m.Cancel.GetCallId()]
		s.mu.Unlock()
		if cancel != nil {
			cancel()
		}
	case *pluginpb.ServerMessage_Ping:
		nonce := m.Ping.GetNonce()
		if is("wrongnonce") {
			nonce++
		}
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Pong{Pong: &pluginpb.Pong{Nonce: nonce}}})
	case *pluginpb.ServerMessage_HostReply:
		s.mu.Lock()
		reply := s.replies[m.HostReply.GetRequestId()]
		delete(s.replies, m.HostReply.GetRequestId())
		s.mu.Unlock()
		if reply != nil {
			reply <- m.HostReply
		}
	case *pluginpb.ServerMessage_Drain:
		if is("hasty") {
			return true, nil
		}
		s.wg.Wait()
		switch {
		case is("grumpy"):
			return true, status.Error(codes.Unavailable, "drained")
		case is("lingers"):
			return false, nil
		}
		return true, nil
	}
	return false, nil
}

func (s *session) call(c *pluginpb.Call) {
	ctx, cancel := context.WithCancel(s.stream.Context())
	if c.GetTimeoutMs() > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.GetTimeoutMs())*time.Millisecond)
	}
	s.mu.Lock()
	s.calls[c.GetCallId()] = cancel
	s.count++
	lost := is("forgetful") && s.count > 500 || is("crowded") && len(s.calls) > 40
	s.mu.Unlock()
	if lost {
		return
	}
	s.wg.Go(func() {
		defer cancel()
		if is("crowded") {
			time.Sleep(200 * time.Millisecond) // so that calls do pile up
		}
		m := s.answer(ctx, c)
		s.mu.Lock()
		delete(s.calls, c.GetCallId())
		s.mu.Unlock()
		if is("uncancelled") && errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		s.send(m)
		switch {
		case is("twice"):
			s.send(m)
		case is("ghost"):
			s.send(result("nobody", `{}`))
		case is("afterwards"):
			s.progress(c.GetCallId(), 100, `{}`)
		}
	})
}

func result(id, value string) *pluginpb.PluginMessage {
	return &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Result{Result: &pluginpb.Result{CallId: id, Result: []byte(value)}}}
}

func failure(id, code string) *pluginpb.PluginMessage {
	return &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: &pluginpb.Failure{CallId: id, Code: code, Message: "No."}}}
}

func (s *session) progress(id string, percent float64, data string) {
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: id, Percent: &percent, Data: []byte(data)}}})
}

// answer does the work of one call.
func (s *session) answer(ctx context.Context, c *pluginpb.Call) *pluginpb.PluginMessage {
	id := c.GetCallId()
	switch c.GetCommand() {
	case name:
		return echo(id, c.GetParams())
	case name + ".slow":
		return s.slow(ctx, id, c.GetParams())
	case name + ".tell":
		return s.tell(id)
	case name + ".wipe", name + ".change":
		fmt.Fprintln(os.Stderr, "called what must not be called")
		os.Exit(66)
	}
	switch {
	case is("unknowing"):
		os.Exit(5)
	case is("eager"):
		return result(id, `{}`)
	}
	return failure(id, "unknown_command")
}

func echo(id string, params []byte) *pluginpb.PluginMessage {
	var p struct {
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(params, &p); err != nil || p.Text == nil {
		if is("fragile") {
			panic(err)
		}
		return failure(id, "invalid_params")
	}
	if is("wrongresult") {
		return result(id, `{"text":1}`)
	}
	return result(id, string(params))
}

func (s *session) slow(ctx context.Context, id string, params []byte) *pluginpb.PluginMessage {
	if string(params) != "{}" {
		return failure(id, "invalid_params")
	}
	for i := range 4 {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return failure(id, "command_cancelled")
		}
		switch {
		case is("overdone"):
			s.progress(id, 150, `{}`)
		case is("garbled"):
			s.progress(id, 50, `{`)
		default:
			s.progress(id, float64(25*(i+1)), `{}`)
		}
	}
	return result(id, `{"done":true}`)
}

func (s *session) tell(id string) *pluginpb.PluginMessage {
	reply := make(chan *pluginpb.HostReply, 1)
	s.mu.Lock()
	s.last++
	request := s.last
	s.replies[request] = reply
	s.mu.Unlock()
	if is("idless") {
		request = 0
	}
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_HostRequest{HostRequest: &pluginpb.HostRequest{
		RequestId: request, CallId: id, Request: &pluginpb.HostRequest_Send{Send: &pluginpb.SendRequest{UserId: "alice", Text: "hello"}},
	}}})
	if is("idless") {
		return failure(id, "command_failed")
	}
	if r := <-reply; r.GetError() != nil {
		if is("entitled") {
			panic(r.GetError())
		}
		return failure(id, "command_failed")
	}
	return result(id, `{"done":true}`)
}
