package hostsvc

import (
	"context"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// How many users or keys a page has where the plugin does not say, and at most.
const (
	defaultPage = 100
	maxPage     = 500
)

// pageSize is how many to answer.
func pageSize(asked int32) (int, error) {
	switch {
	case asked < 0 || asked > maxPage:
		return 0, fault.Newf(fault.InvalidRequest, "Limit is %d; want 1 to %d, or 0 for %d.", asked, maxPage, defaultPage)
	case asked == 0:
		return defaultPage, nil
	}
	return int(asked), nil
}

func (s *Service) serverInfo(ctx context.Context) (*pluginpb.HostReply, error) {
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
	limit, err := pageSize(req.GetLimit())
	if err != nil {
		return nil, err
	}
	if after := req.GetAfter(); after != "" && !wire.ValidUserID(after) {
		return nil, fault.New(fault.InvalidRequest, "After is no user id; want the next of the page before.")
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
	if len(users) == 0 {
		return nil, nil
	}
	ids := make([]string, 0, len(users))
	for _, u := range users {
		ids = append(ids, u.ID)
	}
	return s.host.ConnectedSince(ctx, ids)
}

// listCommands answers for the caller of the call on whose behalf the plugin
// asks, so that a plugin cannot learn more than its caller may.
func (s *Service) listCommands(ctx context.Context, callID string, callers Callers) (*pluginpb.HostReply, error) {
	if callID == "" {
		return nil, fault.New(fault.Forbidden, "Commands are listed for the caller of a call, and this request names none.")
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
