package hostsvc_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// host is a server with three users, of whom bob is connected.
type host struct {
	core.PluginKV // nil where a test needs none
	err           error
	panics        bool
	asked         core.Caller

	mu   sync.Mutex
	said []string // what was sent and broadcast: plugin, recipient and text
}

var users = []core.User{{ID: "alice", Username: "Alice"}, {ID: "bob", Username: "Bob"}, {ID: "carol", Username: "Carol"}}

func (h *host) ServerInfo(context.Context) (core.ServerInfo, error) {
	return core.ServerInfo{Name: core.ServerName, Version: "1.2.3", Protocol: wire.Protocol, StartedAt: time.UnixMilli(1000), GoVersion: "go1.26", Connections: 4,
		Plugins: []core.PluginState{{Name: "echo", Version: "1.0.0", State: "ready", Error: "for operators only"}}}, h.err
}

func (h *host) CountUsers(context.Context) (core.UserCount, error) {
	if h.panics {
		panic("boom")
	}
	return core.UserCount{Connected: 2, Registered: 3}, h.err
}

func (h *host) ListUsers(_ context.Context, after string, limit int) ([]core.User, error) {
	var page []core.User
	for _, u := range users {
		if u.ID > after && len(page) < limit {
			page = append(page, u)
		}
	}
	return page, h.err
}

func (h *host) ListCommands(_ context.Context, caller core.Caller) ([]wire.CommandInfo, error) {
	h.asked = caller
	return []wire.CommandInfo{{Name: "echo", Plugin: "echo", Params: []byte(`{}`), Examples: []wire.CommandExample{{Params: []byte(`{"a":1}`), Result: []byte(`1`)}}}}, h.err
}

func (*host) ConnectedSince(_ context.Context, ids []string) (map[string]time.Time, error) {
	found := map[string]time.Time{}
	for _, id := range ids {
		if id == "bob" {
			found[id] = time.UnixMilli(5000)
		}
	}
	return found, nil
}

func (h *host) say(parts ...string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, strings.Join(parts, " "))
	return len(h.said)
}

func (h *host) Send(_ context.Context, plugin, userID, text string) (core.SentMessage, error) {
	return core.SentMessage{ID: "id", Seq: uint64(h.say(plugin, userID, text))}, h.err
}

func (h *host) Broadcast(_ context.Context, plugin, text string) (core.Reach, error) {
	h.say(plugin, "all", text)
	return core.Reach{Queued: 3, Dropped: 2}, h.err
}

func nobody(string) (core.Caller, bool) { return core.Caller{}, false }

func everyRequest() map[string]*pluginpb.HostRequest {
	return map[string]*pluginpb.HostRequest{
		hostsvc.CapabilityServer:    {Request: &pluginpb.HostRequest_ServerInfo{}},
		hostsvc.CapabilityUsers:     {Request: &pluginpb.HostRequest_CountUsers{}},
		"users ":                    {Request: &pluginpb.HostRequest_ListUsers{}},
		hostsvc.CapabilityCommands:  {Request: &pluginpb.HostRequest_ListCommands{}},
		hostsvc.CapabilityKV:        {Request: &pluginpb.HostRequest_KvGet{}},
		"kv ":                       {Request: &pluginpb.HostRequest_KvPut{}},
		"kv  ":                      {Request: &pluginpb.HostRequest_KvDelete{}},
		"kv   ":                     {Request: &pluginpb.HostRequest_KvList{}},
		hostsvc.CapabilitySend:      {Request: &pluginpb.HostRequest_Send{}},
		hostsvc.CapabilityBroadcast: {Request: &pluginpb.HostRequest_Broadcast{}},
	}
}

func wantError(t *testing.T, reply *pluginpb.HostReply, want fault.Code) string {
	t.Helper()
	if got := reply.GetError().GetCode(); got != string(want) {
		t.Fatalf("got reply %v, want the error %s", reply, want)
	}
	return reply.GetError().GetMessage()
}

func TestEveryRequestNeedsItsGrant(t *testing.T) {
	s := hostsvc.New(hostsvc.Options{Plugin: "nosy", Host: &host{}})
	for name, req := range everyRequest() {
		req.RequestId = 7
		reply := s.Handle(t.Context(), req, nobody)
		said := wantError(t, reply, fault.Forbidden)
		if capability := strings.TrimSpace(name); !strings.Contains(said, capability) || reply.GetRequestId() != 7 {
			t.Errorf("%s: got %v, want a refusal of request 7 that names the capability", name, reply)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for name := range everyRequest() {
		if c := strings.TrimSpace(name); !hostsvc.ValidCapability(c) || !hostsvc.Offered(c) {
			t.Errorf("capability %q: got valid %v, offered %v, want both", c, hostsvc.ValidCapability(c), hostsvc.Offered(c))
		}
	}
	if !hostsvc.ValidCapability("net") || !hostsvc.Offered("net") {
		t.Error("capability net: want it valid and offered")
	}
	for _, c := range []string{"", "KV", "observe", "kv ", "exec"} {
		if hostsvc.ValidCapability(c) || hostsvc.Offered(c) {
			t.Errorf("capability %q: want it neither valid nor offered", c)
		}
	}
}

func TestAnswers(t *testing.T) {
	caller := core.Caller{UserID: "alice", Roles: []string{"user"}}
	h := &host{}
	s := hostsvc.New(hostsvc.Options{Plugin: "tool", Host: h, Grants: []string{"server", "users", "commands"}})
	callers := func(id string) (core.Caller, bool) { return caller, id == "call-1" }
	for name, c := range map[string]struct {
		req  *pluginpb.HostRequest
		want *pluginpb.HostReply
	}{
		"server info": {
			req: &pluginpb.HostRequest{Request: &pluginpb.HostRequest_ServerInfo{}},
			want: &pluginpb.HostReply{Reply: &pluginpb.HostReply_ServerInfo{ServerInfo: &pluginpb.ServerInfoReply{
				Name: "plugboard", Version: "1.2.3", Protocol: "plugboard.v1", StartedAtUnixMs: 1000, GoVersion: "go1.26", Connections: 4,
				Plugins: []*pluginpb.PluginState{{Name: "echo", Version: "1.0.0", State: "ready"}},
			}}},
		},
		"count": {
			req:  &pluginpb.HostRequest{Request: &pluginpb.HostRequest_CountUsers{}},
			want: &pluginpb.HostReply{Reply: &pluginpb.HostReply_CountUsers{CountUsers: &pluginpb.CountUsersReply{Connected: 2, Registered: 3}}},
		},
		"a page": {
			req: &pluginpb.HostRequest{Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{Limit: 2}}},
			want: &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListUsers{ListUsers: &pluginpb.ListUsersReply{
				Users: []*pluginpb.User{{UserId: "alice", Username: "Alice"}, {UserId: "bob", Username: "Bob", Connected: true, ConnectedSinceUnixMs: 5000}}, Next: "bob",
			}}},
		},
		"the last page": {
			req: &pluginpb.HostRequest{Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{Limit: 2, After: "bob"}}},
			want: &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListUsers{ListUsers: &pluginpb.ListUsersReply{
				Users: []*pluginpb.User{{UserId: "carol", Username: "Carol"}},
			}}},
		},
		"commands": {
			req: &pluginpb.HostRequest{CallId: "call-1", Request: &pluginpb.HostRequest_ListCommands{}},
			want: &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListCommands{ListCommands: &pluginpb.ListCommandsReply{
				Commands: []*pluginpb.CommandInfo{{Name: "echo", Plugin: "echo", ParamsSchema: []byte(`{}`), Examples: []*pluginpb.Example{{Params: []byte(`{"a":1}`), Result: []byte(`1`)}}}},
			}}},
		},
	} {
		got := s.Handle(t.Context(), c.req, callers)
		if info := got.GetServerInfo(); info != nil {
			if info.GetUptimeMs() <= 0 {
				t.Errorf("%s: got uptime %d", name, info.GetUptimeMs())
			}
			info.UptimeMs = 0
		}
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(caller, h.asked); diff != "" {
		t.Errorf("commands were listed for (-want +got):\n%s", diff)
	}
}

func TestListUsersWithPresence(t *testing.T) {
	s := hostsvc.New(hostsvc.Options{Plugin: "tool", Host: &host{}, Grants: []string{"users"}})
	req := &pluginpb.HostRequest{Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{ConnectedOnly: true, Limit: 3}}}
	want := &pluginpb.ListUsersReply{Users: []*pluginpb.User{{UserId: "bob", Username: "Bob", Connected: true, ConnectedSinceUnixMs: 5000}}, Next: "carol"}
	if diff := cmp.Diff(want, s.Handle(t.Context(), req, nobody).GetListUsers(), protocmp.Transform()); diff != "" {
		t.Errorf("connected users (-want +got):\n%s", diff)
	}
}

func TestBadRequests(t *testing.T) {
	s := hostsvc.New(hostsvc.Options{Plugin: "tool", Host: &host{}, Grants: []string{"users", "commands"}})
	for name, req := range map[string]*pluginpb.HostRequest{
		"nothing asked":   {},
		"too big a page":  {Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{Limit: 501}}},
		"a negative page": {Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{Limit: -1}}},
		"after no user":   {Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{After: "' OR 1"}}},
		"an unknown call": {CallId: "x", Request: &pluginpb.HostRequest_ListCommands{}},
	} {
		if said := wantError(t, s.Handle(t.Context(), req, nobody), fault.InvalidRequest); said == "" {
			t.Errorf("%s: no sentence", name)
		}
	}
}

func TestBackgroundWorkMayAskForAllButCommands(t *testing.T) {
	s := hostsvc.New(hostsvc.Options{
		Plugin: "tool", Host: &host{PluginKV: &noStore{}}, Grants: []string{"server", "users", "commands", "kv", "send", "broadcast"},
	})
	for name, req := range everyRequest() {
		code := s.Handle(t.Context(), req, nobody).GetError().GetCode()
		if refused := code == string(fault.Forbidden); refused != (name == hostsvc.CapabilityCommands) {
			t.Errorf("%s without a call: got %q", name, code)
		}
	}
}

func TestErrorsOfTheHostStayInside(t *testing.T) {
	secret := "open /var/lib/plugboard.db"
	req := &pluginpb.HostRequest{Request: &pluginpb.HostRequest_CountUsers{}}
	for name, c := range map[string]struct {
		host *host
		want fault.Code
	}{
		"any error":               {&host{err: errors.New(secret)}, fault.Internal},
		"a panic":                 {&host{panics: true}, fault.Internal},
		"a fault":                 {&host{err: fault.New(fault.UnknownUser, "Nobody.").WithCause(errors.New(secret))}, fault.UnknownUser},
		"no code of a host error": {&host{err: fault.New(fault.CommandFailed, secret)}, fault.Internal},
		"too late":                {&host{err: context.DeadlineExceeded}, fault.Overloaded},
	} {
		var logged bytes.Buffer
		s := hostsvc.New(hostsvc.Options{Plugin: "tool", Host: c.host, Grants: []string{"users"}, Logger: zerolog.New(&logged)})
		said := wantError(t, s.Handle(t.Context(), req, nobody), c.want)
		if strings.Contains(said, secret) {
			t.Errorf("%s: the plugin was told %q", name, said)
		}
		if (c.want == fault.Internal) != (logged.Len() > 0) {
			t.Errorf("%s: log is %q", name, logged.String())
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, req := range everyRequest() {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	h := &host{PluginKV: openStore(f)}
	s := hostsvc.New(hostsvc.Options{Plugin: "tool", Host: h, Grants: []string{"server", "users", "commands", "kv", "send", "broadcast"}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		req := &pluginpb.HostRequest{}
		if proto.Unmarshal(raw, req) != nil {
			return
		}
		if reply := s.Handle(context.Background(), req, nobody); reply.GetReply() == nil || reply.GetRequestId() != req.GetRequestId() || reply.GetError().GetCode() == string(fault.Internal) {
			t.Fatalf("request %v: got reply %v", req, reply)
		}
	})
}
