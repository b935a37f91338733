package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

// Overview is all plugins, by name.
func (h *Host) Overview() core.PluginsOverview {
	o := core.PluginsOverview{Dir: h.o.Dir, LockFile: filepath.Join(h.o.Dir, lockfile.Name), Trust: h.o.Trust, Sandbox: string(h.o.Sandbox)}
	for _, v := range h.all() {
		o.Plugins = append(o.Plugins, v.detail())
	}
	return o
}

// Plugin is one of them; core.ErrNoPlugin.
func (h *Host) Plugin(name string) (core.PluginDetail, error) {
	v, err := h.find(name)
	if err != nil {
		return core.PluginDetail{}, err
	}
	return v.detail(), nil
}

// detail is what the slot knows, and what the plugin asked for in vain.
func (v *supervisor) detail() core.PluginDetail {
	d := v.slot.Detail()
	d.Wanted = v.house.usage(v.slot.name).Wanted()
	return d
}

func (h *Host) find(name string) (*supervisor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.slots[name]; v != nil && !v.isDone() {
		return v, nil
	}
	return nil, fmt.Errorf("plugin %q: %w", name, core.ErrNoPlugin)
}

// Reload looks at the plugins directory now, and waits until nothing is under way
// any more. A file that is not whole yet is left to a later look.
func (h *Host) Reload(ctx context.Context) error {
	looked := make(chan struct{})
	select {
	case h.looks <- looked:
	case <-h.closing:
		return shuttingDown()
	case <-ctx.Done():
		return ctx.Err()
	}
	<-looked
	h.mu.Lock()
	leaving := slices.Clone(h.leaving)
	h.mu.Unlock()
	for _, v := range h.all() {
		select {
		case <-v.idle():
		case <-v.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for plugin %q: %w", v.slot.name, ctx.Err())
		}
	}
	for _, v := range leaving {
		select {
		case <-v.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of plugin %q: %w", v.slot.name, ctx.Err())
		}
	}
	return nil
}

// Reset gives a plugin a clean slate: out of quarantine, failure or a roll-back, in a
// new process from its file as it is now. What runs goes on until the new process is
// ready. It does not wait; core.ErrNoPlugin.
func (h *Host) Reset(name string) error {
	v, err := h.find(name)
	if err == nil && !v.order(v.reset) {
		err = fmt.Errorf("reset plugin %q: %w", name, core.ErrNoPlugin)
	}
	return err
}

// Rollback puts the former version in the place of the one that runs and returns
// when it has, with what runs then. The file stays as it is; a later change of it
// counts again.
func (h *Host) Rollback(ctx context.Context, name string) (core.PluginVersion, error) {
	v, err := h.find(name)
	if err != nil {
		return core.PluginVersion{}, err
	}
	var now core.PluginVersion
	err = v.await(ctx, func(answer func(error)) {
		v.rollback(func(err error) {
			if err == nil {
				now = v.binary.stated
			}
			answer(err)
		})
	})
	if err != nil {
		return core.PluginVersion{}, fmt.Errorf("roll plugin %q back: %w", name, err)
	}
	return now, nil
}

// Attach has a plugin that somebody else started serve under this name.
func (h *Host) Attach(ctx context.Context, name string, at core.PluginAttachment) error {
	if !pluginName.MatchString(name) {
		return fmt.Errorf("attach plugin %q: the name does not match %s", name, pluginName)
	}
	for {
		v, err := h.find(name)
		if err != nil {
			if v = h.add(name, false); v == nil {
				return shuttingDown()
			}
		}
		err = v.await(ctx, func(answer func(error)) { v.debug(at, answer) })
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, core.ErrNoPlugin):
			return fmt.Errorf("attach plugin %q: %w", name, err)
		}
		// It was on its way out; another place of this name follows.
		select {
		case <-v.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Detach lets go of an attached plugin; the file of this name serves again, where
// there is one.
func (h *Host) Detach(ctx context.Context, name string) error {
	v, err := h.find(name)
	if err != nil {
		return err
	}
	if err := v.await(ctx, v.detach); err != nil {
		return fmt.Errorf("detach plugin %q: %w", name, err)
	}
	return nil
}

var _ core.PluginOperator = (*Host)(nil)
