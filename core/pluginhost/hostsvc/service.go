package hostsvc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// The capabilities of docs/plugin.md §2.
const (
	CapabilityServer    = "server"
	CapabilityUsers     = "users"
	CapabilityCommands  = "commands"
	CapabilityKV        = "kv"
	CapabilitySend      = "send"
	CapabilityBroadcast = "broadcast"
)

const (
	defaultPage = 100
	maxPage     = 500
)

// ValidCapability reports whether name is a capability of the contract.
func ValidCapability(name string) bool {
	switch name {
	case CapabilityServer, CapabilityUsers, CapabilityCommands, CapabilityKV, CapabilitySend, CapabilityBroadcast:
		return true
	}
	return false
}

// Presence is an optional ability of the host services: who of some users is
// connected, and since when. Without it the list of users tells nobody as
// connected, and asking for the connected ones only is refused.
type Presence interface {
	// ConnectedSince returns an entry for each of userIDs that has an open
	// connection, with the begin of the oldest.
	ConnectedSince(ctx context.Context, userIDs []string) (map[string]time.Time, error)
}

// Callers finds the caller of a call in flight of the same plugin.
type Callers func(callID string) (core.Caller, bool)

// Options configure a [Service]. Plugin and Host are required.
type Options struct {
	// Plugin is whose requests are answered.
	Plugin string
	// Grants are the capabilities that the operator granted to it.
	Grants []string
	// Host does what was asked for.
	Host core.HostServices
	// Logger takes what an operator should see.
	Logger zerolog.Logger
}

// Service answers the requests of one plugin. It may be used from any goroutine.
type Service struct {
	plugin   string
	grants   map[string]bool
	host     core.HostServices
	presence Presence // nil where the host does not have it
	logger   zerolog.Logger
}

// New makes the service of one plugin.
func New(o Options) *Service {
	s := &Service{plugin: o.Plugin, grants: make(map[string]bool, len(o.Grants)), host: o.Host, logger: o.Logger}
	for _, g := range o.Grants {
		s.grants[g] = true
	}
	s.presence, _ = o.Host.(Presence)
	return s
}

// Handle answers one request. It always returns a reply, blocks no longer than
// ctx, and turns a panic of the host into internal: this is the door behind which
// a mistake of ours costs one request.
func (s *Service) Handle(ctx context.Context, req *pluginpb.HostRequest, callers Callers) (reply *pluginpb.HostReply) {
	defer func() {
		if p := recover(); p != nil {
			reply = s.refuse(req, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	reply, err := s.answer(ctx, req, callers)
	if err != nil {
		return s.refuse(req, err)
	}
	reply.RequestId = req.GetRequestId()
	return reply
}

func (s *Service) answer(ctx context.Context, req *pluginpb.HostRequest, callers Callers) (*pluginpb.HostReply, error) {
	switch r := req.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		return s.serverInfo(ctx)
	case *pluginpb.HostRequest_CountUsers:
		return s.countUsers(ctx)
	case *pluginpb.HostRequest_ListUsers:
		return s.listUsers(ctx, r.ListUsers)
	case *pluginpb.HostRequest_ListCommands:
		return s.listCommands(ctx, req.GetCallId(), callers)
	case *pluginpb.HostRequest_KvGet, *pluginpb.HostRequest_KvPut, *pluginpb.HostRequest_KvDelete, *pluginpb.HostRequest_KvList:
		return nil, notOffered(CapabilityKV)
	case *pluginpb.HostRequest_Send:
		return nil, notOffered(CapabilitySend)
	case *pluginpb.HostRequest_Broadcast:
		return nil, notOffered(CapabilityBroadcast)
	}
	return nil, fault.New(fault.InvalidRequest, "The request is of a kind that this server does not know.")
}

// Offered reports whether this server has what the capability stands for.
func Offered(capability string) bool {
	switch capability {
	case CapabilityServer, CapabilityUsers, CapabilityCommands:
		return true
	}
	return false
}

func notOffered(capability string) error {
	return fault.Newf(fault.Forbidden, "This server does not grant the capability %q to any plugin.", capability)
}

func (s *Service) need(capability string) error {
	if s.grants[capability] {
		return nil
	}
	return fault.Newf(fault.Forbidden, "Plugin %q was not granted the capability %q; its operator can add it to plugins.grants.%s.", s.plugin, capability, s.plugin)
}

// refuse turns an error into the reply that carries it; the text of an internal
// one stays in the log.
func (s *Service) refuse(req *pluginpb.HostRequest, err error) *pluginpb.HostReply {
	var shown, known *fault.Error
	switch {
	case errors.As(err, &known) && known.Code != fault.Internal:
		shown = known
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		shown = fault.New(fault.Overloaded, "The server did not answer the request in time; try again.").WithRetryAfter(time.Second)
	default:
		reference := uuid.NewString()
		s.logger.Error().Err(err).Str("plugin", s.plugin).Str("reference", reference).Msg("Host request failed internally")
		shown = fault.From(errors.New("host request failed"), reference)
	}
	return &pluginpb.HostReply{RequestId: req.GetRequestId(), Reply: &pluginpb.HostReply_Error{Error: &pluginpb.HostError{
		Code: string(shown.Code), Message: shown.Message, RetryAfterMs: shown.RetryAfter.Milliseconds(),
	}}}
}

func (s *Service) serverInfo(ctx context.Context) (*pluginpb.HostReply, error) {
	if err := s.need(CapabilityServer); err != nil {
		return nil, err
	}
	info, err := s.host.ServerInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("server info: %w", err)
	}
	out := &pluginpb.ServerInfoReply{
		Name: info.Name, Version: info.Version, StartedAtUnixMs: info.StartedAt.UnixMilli(), UptimeMs: time.Since(info.StartedAt).Milliseconds(),
		GoVersion: info.GoVersion, Protocol: info.Protocol, Connections: int64(info.Connections),
	}
	for _, p := range info.Plugins {
		out.Plugins = append(out.Plugins, &pluginpb.PluginState{Name: p.Name, Version: p.Version, State: p.State})
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ServerInfo{ServerInfo: out}}, nil
}

func (s *Service) countUsers(ctx context.Context) (*pluginpb.HostReply, error) {
	if err := s.need(CapabilityUsers); err != nil {
		return nil, err
	}
	n, err := s.host.CountUsers(ctx)
	if err != nil {
		return nil, fmt.Errorf("count users: %w", err)
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_CountUsers{CountUsers: &pluginpb.CountUsersReply{
		Connected: int64(n.Connected), Registered: int64(n.Registered),
	}}}, nil
}

// listUsers answers one page. With connected_only a page may be shorter than
// asked for although more follow: next alone says where the list ends.
func (s *Service) listUsers(ctx context.Context, req *pluginpb.ListUsersRequest) (*pluginpb.HostReply, error) {
	if err := s.need(CapabilityUsers); err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit < 0 || limit > maxPage:
		return nil, fault.Newf(fault.InvalidRequest, "Limit is %d; want 1 to %d, or 0 for %d.", limit, maxPage, defaultPage)
	case limit == 0:
		limit = defaultPage
	}
	if after := req.GetAfter(); after != "" && !wire.ValidUserID(after) {
		return nil, fault.New(fault.InvalidRequest, "After is no user id; want the next of the page before.")
	}
	if req.GetConnectedOnly() && s.presence == nil {
		return nil, fault.New(fault.InvalidRequest, "This server cannot list only the connected users.")
	}
	users, err := s.host.ListUsers(ctx, req.GetAfter(), limit)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	since, err := s.connected(ctx, users)
	if err != nil {
		return nil, fmt.Errorf("ask who is connected: %w", err)
	}
	out := &pluginpb.ListUsersReply{}
	for _, u := range users {
		at, connected := since[u.ID]
		if req.GetConnectedOnly() && !connected {
			continue
		}
		user := &pluginpb.User{UserId: u.ID, Username: u.Username, Connected: connected}
		if connected {
			user.ConnectedSinceUnixMs = at.UnixMilli()
		}
		out.Users = append(out.Users, user)
	}
	if len(users) == limit {
		out.Next = users[len(users)-1].ID
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListUsers{ListUsers: out}}, nil
}

func (s *Service) connected(ctx context.Context, users []core.User) (map[string]time.Time, error) {
	if s.presence == nil || len(users) == 0 {
		return nil, nil
	}
	ids := make([]string, 0, len(users))
	for _, u := range users {
		ids = append(ids, u.ID)
	}
	return s.presence.ConnectedSince(ctx, ids)
}

// listCommands answers for the caller of the call on whose behalf the plugin
// asks, so that a plugin cannot learn more than its caller may.
func (s *Service) listCommands(ctx context.Context, callID string, callers Callers) (*pluginpb.HostReply, error) {
	if err := s.need(CapabilityCommands); err != nil {
		return nil, err
	}
	if callID == "" {
		return nil, fault.New(fault.InvalidRequest, "Commands are listed for a caller: name the call on whose behalf you ask.")
	}
	caller, ok := callers(callID)
	if !ok {
		return nil, fault.New(fault.InvalidRequest, "No call of this id is in flight.")
	}
	list, err := s.host.ListCommands(ctx, caller)
	if err != nil {
		return nil, fmt.Errorf("list commands: %w", err)
	}
	out := &pluginpb.ListCommandsReply{}
	for i := range list {
		out.Commands = append(out.Commands, commandInfo(&list[i]))
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_ListCommands{ListCommands: out}}, nil
}

func commandInfo(c *wire.CommandInfo) *pluginpb.CommandInfo {
	info := &pluginpb.CommandInfo{
		Name: c.Name, Plugin: c.Plugin, Version: c.Version, Summary: c.Summary, Description: c.Description,
		ParamsSchema: c.Params, ResultSchema: c.Result, Streaming: c.Streaming, SignatureRequired: c.SignatureRequired,
	}
	for _, e := range c.Examples {
		info.Examples = append(info.Examples, &pluginpb.Example{Params: e.Params, Result: e.Result})
	}
	return info
}
