package server

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// maxUsersPage bounds one page of ListUsers.
const maxUsersPage = 500

// hostServices is what the server tells plugins that were granted to ask.
type hostServices struct{ *Server }

// ServerInfo describes this server as it is now.
func (h hostServices) ServerInfo(context.Context) (core.ServerInfo, error) {
	connections, _ := h.hub.Count()
	return core.ServerInfo{
		Name: core.ServerName, Version: h.version, Protocol: wire.Protocol, StartedAt: h.started,
		GoVersion: goVersion(), Connections: connections, Plugins: h.plugins.States(),
	}, nil
}

// CountUsers counts who is connected to this node and who is registered.
func (h hostServices) CountUsers(ctx context.Context) (core.UserCount, error) {
	registered, err := h.store.CountUsers(ctx)
	if err != nil {
		return core.UserCount{}, core.StoreFault(err)
	}
	_, connected := h.hub.Count()
	return core.UserCount{Connected: connected, Registered: registered}, nil
}

// ListUsers is a page of registered users.
func (h hostServices) ListUsers(ctx context.Context, after string, limit int) ([]core.User, error) {
	if limit < 1 || limit > maxUsersPage {
		limit = maxUsersPage
	}
	users, err := h.store.ListUsers(ctx, after, limit)
	return users, core.StoreFault(err)
}

// ListCommands is what the caller may run.
func (h hostServices) ListCommands(_ context.Context, caller core.Caller) ([]wire.CommandInfo, error) {
	return h.commands.List(caller), nil
}

// ConnectedSince says who of some users is connected to this node, and since when.
func (h hostServices) ConnectedSince(_ context.Context, userIDs []string) (map[string]time.Time, error) {
	since := make(map[string]time.Time, len(userIDs))
	for _, id := range userIDs {
		if sessions := h.hub.Of(id); len(sessions) > 0 {
			since[id] = sessions[0].ConnectedAt
		}
	}
	return since, nil
}
