package core

import (
	"context"
	"errors"
	"time"
)

// PluginState is one plugin as operators and serverinfo see it.
type PluginState struct {
	Name    string
	Version string // empty until it has described itself
	State   string // discovered, starting, ready, draining, stopped, failed, crashed, backoff, quarantined
	Error   string // the last one, for operators only
}

// PluginDetail is everything that an operator may know of a plugin.
type PluginDetail struct {
	PluginState
	Summary, Homepage, License string
	// File is where it came from, SHA256 (hexadecimal) what runs. An attached plugin
	// has neither.
	File, SHA256 string
	// PID is 0 while no process runs, Since when the one that does became ready.
	PID   int
	Since time.Time
	// Starts counts processes that became ready, Crashes those that ended unasked.
	Starts, Crashes int
	// Attached: it runs under somebody's debugger, and nothing is timed.
	Attached bool
	// Sandbox is how it is confined: full, partial or none; SandboxMissing is what
	// this machine could not enforce.
	Sandbox        string
	SandboxMissing []string
	// Needs is what it asks for, Grants what it got, Wanted what it asked the server
	// for at work without having been granted it.
	Needs, Grants, Wanted []string
	// InFlight are calls that it works on, Waiting those that wait for a place.
	InFlight, Waiting int
	Commands          []Command
	// Former is the version that Rollback would bring back.
	Former *PluginVersion
	// RolledBack says why the file as it is now is not what runs, or is empty.
	RolledBack string
	// History is the newest crashes first, a few of them.
	History []PluginCrash
}

// PluginVersion names one binary of a plugin.
type PluginVersion struct {
	Version string
	SHA256  string
	// Path is the server's private copy of it.
	Path string
}

// PluginCrash is one unasked end of a plugin's process.
type PluginCrash struct {
	At      time.Time
	Version string
	How     string // crashed or hung
	Status  string // the exit status in words
	Uptime  time.Duration
	Stderr  []string // the last lines
	Calls   []string // those in flight, "command id"
	Dump    string   // the goroutines of a hung Go plugin
}

// PluginsOverview is the plugin host as operators see it.
type PluginsOverview struct {
	Dir      string
	LockFile string // where plugins.lock is, or would be
	Trust    string // owned or locked
	Sandbox  string // auto, require or off
	Plugins  []PluginDetail
}

// PluginAttachment is where a plugin that somebody else started, under a debugger
// for example, listens (go-plugin's reattach).
type PluginAttachment struct {
	Network string // unix
	Address string
	PID     int
}

// ErrNoPlugin says that there is no plugin of this name; ErrNoFormer that no former
// version of it is kept; ErrNotAttached that it is not attached.
var (
	ErrNoPlugin    = errors.New("no such plugin")
	ErrNoFormer    = errors.New("no former version is kept")
	ErrNotAttached = errors.New("plugin is not attached")
)

// PluginOperator is what operators may do with plugins. All methods may be called
// from any goroutine. Their errors are for operators and may be shown to them.
type PluginOperator interface {
	// Overview is all plugins, by name.
	Overview() PluginsOverview
	// Plugin is one of them; ErrNoPlugin.
	Plugin(name string) (PluginDetail, error)
	// Reload looks at the plugins directory now and returns when what was found
	// there has been started, replaced or removed, or has failed, or when ctx ends.
	Reload(ctx context.Context) error
	// Reset gives a plugin a clean slate: out of quarantine, failure or a roll-back,
	// in a new process from its file as it is now. It does not wait; ErrNoPlugin.
	Reset(name string) error
	// Rollback puts the former version in the place of the one that runs, and
	// returns when it has, with the version that runs then. The file in the plugins
	// directory stays as it is; a later change of it counts again. ErrNoPlugin,
	// ErrNoFormer, or why the former version does not start.
	Rollback(ctx context.Context, name string) (PluginVersion, error)
	// Attach has a plugin that somebody else started serve under this name, in the
	// place of one from a file or beside them, until it ends or Detach. It returns
	// when the plugin serves, or with the reason why it does not.
	Attach(ctx context.Context, name string, at PluginAttachment) error
	// Detach lets go of an attached plugin without ending it; the file of this name
	// serves again, where there is one. ErrNoPlugin, ErrNotAttached.
	Detach(ctx context.Context, name string) error
}

// ErrReplaced is an Invoker's answer to a call of a command as it was published
// once and is no more: look it up in the catalogue again. The call has not run.
var ErrReplaced = errors.New("command was replaced")
