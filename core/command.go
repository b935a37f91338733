package core

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/sdk/wire"
)

// The surfaces by which a call may come in.
const (
	SurfaceWebSocket = "websocket"
	SurfaceHTTP      = "http"
)

// Command is what a plugin said of one of its commands when it described itself.
// It is immutable once published.
type Command struct {
	Name          string // plugin, or plugin.command
	Plugin        string
	PluginVersion string
	Summary       string
	Description   string
	ParamsSchema  []byte // JSON Schema 2020-12
	ResultSchema  []byte // or nil
	Examples      []Example
	Streaming     bool
	Idempotent    bool
	ReadOnly      bool
	Destructive   bool
	// Timeout is the author's default; zero takes the server's.
	Timeout time.Duration
	// Untimed: no time limit at all, whoever set one. The plugin is under a debugger.
	Untimed bool
}

// Example is one worked example of a command, raw JSON.
type Example struct {
	Params, Result []byte
}

// Caller is who a call is made for. It comes from the session, never from a
// frame.
type Caller struct {
	UserID     string
	Username   string
	Roles      []string
	SessionID  string
	RemoteAddr string
	Surface    string
}

// Call is one run of a command. Params are validated against the command's
// schema before an Invoker sees them.
type Call struct {
	ID                string
	Command           string
	Params            []byte
	Caller            Caller
	SignatureVerified bool
	// SignedDigest is SHA-256 of the signed transcript where SignatureVerified: it
	// tells a replay of the same id from a conflict.
	SignedDigest [32]byte
}

// Progress is one part of a streaming answer.
type Progress struct {
	Data    []byte   // raw JSON
	Percent *float64 // 0 … 100, nil where the author gave none
}

// Invoker runs calls: a plugin slot, or in tests a function.
type Invoker interface {
	// Invoke runs one call and returns its result as raw JSON. It honours ctx's
	// deadline and cancellation, calls progress (which must not block) from one
	// goroutine at a time and never after it has returned. Errors are *fault.Error
	// where the code is known.
	Invoke(ctx context.Context, call *Call, progress func(Progress)) ([]byte, error)
}

// Catalogue is where a plugin's commands are published. Publish replaces all of
// the plugin's former commands in one step; Withdraw removes them. Neither blocks.
type Catalogue interface {
	Publish(plugin string, commands []Command, invoker Invoker) error
	Withdraw(plugin string)
}

// ServerInfo is what a plugin with the capability "server" may know.
type ServerInfo struct {
	Name        string
	Version     string
	Protocol    string
	StartedAt   time.Time
	GoVersion   string
	Connections int
	Plugins     []PluginState
}

// ServerName is the server's product name, in the welcome frame and serverinfo.
const ServerName = "plugboard"

// UserCount is what CountUsers answers.
type UserCount struct {
	Connected, Registered int
}

// PluginSenderPrefix begins the sender of every message from a plugin. No user id
// has a colon in it, so no user can pass for one.
const PluginSenderPrefix = "plugin:"

// PluginSender is whom a plugin's messages are from.
func PluginSender(plugin string) string { return PluginSenderPrefix + plugin }

// SentMessage says under what a plugin's message was committed.
type SentMessage struct {
	ID  string
	Seq uint64 // in the recipient's mailbox
}

// Reach is how far a broadcast came, in connections.
type Reach struct {
	// Queued for so many, Dropped for so many whose queue was full.
	Queued, Dropped int
}

// HostServices is what plugins may ask of the server, each behind a capability
// that the operator granted. The plugin that is named is the one whose session the
// request came on. Errors are *fault.Error where the code is known.
type HostServices interface {
	ServerInfo(ctx context.Context) (ServerInfo, error)
	CountUsers(ctx context.Context) (UserCount, error)
	// ListUsers is a page of registered users, by user_id behind after.
	ListUsers(ctx context.Context, after string, limit int) ([]User, error)
	// ConnectedSince returns an entry for each of userIDs that has an open
	// connection, with the begin of the oldest.
	ConnectedSince(ctx context.Context, userIDs []string) (map[string]time.Time, error)
	// ListCommands is what caller may run.
	ListCommands(ctx context.Context, caller Caller) ([]wire.CommandInfo, error)
	// PluginKV is what the plugins keep; its errors are the store's.
	PluginKV
	// Send stores a message from the plugin, which is not sealed, in a user's mailbox
	// and returns when it is committed: unknown_user, mailbox_full, too_large for what
	// does not fit into a frame, and those of the store.
	Send(ctx context.Context, plugin, userID, text string) (SentMessage, error)
	// Broadcast queues a message from the plugin for every connection there is now;
	// too_large for what does not fit into a frame.
	Broadcast(ctx context.Context, plugin, text string) (Reach, error)
}

// CommandRun is one line of the command log. It holds no params and no result.
type CommandRun struct {
	ID, Command, Plugin string
	UserID, SessionID   string
	Surface             string
	RemoteAddr          string
	Outcome             string // "ok" or a fault code
	StartedAt           time.Time
	Duration            time.Duration
	ParamsBytes         int
	ResultBytes         int
	// Params is nil unless the command's policy says log_params.
	Params []byte
}
