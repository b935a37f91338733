package pluginhost

import (
	"context"
	"fmt"

	"github.com/plugboard/plugboard/core"
)

// What the watcher and operators want of a supervisor. Each of these runs in its
// goroutine, between two events.

// fileIs takes the file as it is now, new or changed.
func (v *supervisor) fileIs() {
	v.present = true
	if v.current != nil && v.current.attached {
		return // it counts when the debugger lets go
	}
	v.past, _ = v.past.decide(eventReset, v.ready, 0)
	v.told = ""
	v.begin(wanted{why: forFile, unless: v.running()})
}

// running is what a start need not lead to again: what runs, unless a fresh process
// was asked for already.
func (v *supervisor) running() *launch {
	if v.current == nil || v.starting != nil && v.starting.why == forFile && v.starting.unless == nil {
		return nil
	}
	return &v.current.launch
}

// lockIs takes plugins.lock as it is now: what does not stand there any more ends.
func (v *supervisor) lockIs() {
	if !v.present || v.current != nil && v.current.attached {
		return
	}
	v.begin(wanted{why: forFile, unless: v.running(), strict: true})
}

// fileGone removes the plugin, unless it is attached, and reports whether it stays.
func (v *supervisor) fileGone() (stays bool) {
	v.present = false
	stays = v.current != nil && v.current.attached
	v.leaving = !stays
	return stays
}

// reset gives a plugin a clean slate and a new process from its file as it is now.
func (v *supervisor) reset() {
	v.log.Info().Msg("Plugin reset by an operator")
	v.past, _ = v.past.decide(eventReset, v.ready, 0)
	v.told = ""
	v.back()
}

// configure takes other settings and grants: a new process gets them.
func (v *supervisor) configure(p policy) {
	v.policy = p
	if v.present {
		v.fileIs()
	}
}

// rollback puts the former version in the place of the one that runs.
func (v *supervisor) rollback(answer func(error)) {
	if v.former == nil {
		answer(core.ErrNoFormer)
		return
	}
	v.house.metrics.rollbacks.WithLabelValues(v.slot.name).Inc()
	v.begin(wanted{why: forFormer, of: v.house.binaries.again(v.former.binary), answer: answer})
}

func (v *supervisor) debug(at core.PluginAttachment, answer func(error)) {
	v.begin(wanted{why: forDebug, at: &at, answer: answer})
}

func (v *supervisor) detach(answer func(error)) {
	if v.current == nil || !v.current.attached {
		answer(core.ErrNotAttached)
		return
	}
	if !v.present {
		v.leaving = true
		answer(nil)
		return
	}
	v.begin(wanted{why: forFile, answer: answer})
}

// order runs f in the supervisor's goroutine; false: it has ended.
func (v *supervisor) order(f func()) bool {
	select {
	case v.orders <- f:
		return true
	case <-v.done:
		return false
	}
}

// await runs f, which answers later, and waits for the answer.
func (v *supervisor) await(ctx context.Context, f func(answer func(error))) error {
	answered := make(chan error, 1)
	if !v.order(func() { f(func(err error) { answered <- err }) }) {
		return core.ErrNoPlugin
	}
	select {
	case err := <-answered:
		return err
	case <-v.done:
		select {
		case err := <-answered:
			return err
		default:
			return fmt.Errorf("plugin was removed: %w", core.ErrNoPlugin)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle is closed when nothing is under way.
func (v *supervisor) idle() <-chan struct{} {
	idle := make(chan struct{})
	if !v.order(func() { v.waiting = append(v.waiting, idle) }) {
		return v.done
	}
	return idle
}
