package sdk

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Host asks the server, each request behind the capability its method names. The
// methods may be called from any goroutine. They wait until the server answers,
// ctx ends or 30 seconds are over, and fail with a [*HostError] when it refuses.
// The zero Host answers everything with [ErrNoServer].
type Host struct {
	session requester
	callID  string
}

// requester carries one request to the server and its reply back.
type requester interface {
	request(ctx context.Context, need Capability, req *pluginpb.HostRequest) (*pluginpb.HostReply, error)
}

func (h Host) ask(ctx context.Context, need Capability, req *pluginpb.HostRequest) (*pluginpb.HostReply, error) {
	if h.session == nil {
		return nil, ErrNoServer
	}
	req.CallId = h.callID
	return h.session.request(ctx, need, req)
}

// errReply is what a reply of another kind than the request fails with: a server
// that breaks the contract.
func errReply(reply *pluginpb.HostReply) error {
	return fmt.Errorf("ask the server: reply of the unexpected kind %T", reply.GetReply())
}

// ServerInfo is what the server tells of itself.
type ServerInfo struct {
	Name    string
	Version string
	// StartedAt is by the server's clock, Uptime by its monotonic one.
	StartedAt time.Time
	Uptime    time.Duration
	GoVersion string
	// Protocol is the client protocol, "plugboard.v1".
	Protocol string
	// Connections are open now.
	Connections int
	Plugins     []PluginState
}

// PluginState is one plugin of the server: a state of docs/plugin.md §3.
type PluginState struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
}

// ServerInfo needs [CapabilityServer].
func (h Host) ServerInfo(ctx context.Context) (ServerInfo, error) {
	reply, err := h.ask(ctx, CapabilityServer, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_ServerInfo{ServerInfo: &pluginpb.ServerInfoRequest{}},
	})
	if err != nil {
		return ServerInfo{}, err
	}
	r := reply.GetServerInfo()
	if r == nil {
		return ServerInfo{}, errReply(reply)
	}
	info := ServerInfo{
		Name:        r.GetName(),
		Version:     r.GetVersion(),
		StartedAt:   timeOf(r.GetStartedAtUnixMs()),
		Uptime:      millis(r.GetUptimeMs()),
		GoVersion:   r.GetGoVersion(),
		Protocol:    r.GetProtocol(),
		Connections: int(r.GetConnections()),
	}
	for _, p := range r.GetPlugins() {
		info.Plugins = append(info.Plugins, PluginState{Name: p.GetName(), Version: p.GetVersion(), State: p.GetState()})
	}
	return info, nil
}

// UserCount counts the users with an open connection, and all that exist.
type UserCount struct {
	Connected  int `json:"connected" jsonschema:"users with at least one open connection"`
	Registered int `json:"registered" jsonschema:"users that exist"`
}

// CountUsers needs [CapabilityUsers].
func (h Host) CountUsers(ctx context.Context) (UserCount, error) {
	reply, err := h.ask(ctx, CapabilityUsers, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_CountUsers{CountUsers: &pluginpb.CountUsersRequest{}},
	})
	if err != nil {
		return UserCount{}, err
	}
	r := reply.GetCountUsers()
	if r == nil {
		return UserCount{}, errReply(reply)
	}
	return UserCount{Connected: int(r.GetConnected()), Registered: int(r.GetRegistered())}, nil
}

// User is one user of the server.
type User struct {
	UserID    string `json:"user_id"`
	Username  string `json:"username"`
	Connected bool   `json:"connected"`
	// ConnectedSince is zero for a user who is not connected.
	ConnectedSince time.Time `json:"connected_since,omitzero"`
}

// UserPage is a part of the list of users. Next goes into [After] for the following
// part; it is empty on the last.
type UserPage struct {
	Users []User `json:"users"`
	Next  string `json:"next,omitempty"`
}

// ListOption narrows [Host.ListUsers] and [KV.List].
type ListOption func(*listOptions)

type listOptions struct {
	limit         int32
	after         string
	connectedOnly bool
}

// Limit asks for at most n, 1 to 500 for one page of users.
func Limit(n int) ListOption {
	return func(o *listOptions) { o.limit = int32(min(max(n, 0), 1<<30)) }
}

// After skips everything up to and including this user id or key.
func After(last string) ListOption { return func(o *listOptions) { o.after = last } }

// ConnectedOnly leaves out users without an open connection. It means nothing to
// [KV.List].
func ConnectedOnly() ListOption { return func(o *listOptions) { o.connectedOnly = true } }

func listOf(options []ListOption) (o listOptions) {
	for _, option := range options {
		option(&o)
	}
	return o
}

// ListUsers returns one page of users by user id. It needs [CapabilityUsers].
func (h Host) ListUsers(ctx context.Context, options ...ListOption) (UserPage, error) {
	o := listOf(options)
	reply, err := h.ask(ctx, CapabilityUsers, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_ListUsers{ListUsers: &pluginpb.ListUsersRequest{
			Limit: o.limit, After: o.after, ConnectedOnly: o.connectedOnly,
		}},
	})
	if err != nil {
		return UserPage{}, err
	}
	r := reply.GetListUsers()
	if r == nil {
		return UserPage{}, errReply(reply)
	}
	page := UserPage{Next: r.GetNext()}
	for _, u := range r.GetUsers() {
		page.Users = append(page.Users, User{
			UserID: u.GetUserId(), Username: u.GetUsername(),
			Connected: u.GetConnected(), ConnectedSince: timeOf(u.GetConnectedSinceUnixMs()),
		})
	}
	return page, nil
}

// CommandInfo describes one command as GET /commands does (docs/protocol.md §2).
type CommandInfo = wire.CommandInfo

// ListCommands lists what the calling user may run, by name. It needs
// [CapabilityCommands] and a call: background work is refused.
func (h Host) ListCommands(ctx context.Context) ([]CommandInfo, error) {
	reply, err := h.ask(ctx, CapabilityCommands, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_ListCommands{ListCommands: &pluginpb.ListCommandsRequest{}},
	})
	if err != nil {
		return nil, err
	}
	r := reply.GetListCommands()
	if r == nil {
		return nil, errReply(reply)
	}
	commands := make([]CommandInfo, 0, len(r.GetCommands()))
	for _, c := range r.GetCommands() {
		info := CommandInfo{
			Name: c.GetName(), Plugin: c.GetPlugin(), Version: c.GetVersion(),
			Summary: c.GetSummary(), Description: c.GetDescription(),
			Params: c.GetParamsSchema(), Result: c.GetResultSchema(),
			Streaming: c.GetStreaming(), SignatureRequired: c.GetSignatureRequired(),
		}
		for _, e := range c.GetExamples() {
			info.Examples = append(info.Examples, wire.CommandExample{Params: e.GetParams(), Result: e.GetResult()})
		}
		commands = append(commands, info)
	}
	return commands, nil
}

// Send stores a message from plugin:<name> in a user's mailbox; once it returns nil
// the message survives a crash. It is not sealed: the server reads it, and the user's
// client shows it as a plugin's. It needs [CapabilitySend], and fails with
// [ErrUnknownUser] where there is none, and with a [HostError] of the code
// mailbox_full, too_large (a message fits into a frame, 64 KiB as a rule) or
// rate_limited, whose RetryAfter says how long to wait.
func (h Host) Send(ctx context.Context, userID, text string) error {
	if err := validText(userID, text); err != nil {
		return err
	}
	reply, err := h.ask(ctx, CapabilitySend, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_Send{Send: &pluginpb.SendRequest{UserId: userID, Text: text}},
	})
	if err == nil && reply.GetSend() == nil {
		err = errReply(reply)
	}
	return err
}

// Broadcast sends a message to everybody who is connected now; it is not stored. It
// needs [CapabilityBroadcast], and fails with a [HostError] of the code too_large or
// rate_limited as Send does.
func (h Host) Broadcast(ctx context.Context, text string) error {
	if err := validText(text); err != nil {
		return err
	}
	reply, err := h.ask(ctx, CapabilityBroadcast, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_Broadcast{Broadcast: &pluginpb.BroadcastRequest{Text: text}},
	})
	if err == nil && reply.GetBroadcast() == nil {
		err = errReply(reply)
	}
	return err
}

// validText refuses what protobuf cannot carry, before it would break the session.
func validText(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("ask the server: %q is not valid UTF-8", shorten(s, 64))
		}
	}
	return nil
}

// timeOf is zero for 0, which the contract uses for "none".
func timeOf(unixMS int64) time.Time {
	if unixMS == 0 {
		return time.Time{}
	}
	return time.UnixMilli(unixMS).UTC()
}

// maxMillis keeps a foreign number of milliseconds from overflowing a Duration.
const maxMillis = int64(100 * 365 * 24 * time.Hour / time.Millisecond)

func millis(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), maxMillis)) * time.Millisecond
}
