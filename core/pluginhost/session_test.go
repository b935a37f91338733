package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// noHost has nothing to tell.
type noHost struct{ core.HostServices }

func (noHost) ServerInfo(context.Context) (core.ServerInfo, error) { return core.ServerInfo{}, nil }
func (noHost) CountUsers(context.Context) (core.UserCount, error)  { return core.UserCount{}, nil }
func (noHost) ListUsers(context.Context, string, int) ([]core.User, error) {
	return nil, nil
}
func (noHost) ListCommands(context.Context, core.Caller) ([]wire.CommandInfo, error) {
	return nil, nil
}

// newFuzzSession is a session whose messages are given by hand: nothing is sent and
// nothing is received.
func newFuzzSession(t testing.TB) (*session, *bytes.Buffer) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	out, _ := newOutput(&log)
	ctx, cancel := context.WithCancel(context.Background())
	service := hostsvc.New(hostsvc.Options{Plugin: "fuzz", Grants: []string{"server", "users", "commands"}, Host: noHost{}, Logger: out.log})
	return newSession(ctx, cancel, "fuzz", nil, service, out, m, 4), &log
}

// FuzzSession gives a session any messages that a plugin could send, with two calls
// in flight, and holds it to: no call is answered twice, none is left behind.
func FuzzSession(f *testing.F) {
	percent := math.NaN()
	add := func(messages ...*pluginpb.PluginMessage) {
		var raw []byte
		for _, m := range messages {
			one, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			raw = protowire.AppendBytes(raw, one)
		}
		f.Add(raw)
	}
	result := &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Result{Result: &pluginpb.Result{CallId: "1.a", Result: []byte("{}")}}}
	add(result, result)
	add(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: &pluginpb.Failure{CallId: "2.b", Code: "invalid_params", Details: []byte(`[{"pointer":"/a"}]`), RetryAfterMs: math.MaxInt64}}})
	add(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Failure{Failure: &pluginpb.Failure{CallId: "2.b", Code: "command_failed", Message: "\x1b[0m", Details: []byte(`{"code":"x"}`)}}})
	add(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Progress{Progress: &pluginpb.Progress{CallId: "1.a", Percent: &percent}}}, result)
	add(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_HostRequest{HostRequest: &pluginpb.HostRequest{RequestId: 1, CallId: "1.a", Request: &pluginpb.HostRequest_ListCommands{}}}})
	add(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Log{Log: &pluginpb.Log{Level: 77, Message: "a\nb", Attrs: []byte("{\n}"), CallId: "2.b"}}})
	add(&pluginpb.PluginMessage{}, &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Ready{}}, &pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Pong{}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, log := newFuzzSession(t)
		released := map[string]int{}
		var calls []*pending
		for _, id := range []string{"a", "b"} {
			p := &pending{call: &core.Call{ID: id}, done: make(chan outcome, 1), release: func() { released[id]++ },
				progress: func(part core.Progress) {
					if part.Percent != nil && !(*part.Percent >= 0 && *part.Percent <= 100) {
						t.Errorf("percentage %v passed", *part.Percent)
					}
				}}
			calls = append(calls, p)
			if _, err := s.add(p); err != nil {
				t.Fatal(err)
			}
		}
		for len(raw) > 0 && len(s.queue) < cap(s.queue)-1 {
			one, n := protowire.ConsumeBytes(raw)
			if n < 0 {
				break
			}
			raw = raw[n:]
			m := &pluginpb.PluginMessage{}
			if proto.Unmarshal(one, m) == nil {
				s.take(m)
			}
		}
		s.end(unavailable("fuzz", "ended"))
		s.end(errors.New("again"))
		s.wait()
		for _, p := range calls {
			out := <-p.done
			var known *fault.Error
			if errors.As(out.err, &known) && (!known.Code.Valid() || known.Message == "" || known.RetryAfter < 0) {
				t.Errorf("got error %+v", known)
			}
		}
		if diff := cmp.Diff(map[string]int{"a": 1, "b": 1}, released); diff != "" {
			t.Errorf("places given back (-want +got):\n%s", diff)
		}
		if text := log.String(); text != "" && strings.Count(text, "\n") != strings.Count(text, `{"level"`) {
			t.Errorf("a record makes more than a line: %q", text)
		}
	})
}

func TestRepliesFitAMessage(t *testing.T) {
	reply := &pluginpb.HostReply{RequestId: 7, Reply: &pluginpb.HostReply_ListCommands{ListCommands: &pluginpb.ListCommandsReply{
		Commands: []*pluginpb.CommandInfo{{ParamsSchema: make([]byte, pluginpb.MaxMessageBytes)}},
	}}}
	if got := fitting(reply); got.GetRequestId() != 7 || got.GetError().GetCode() != string(fault.TooLarge) {
		t.Errorf("got %.200v, want request 7 refused as too large", got)
	}
	reply.GetListCommands().Commands[0].ParamsSchema = []byte("{}")
	if got := fitting(reply); got != reply {
		t.Errorf("got %v, want it as it was", got)
	}
}

func TestFailureDetails(t *testing.T) {
	for name, c := range map[string]struct {
		code, details, want string
	}{
		"violations":              {"invalid_params", `[{"pointer":"/a","message":"is \u001b[1mwrong"}]`, `[{"pointer":"/a","message":"is wrong"}]`},
		"violations of no shape":  {"invalid_params", `{"a":1}`, ""},
		"no violation":            {"invalid_params", `[]`, ""},
		"the author's own word":   {"command_failed", `{ "code": "no_city" }`, `{"code":"no_city"}`},
		"not an object":           {"command_failed", `"no_city"`, ""},
		"broken":                  {"command_failed", `{`, ""},
		"too long":                {"command_failed", `{"a":"` + strings.Repeat("x", maxDetailsBytes) + `"}`, ""},
		"a code that has no such": {"forbidden", `{"a":1}`, ""},
	} {
		var got *fault.Error
		if err := failureOf(&pluginpb.Failure{Code: c.code, Details: []byte(c.details)}); !errors.As(err, &got) || string(got.Details) != c.want || got.Message == "" {
			t.Errorf("%s: got %v with details %s, want %s", name, err, got.Details, c.want)
		}
	}
}

func TestDescribeNamesEverything(t *testing.T) {
	good := func() *pluginpb.DescribeResponse {
		return &pluginpb.DescribeResponse{Name: "weather", Version: "1.2.3-rc.1+build", Summary: "Weather", Capabilities: []string{"kv"}, SettingsSchema: []byte(`{}`),
			Commands: []*pluginpb.CommandDescription{
				{Name: "weather", Summary: "Now", ParamsSchema: []byte(` {"type":"object"}`), TimeoutMs: 1500},
				{Name: "weather.next", Summary: "Next", ParamsSchema: []byte(`{}`), ResultSchema: []byte(`{}`), Examples: []*pluginpb.Example{{Params: []byte(`{}`), Result: []byte(`null`)}}},
			}}
	}
	d, err := describe("weather", good())
	if err != nil || d.version != "1.2.3-rc.1+build" || len(d.commands) != 2 || d.commands[0].Timeout.Seconds() != 1.5 {
		t.Fatalf("got %+v, %v", d, err)
	}
	for name, c := range map[string]struct {
		change func(*pluginpb.DescribeResponse)
		want   string
	}{
		"another's name":     {func(d *pluginpb.DescribeResponse) { d.Name = "other" }, `calls itself "other"`},
		"no version":         {func(d *pluginpb.DescribeResponse) { d.Version = "" }, "semantic version"},
		"a short version":    {func(d *pluginpb.DescribeResponse) { d.Version = "1.2" }, "semantic version"},
		"a v":                {func(d *pluginpb.DescribeResponse) { d.Version = "v1.2.3" }, "semantic version"},
		"no summary":         {func(d *pluginpb.DescribeResponse) { d.Summary = "" }, "its summary"},
		"escapes":            {func(d *pluginpb.DescribeResponse) { d.Summary = "\x1b[31mred" }, "its summary"},
		"a made-up need":     {func(d *pluginpb.DescribeResponse) { d.Capabilities = []string{"root"} }, `capability "root"`},
		"settings no object": {func(d *pluginpb.DescribeResponse) { d.SettingsSchema = []byte(`true`) }, "settings schema"},
		"no command":         {func(d *pluginpb.DescribeResponse) { d.Commands = nil }, "0 commands"},
		"another's command":  {func(d *pluginpb.DescribeResponse) { d.Commands[0].Name = "weatherman" }, `command name "weatherman"`},
		"twice":              {func(d *pluginpb.DescribeResponse) { d.Commands[0].Name = "weather.next" }, "stands twice"},
		"no schema":          {func(d *pluginpb.DescribeResponse) { d.Commands[0].ParamsSchema = nil }, "params schema"},
		"result schema":      {func(d *pluginpb.DescribeResponse) { d.Commands[1].ResultSchema = []byte(`[]`) }, "result schema"},
		"example's params":   {func(d *pluginpb.DescribeResponse) { d.Commands[1].Examples[0].Params = []byte(`1`) }, "params of example 1"},
		"example's result":   {func(d *pluginpb.DescribeResponse) { d.Commands[1].Examples[0].Result = nil }, "result of example 1"},
		"a negative timeout": {func(d *pluginpb.DescribeResponse) { d.Commands[1].TimeoutMs = -1 }, "timeout of"},
		"an endless timeout": {func(d *pluginpb.DescribeResponse) { d.Commands[1].TimeoutMs = math.MaxInt64 }, "timeout of"},
		"no UTF-8":           {func(d *pluginpb.DescribeResponse) { d.Commands[1].Description = "\xff" }, "description of"},
	} {
		d := good()
		c.change(d)
		if _, err := describe("weather", d); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestGrants(t *testing.T) {
	got := grantsFor([]string{"server", "kv", "users", "server"}, []string{"server", "kv", "commands"})
	if diff := cmp.Diff([]string{"server", "kv"}, got); diff != "" {
		t.Errorf("asked for, granted and there (-want +got):\n%s", diff)
	}
}
