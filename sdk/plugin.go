package sdk

import (
	"context"
	"log/slog"
	"slices"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// Plugin describes a plugin to [Serve]. It is read once and not changed, except
// for what Settings points to.
type Plugin struct {
	// Name must equal the executable's file name: ^[a-z][a-z0-9]{0,31}$.
	Name string
	// Version is a full semantic version without a leading v, such as 1.4.0.
	Version string
	// Summary says in one line of at most 512 bytes what the plugin is for.
	Summary string
	// Homepage is a URL, or empty.
	Homepage string
	// License is an SPDX expression such as Apache-2.0, or empty.
	License string
	// Needs lists what the plugin asks of the server. The operator sees the list and
	// grants all of it or less; an ungranted request fails with [ErrForbidden].
	Needs []Capability
	// Commands are made with [Handle] and [Stream]: 1 to 256.
	Commands []Command
	// Settings is nil, or a pointer to a struct that may hold preset values. The
	// operator's settings are decoded into it before the first call and before
	// Background, so both may read it without a lock. A field without omitempty or
	// omitzero whose preset is zero is required. If it has a method
	// Validate() error, that is asked too, and its text is shown to the operator.
	Settings any
	// Background is nil, or work that runs beside the calls in a goroutine of its own.
	// ctx ends when the plugin has drained or lost its server; return then. Returning
	// nil earlier is fine. An error or a panic before that ends the session, and the
	// server starts the plugin anew with a growing delay.
	Background func(ctx context.Context, b Background) error
}

// Background is what work outside of any call is given.
type Background struct {
	Log *slog.Logger
	// Host asks on the plugin's own behalf. ListCommands, which lists what a call's
	// caller may run, is refused here.
	Host Host
}

// Capability names a group of requests to the server (docs/plugin.md §2).
type Capability string

// The capabilities that exist.
const (
	// CapabilityServer allows [Host.ServerInfo].
	CapabilityServer Capability = "server"
	// CapabilityUsers allows [Host.CountUsers] and [Host.ListUsers].
	CapabilityUsers Capability = "users"
	// CapabilityCommands allows [Host.ListCommands].
	CapabilityCommands Capability = "commands"
	// CapabilityKV allows [Host.KV].
	CapabilityKV Capability = "kv"
	// CapabilitySend allows [Host.Send].
	CapabilitySend Capability = "send"
	// CapabilityBroadcast allows [Host.Broadcast].
	CapabilityBroadcast Capability = "broadcast"
	// CapabilityNet lets the plugin's process use the network where the server
	// confines it. No method belongs to it: nothing is asked of the server.
	CapabilityNet Capability = "net"
)

func (c Capability) valid() bool {
	switch c {
	case CapabilityServer, CapabilityUsers, CapabilityCommands, CapabilityKV, CapabilitySend, CapabilityBroadcast, CapabilityNet:
		return true
	}
	return false
}

// Call is one run of a command as its function sees it.
type Call struct {
	// ID is unique among the calls in flight of this process; it stands in the
	// server's log and in its record of commands.
	ID string
	// Command is the full name, so that one function can serve several.
	Command string
	// Caller is who asked.
	Caller Caller
	// SignatureVerified tells that the client signed this very request and the server
	// verified it.
	SignatureVerified bool
	// Traceparent and Tracestate are the W3C Trace Context of the request, or empty: the
	// values of the two HTTP headers, to be sent along with what the command asks of
	// other services.
	Traceparent, Tracestate string
	// Log writes to the server's log, marked with plugin and call. It never blocks:
	// records are dropped, and counted, when the server does not keep up.
	Log *slog.Logger
	// Host asks the server on the caller's behalf.
	Host Host
}

// Caller is who a call is made for, as the server authenticated them. No client
// can choose any of it but Username.
type Caller struct {
	UserID string
	// Username is for display only: two users may share it.
	Username   string
	Roles      []string
	SessionID  string
	RemoteAddr string
	// Surface is how the call came in: websocket, http, mcp, cli, …
	Surface string
}

// HasRole reports whether the operator gave the caller this role.
func (c Caller) HasRole(role string) bool {
	return slices.Contains(c.Roles, role)
}

func callerFrom(c *pluginpb.Caller) Caller {
	return Caller{
		UserID:     c.GetUserId(),
		Username:   c.GetUsername(),
		Roles:      c.GetRoles(),
		SessionID:  c.GetSessionId(),
		RemoteAddr: c.GetRemoteAddress(),
		Surface:    c.GetSurface(),
	}
}
