// Command testplugin is a small plugin that misbehaves on request, for the tests of
// the plugin host. It speaks the contract's messages without the SDK, so that it can
// break every rule that the SDK keeps.
//
// How it behaves as a process follows from the name it is started under; how a call
// behaves, from the second part of the command's name.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// version is set by the linker where a test needs another.
var version = "1.0.0"

func main() {
	name := filepath.Base(os.Args[0])
	if len(os.Args) > 1 && os.Args[1] == "grandchild" {
		time.Sleep(time.Minute)
		return
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	switch name {
	case "exits":
		fmt.Fprintln(os.Stderr, "cannot find my configuration")
		os.Exit(3)
	case "silent":
		time.Sleep(time.Minute)
	case "noisy":
		fmt.Println("Welcome to noisy!")
		fmt.Println("\x1b[31mloading\x1b[0m")
	case "tcp":
		fmt.Println("1|1|tcp|127.0.0.1:9|grpc|")
		time.Sleep(time.Minute)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: pluginpb.Handshake(),
		Plugins:         pluginpb.ServerPlugins(&server{name: name}),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, pluginpb.ServerOptions()...)...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

type server struct {
	pluginpb.UnimplementedPluginServer
	name string
}

var behaviours = []string{
	"crash", "exit", "panic", "hang", "slow", "ignore", "flood", "print", "twice", "stray", "child", "progress",
	"fail", "host", "env", "log", "nojson", "freeze", "close", "big", "again", "poison", "halfway", "alloc", "asks",
}

func (s *server) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	d := &pluginpb.DescribeResponse{
		Name: s.name, Version: version, Summary: "Misbehaves on request", Capabilities: []string{"server", "commands", "users", "kv"},
		Commands: []*pluginpb.CommandDescription{{Name: s.name, Summary: "Says its params back", ParamsSchema: []byte(`{"type":"object"}`),
			Examples: []*pluginpb.Example{{Params: []byte(`{}`), Result: []byte(`{}`)}}}},
	}
	for _, b := range behaviours {
		d.Commands = append(d.Commands, &pluginpb.CommandDescription{
			Name: s.name + "." + b, Summary: "Does " + b, ParamsSchema: []byte(`{"type":"object"}`), Streaming: b == "progress" || b == "halfway",
			Idempotent: b == "again" || b == "poison" || b == "halfway",
		})
	}
	switch s.name {
	case "liar":
		d.Name, d.Version = "honest", "one"
		d.Commands[0].Name = "other.command"
		d.Commands[1].ParamsSchema = []byte(`[]`)
	case "remote":
		d.Commands[0].ParamsSchema = []byte(`{"$ref":"https://example.com/schema.json"}`)
	}
	return d, nil
}

// session is one stream; sends are serialised.
type session struct {
	*server
	pluginpb.Plugin_SessionServer
	mu      sync.Mutex
	cancels map[string]context.CancelFunc
	replies chan *pluginpb.HostReply
}

func (s *session) send(m *pluginpb.PluginMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.Send(m) // a server that is gone ends the process soon
}

func (s *session) result(id, result string) {
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Result{Result: &pluginpb.Result{CallId: id, Result: []byte(result)}}})
}

func (s *session) failure(id, code, message string) {
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: &pluginpb.Failure{CallId: id, Code: code, Message: message}}})
}

func (s *server) Session(stream pluginpb.Plugin_SessionServer) error {
	ss := &session{server: s, Plugin_SessionServer: stream, cancels: map[string]context.CancelFunc{}, replies: make(chan *pluginpb.HostReply, 1)}
	var calls sync.WaitGroup
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *pluginpb.ServerMessage_Configure:
			if strings.Contains(string(m.Configure.GetSettings()), "refuse") {
				ss.failure("", "invalid_params", "refuse: is not a setting")
				continue
			}
			ss.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Ready{Ready: &pluginpb.Ready{}}})
		case *pluginpb.ServerMessage_Call:
			if strings.HasSuffix(m.Call.GetCommand(), ".close") {
				return nil
			}
			ctx, cancel := context.WithCancel(context.Background())
			ss.cancels[m.Call.GetCallId()] = cancel
			if m.Call.GetCommand() == s.name {
				ss.result(m.Call.GetCallId(), string(m.Call.GetParams()))
				continue
			}
			calls.Go(func() { ss.run(ctx, m.Call) })
		case *pluginpb.ServerMessage_Cancel:
			if cancel := ss.cancels[m.Cancel.GetCallId()]; cancel != nil {
				cancel()
			}
		case *pluginpb.ServerMessage_HostReply:
			select {
			case ss.replies <- m.HostReply:
			default: // nobody waits for it
			}
		case *pluginpb.ServerMessage_Ping:
			ss.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Pong{Pong: &pluginpb.Pong{Nonce: m.Ping.GetNonce()}}})
		case *pluginpb.ServerMessage_Drain:
			if s.name == "deaf" {
				continue
			}
			calls.Wait()
			return nil
		}
	}
}

// run does what the second part of the command's name says.
func (s *session) run(ctx context.Context, call *pluginpb.Call) {
	id := call.GetCallId()
	var params struct {
		MS   int    `json:"ms"`
		Code string `json:"code"`
		Ask  string `json:"ask"`
		For  string `json:"for"`
		N    int    `json:"n"`
	}
	_ = json.Unmarshal(call.GetParams(), &params) // they were validated; absent members are zero
	switch _, behaviour, _ := strings.Cut(call.GetCommand(), "."); behaviour {
	case "crash", "poison":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "exit":
		// Straight to the descriptor: go-plugin loses what os.Stderr still holds at the exit.
		_, _ = syscall.Write(2, []byte("giving up\n"))
		os.Exit(4)
	case "panic":
		panic("test panic")
	case "freeze":
		s.result(id, `{}`)
		time.Sleep(100 * time.Millisecond) // for the answer to be written
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "hang":
		<-ctx.Done()
		s.failure(id, "command_cancelled", "cancelled")
	case "ignore":
		time.Sleep(time.Duration(params.MS) * time.Millisecond)
		s.result(id, `"late"`)
	case "alloc":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			runtime.KeepAlive(all)
		}
	case "asks":
		for i := range params.N {
			s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_HostRequest{HostRequest: &pluginpb.HostRequest{
				RequestId: uint64(i) + 1, Request: &pluginpb.HostRequest_ServerInfo{ServerInfo: &pluginpb.ServerInfoRequest{}},
			}}})
		}
		s.result(id, `{}`)
	case "halfway":
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: id, Data: []byte(`1`)}}})
		time.Sleep(100 * time.Millisecond) // for the part to be passed on
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "slow", "again":
		select {
		case <-time.After(time.Duration(params.MS) * time.Millisecond):
			s.result(id, fmt.Sprintf(`{"timeout_ms":%d}`, call.GetTimeoutMs()))
		case <-ctx.Done():
			s.failure(id, "command_cancelled", "cancelled")
		}
	case "flood":
		line := strings.Repeat("x", 1023) + "\n"
		for range params.N {
			_, _ = syscall.Write(2, []byte(line))
		}
		s.result(id, `{}`)
	case "print":
		fmt.Println("printed to stdout")
		fmt.Fprintln(os.Stderr, "printed to stderr")
		_, _ = syscall.Write(1, []byte("written to fd 1\n"))
		_, _ = syscall.Write(2, []byte("[WARN] written to fd 2 \x1b]0;title\x07\x1b[1mbold\n"))
		s.result(id, `{}`)
	case "twice":
		s.result(id, `1`)
		s.result(id, `2`)
	case "stray":
		s.result("never-asked", `1`)
		s.failure("never-asked", "command_failed", "no")
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: "never-asked"}}})
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Ready{Ready: &pluginpb.Ready{}}})
		s.send(&pluginpb.PluginMessage{})
		s.result(id, `{}`)
	case "child":
		child := exec.Command("/proc/self/exe", "grandchild") // it is to outlive its parent
		child.Stderr = os.NewFile(2, "stderr")
		if err := child.Start(); err != nil {
			s.failure(id, "command_failed", err.Error())
			return
		}
		s.result(id, fmt.Sprint(child.Process.Pid))
	case "progress":
		for i := range 3 {
			percent := float64(i * 50)
			s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: id, Data: fmt.Appendf(nil, `{"part":%d}`, i), Percent: &percent}}})
		}
		wrong := 101.0
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: id, Data: []byte(`{`)}}})
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: id, Percent: &wrong}}})
		s.result(id, `"done"`)
	case "fail":
		s.failure(id, params.Code, "because \x1b[31mthe test asked")
	case "host":
		s.host(id, params.Ask, params.For)
	case "env":
		raw, err := json.Marshal(os.Environ())
		if err != nil {
			s.failure(id, "internal", err.Error())
			return
		}
		s.result(id, string(raw))
	case "log":
		s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Log{Log: &pluginpb.Log{
			Level: pluginpb.Log_LEVEL_WARN, Message: "said by the plugin", Attrs: []byte("{\n\"n\": 1}"), CallId: id}}})
		s.result(id, `{}`)
	case "nojson":
		s.result(id, `{"a":`)
	case "big":
		s.result(id, `"`+strings.Repeat("x", params.N)+`"`)
	default:
		s.failure(id, "unknown_command", "no such behaviour")
	}
}

// host asks the server for something on behalf of a call and tells what it said.
func (s *session) host(id, ask, behalf string) {
	if behalf == "" {
		behalf = id
	}
	req := &pluginpb.HostRequest{RequestId: 1, CallId: behalf}
	switch ask {
	case "server":
		req.Request = &pluginpb.HostRequest_ServerInfo{ServerInfo: &pluginpb.ServerInfoRequest{}}
	case "commands":
		req.Request = &pluginpb.HostRequest_ListCommands{ListCommands: &pluginpb.ListCommandsRequest{}}
	case "users":
		req.Request = &pluginpb.HostRequest_CountUsers{CountUsers: &pluginpb.CountUsersRequest{}}
	case "kv":
		req.Request = &pluginpb.HostRequest_KvGet{KvGet: &pluginpb.KVGetRequest{Key: "a"}}
	}
	s.send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_HostRequest{HostRequest: req}})
	reply := <-s.replies
	answer := map[string]any{"code": reply.GetError().GetCode(), "version": reply.GetServerInfo().GetVersion()}
	for _, c := range reply.GetListCommands().GetCommands() {
		answer["command"] = c.GetName()
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		s.failure(id, "internal", err.Error())
		return
	}
	s.result(id, string(raw))
}
