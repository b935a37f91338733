package command

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// entry is one published command: immutable.
type entry struct {
	core.Command
	params  *schema
	policy  rule
	invoker core.Invoker
}

// snapshot is the whole catalogue at one moment: immutable.
type snapshot struct {
	byName map[string]*entry
	sorted []*entry
}

// Catalogue holds what plugins published, as one immutable snapshot behind an
// atomic pointer: a look-up takes no lock and never sees half of a change. It
// implements core.Catalogue. All methods may be called from any goroutine.
type Catalogue struct {
	onChange func()

	current atomic.Pointer[snapshot]

	mu     sync.Mutex // serialises writers
	access map[string]Policy
}

func newCatalogue(access map[string]Policy, onChange func()) *Catalogue {
	c := &Catalogue{access: access, onChange: onChange}
	c.current.Store(&snapshot{})
	return c
}

// Publish replaces all of the plugin's former commands in one step. It refuses,
// and changes nothing, when a name does not belong to the plugin (docs/plugin.md
// §1), stands twice, or has a schema that does not compile as JSON Schema
// 2020-12 without references to the outside. Publishing what is there already
// swaps the invoker and announces nothing.
func (c *Catalogue) Publish(plugin string, commands []core.Command, invoker core.Invoker) error {
	fresh := make([]*entry, 0, len(commands))
	seen := make(map[string]bool, len(commands))
	for _, cmd := range commands {
		if seen[cmd.Name] {
			return fmt.Errorf("publish %q: command %q stands twice", plugin, cmd.Name)
		}
		seen[cmd.Name] = true
		e, err := c.newEntry(plugin, cmd, invoker)
		if err != nil {
			return fmt.Errorf("publish %q: %w", plugin, err)
		}
		fresh = append(fresh, e)
	}
	c.replace(plugin, fresh)
	return nil
}

// Withdraw removes the plugin's commands. A plugin that published none is no
// error.
func (c *Catalogue) Withdraw(plugin string) { c.replace(plugin, nil) }

func (c *Catalogue) newEntry(plugin string, cmd core.Command, invoker core.Invoker) (*entry, error) {
	if cmd.Plugin != plugin {
		return nil, fmt.Errorf("command %q says that it belongs to plugin %q", cmd.Name, cmd.Plugin)
	}
	if owner, _, _ := strings.Cut(cmd.Name, "."); owner != plugin || !wire.ValidCommand(cmd.Name) {
		return nil, fmt.Errorf("command name %q: want %q, or %q followed by ^[a-z][a-z0-9_]{0,62}$", cmd.Name, plugin, plugin+".")
	}
	params, err := compileSchema(cmd.ParamsSchema)
	if err != nil {
		return nil, fmt.Errorf("params schema of command %q: %w", cmd.Name, err)
	}
	if len(cmd.ResultSchema) > 0 {
		if _, err := compileSchema(cmd.ResultSchema); err != nil {
			return nil, fmt.Errorf("result schema of command %q: %w", cmd.Name, err)
		}
	}
	return &entry{Command: cmd, params: params, invoker: invoker}, nil
}

// replace swaps the plugin's entries and announces a change outside the lock.
func (c *Catalogue) replace(plugin string, fresh []*entry) {
	c.mu.Lock()
	old := c.current.Load()
	byName := maps.Clone(old.byName)
	if byName == nil {
		byName = make(map[string]*entry, len(fresh))
	}
	maps.DeleteFunc(byName, func(_ string, e *entry) bool { return e.Plugin == plugin })
	for _, e := range fresh {
		e.policy = ruleFor(c.access, e.Plugin, e.Name)
		byName[e.Name] = e
	}
	sorted := slices.SortedFunc(maps.Values(byName), func(a, b *entry) int { return strings.Compare(a.Name, b.Name) })
	changed := !slices.EqualFunc(old.sorted, sorted, func(a, b *entry) bool { return reflect.DeepEqual(a.Command, b.Command) })
	c.current.Store(&snapshot{byName: byName, sorted: sorted})
	c.mu.Unlock()
	if changed && c.onChange != nil {
		c.onChange()
	}
}

func (c *Catalogue) hasAccess(access map[string]Policy) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return reflect.DeepEqual(c.access, access)
}

// setAccess lays another policy over what is published, and announces it: who may
// run what may have changed. Calls under way keep the one they began with.
func (c *Catalogue) setAccess(access map[string]Policy) {
	c.mu.Lock()
	c.access = access
	old := c.current.Load()
	next := &snapshot{byName: make(map[string]*entry, len(old.byName))}
	for _, e := range old.sorted {
		fresh := *e
		fresh.policy = ruleFor(access, e.Plugin, e.Name)
		next.byName[e.Name] = &fresh
		next.sorted = append(next.sorted, &fresh)
	}
	c.current.Store(next)
	c.mu.Unlock()
	if c.onChange != nil {
		c.onChange()
	}
}

// find returns the command if this caller may run it. Nothing else may leak that
// it exists.
func (c *Catalogue) find(name string, caller *core.Caller) (*entry, bool) {
	e, ok := c.current.Load().byName[name]
	if !ok || !e.policy.allows(caller.Roles) {
		return nil, false
	}
	return e, true
}

// list returns what this caller may run, by name.
func (c *Catalogue) list(caller *core.Caller) []wire.CommandInfo {
	infos := []wire.CommandInfo{}
	for _, e := range c.current.Load().sorted {
		if e.policy.allows(caller.Roles) {
			infos = append(infos, e.info())
		}
	}
	return infos
}

func (e *entry) info() wire.CommandInfo {
	info := wire.CommandInfo{
		Name: e.Name, Plugin: e.Plugin, Version: e.PluginVersion, Summary: e.Summary, Description: e.Description,
		Params: e.params.source, Result: e.ResultSchema, Streaming: e.Streaming, SignatureRequired: e.policy.requireSignature,
	}
	for _, x := range e.Examples {
		info.Examples = append(info.Examples, wire.CommandExample{Params: x.Params, Result: x.Result})
	}
	return info
}

var _ core.Catalogue = (*Catalogue)(nil)
