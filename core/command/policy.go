package command

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Policy is what the operator set for a command, or for all commands of a plugin
// (docs/plugin.md §5). The zero value restricts nothing.
//
// A command's own policy is laid over its plugin's: what it leaves unset stays
// as the plugin's says, so that setting a time limit for one command cannot lift
// the roles that the plugin asks for.
type Policy struct {
	// Roles: the caller needs one of these; nil lets every user run it.
	Roles []string
	// RequireSignature: only a call whose signature was verified is run. A command
	// cannot lift what its plugin requires.
	RequireSignature bool
	// Rate is how many calls per second each user has; 0 sets no limit.
	Rate float64
	// Timeout is the time limit of a call; 0 leaves it to the author and the
	// server's own. It may be longer than either.
	Timeout time.Duration
	// Enabled: false hides the command as if it did not exist; nil is true.
	Enabled *bool
	// LogParams keeps the params in the command log.
	LogParams bool
}

// checkAccess holds the policies against their ranges; every problem is named.
func checkAccess(access map[string]Policy) error {
	var wrong []string
	for name, p := range access {
		if !wire.ValidCommand(name) {
			wrong = append(wrong, fmt.Sprintf("%q is no name of a plugin or command", name))
		}
		if p.Rate < 0 || p.Rate != p.Rate {
			wrong = append(wrong, fmt.Sprintf("rate of %q is %v, want 0 or more calls per second", name, p.Rate))
		}
		if p.Timeout < 0 {
			wrong = append(wrong, fmt.Sprintf("timeout of %q is %v, want 0 or more", name, p.Timeout))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("command access: %s", strings.Join(wrong, "; "))
}

// rule is the policy in force for one command.
type rule struct {
	roles            []string
	requireSignature bool
	rate             float64
	timeout          time.Duration
	disabled         bool
	logParams        bool
}

func ruleFor(access map[string]Policy, plugin, command string) rule {
	var r rule
	r.lay(access[plugin])
	if command != plugin {
		r.lay(access[command])
	}
	return r
}

func (r *rule) lay(p Policy) {
	if p.Roles != nil {
		r.roles = p.Roles
	}
	r.requireSignature = r.requireSignature || p.RequireSignature
	if p.Rate > 0 {
		r.rate = p.Rate
	}
	if p.Timeout > 0 {
		r.timeout = p.Timeout
	}
	if p.Enabled != nil {
		r.disabled = !*p.Enabled
	}
	r.logParams = r.logParams || p.LogParams
}

// allows reports whether a user of these roles may know of the command.
func (r *rule) allows(roles []string) bool {
	if r.disabled {
		return false
	}
	if r.roles == nil {
		return true
	}
	return slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(r.roles, role) })
}

// deadline is the time limit of a call: the operator's word for this command, or
// else the shorter of the author's and the server's.
func (r *rule) deadline(cmd *core.Command, server time.Duration) time.Duration {
	switch {
	case r.timeout > 0:
		return r.timeout
	case cmd.Timeout > 0:
		return min(cmd.Timeout, server)
	}
	return server
}
