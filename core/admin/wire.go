package admin

import (
	"encoding/json"
	"time"

	"github.com/plugboard/plugboard/core"
)

// Overview is the answer of GET /plugins.
type Overview struct {
	Dir      string   `json:"dir"`
	LockFile string   `json:"lock_file"`
	Trust    string   `json:"trust"`
	Sandbox  string   `json:"sandbox"`
	Plugins  []Plugin `json:"plugins"`
}

// Plugin is the answer of GET /plugins/{name}: core.PluginDetail as it travels.
type Plugin struct {
	Name           string    `json:"name"`
	Version        string    `json:"version,omitempty"`
	State          string    `json:"state"`
	Error          string    `json:"error,omitempty"`
	Summary        string    `json:"summary,omitempty"`
	Homepage       string    `json:"homepage,omitempty"`
	License        string    `json:"license,omitempty"`
	File           string    `json:"file,omitempty"`
	SHA256         string    `json:"sha256,omitempty"`
	PID            int       `json:"pid,omitempty"`
	Since          time.Time `json:"since,omitzero"`
	Starts         int       `json:"starts"`
	Crashes        int       `json:"crashes"`
	Attached       bool      `json:"attached,omitempty"`
	Sandbox        string    `json:"sandbox,omitempty"`
	SandboxMissing []string  `json:"sandbox_missing,omitempty"`
	Needs          []string  `json:"needs,omitempty"`
	Grants         []string  `json:"grants,omitempty"`
	Wanted         []string  `json:"wanted,omitempty"`
	InFlight       int       `json:"in_flight"`
	Waiting        int       `json:"waiting"`
	Commands       []Command `json:"commands,omitempty"`
	Former         *Version  `json:"former,omitempty"`
	RolledBack     string    `json:"rolled_back,omitempty"`
	History        []Crash   `json:"history,omitempty"`
}

// Command is one command of a plugin.
type Command struct {
	Name        string          `json:"name"`
	Summary     string          `json:"summary"`
	Description string          `json:"description,omitempty"`
	Params      json.RawMessage `json:"params"`
	Result      json.RawMessage `json:"result,omitempty"`
	Streaming   bool            `json:"streaming,omitempty"`
	Idempotent  bool            `json:"idempotent,omitempty"`
	ReadOnly    bool            `json:"read_only,omitempty"`
	Destructive bool            `json:"destructive,omitempty"`
	TimeoutMS   int64           `json:"timeout_ms,omitempty"`
}

// Version names one binary of a plugin.
type Version struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	// Path is the server's private copy of it.
	Path string `json:"path,omitempty"`
}

// Crash is one unasked end of a plugin's process.
type Crash struct {
	At       time.Time `json:"at"`
	Version  string    `json:"version"`
	How      string    `json:"how"`
	Status   string    `json:"status"`
	UptimeMS int64     `json:"uptime_ms"`
	Stderr   []string  `json:"stderr,omitempty"`
	Calls    []string  `json:"calls,omitempty"`
	Dump     string    `json:"dump,omitempty"`
}

// Attachment is the body of POST /plugins/{name}/attach.
type Attachment struct {
	Network string `json:"network"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
}

// Problem is the answer of a request that was refused (RFC 9457).
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"` // denied, not_found, conflict or failed
	Detail string `json:"detail"`
}

// Error is the problem as an error.
func (p *Problem) Error() string { return p.Detail }

func overviewOf(o core.PluginsOverview) Overview {
	out := Overview{Dir: o.Dir, LockFile: o.LockFile, Trust: o.Trust, Sandbox: o.Sandbox, Plugins: []Plugin{}}
	for _, d := range o.Plugins {
		out.Plugins = append(out.Plugins, pluginOf(d))
	}
	return out
}

func pluginOf(d core.PluginDetail) Plugin {
	p := Plugin{
		Name: d.Name, Version: d.Version, State: d.State, Error: d.Error, Summary: d.Summary, Homepage: d.Homepage, License: d.License,
		File: d.File, SHA256: d.SHA256, PID: d.PID, Since: d.Since.UTC(), Starts: d.Starts, Crashes: d.Crashes, Attached: d.Attached,
		Sandbox: d.Sandbox, SandboxMissing: d.SandboxMissing, Needs: d.Needs, Grants: d.Grants, Wanted: d.Wanted,
		InFlight: d.InFlight, Waiting: d.Waiting, RolledBack: d.RolledBack,
	}
	if d.Since.IsZero() {
		p.Since = time.Time{}
	}
	if d.Former != nil {
		former := Version(*d.Former)
		p.Former = &former
	}
	for i := range d.Commands {
		p.Commands = append(p.Commands, CommandOf(&d.Commands[i]))
	}
	for _, c := range d.History {
		p.History = append(p.History, Crash{
			At: c.At, Version: c.Version, How: c.How, Status: c.Status, UptimeMS: c.Uptime.Milliseconds(),
			Stderr: c.Stderr, Calls: c.Calls, Dump: c.Dump,
		})
	}
	return p
}

// CommandOf is a command as it travels.
func CommandOf(c *core.Command) Command {
	return Command{
		Name: c.Name, Summary: c.Summary, Description: c.Description, Params: c.ParamsSchema, Result: c.ResultSchema,
		Streaming: c.Streaming, Idempotent: c.Idempotent, ReadOnly: c.ReadOnly, Destructive: c.Destructive, TimeoutMS: c.Timeout.Milliseconds(),
	}
}
