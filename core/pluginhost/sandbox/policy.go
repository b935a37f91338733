package sandbox

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// Mode is how much the host insists (plugins.sandbox).
type Mode string

// The modes.
const (
	// Auto confines as far as the machine can.
	Auto Mode = "auto"
	// Require runs no plugin that cannot be confined in full.
	Require Mode = "require"
	// Off confines nothing.
	Off Mode = "off"
)

// The levels of confinement, as operators see them.
const (
	Full    = "full"
	Partial = "partial"
	None    = "none"
)

// Limits are resource limits of one plugin process and its children, each by itself.
type Limits struct {
	OpenFiles uint64 `json:"open_files"` // RLIMIT_NOFILE
	FileBytes uint64 `json:"file_bytes"` // RLIMIT_FSIZE: the largest file it may write
	DataBytes uint64 `json:"data_bytes"` // RLIMIT_DATA: private memory
}

// DefaultLimits suit a plugin that is no database: 256 open files, files of 64 MiB,
// 512 MiB of memory. There are never core dumps.
func DefaultLimits() Limits {
	return Limits{OpenFiles: 256, FileBytes: 64 << 20, DataBytes: 512 << 20}
}

// Policy is what one plugin process may do.
type Policy struct {
	// Binary is what is executed, Dir the plugin's run directory: absolute paths.
	Binary string `json:"binary"`
	Dir    string `json:"dir"`
	// Net lets it use the network.
	Net bool `json:"net,omitempty"`
	// Read, Write and Exec are further files and directories, absolute paths. Write
	// includes reading, Exec too.
	Read  []string `json:"read,omitempty"`
	Write []string `json:"write,omitempty"`
	Exec  []string `json:"exec,omitempty"`

	Limits Limits `json:"limits"`
}

// PolicyFor reads from an operator's grants what a process may reach. Grants that
// concern no process, such as kv, are passed over.
func PolicyFor(binary, dir string, grants []string) (Policy, error) {
	p := Policy{Binary: binary, Dir: dir, Limits: DefaultLimits()}
	for _, grant := range grants {
		kind, path, ok := strings.Cut(grant, ":")
		if !ok {
			p.Net = p.Net || grant == "net"
			continue
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return Policy{}, fmt.Errorf("grant %q: want an absolute path without dots", grant)
		}
		switch kind {
		case "read":
			p.Read = append(p.Read, path)
		case "write":
			p.Write = append(p.Write, path)
		case "exec":
			p.Exec = append(p.Exec, path)
		default:
			return Policy{}, fmt.Errorf("grant %q: want read:, write: or exec: before a path", grant)
		}
	}
	return p, nil
}

const (
	// launcherName is the launcher's argv[0], by which it knows itself.
	launcherName = "plugboard-sandbox"
	// envPolicy carries the policy to the launcher; the plugin does not see it.
	envPolicy = "PLUGBOARD_SANDBOX_POLICY"
)

// Command is how a process is to be started.
type Command struct {
	Path string
	Args []string
	// Env goes in addition to the plugin's own.
	Env []string
}

// Launch is how to start a plugin under a policy, with name as its argv[0]. The
// executable that calls it is the launcher, too.
func Launch(p Policy, name string) (Command, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return Command{}, fmt.Errorf("encode sandbox policy: %w", err)
	}
	return Command{Path: self, Args: []string{launcherName, name}, Env: []string{envPolicy + "=" + string(raw)}}, nil
}

// Plain is how to start a plugin without a sandbox.
func Plain(binary, name string) Command {
	return Command{Path: binary, Args: []string{name}}
}

// Support is what a machine can enforce.
type Support struct {
	Level   string   // full, partial or none
	Missing []string // what it cannot, in words for an operator
}
