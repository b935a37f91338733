package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
)

const (
	defaultStartTimeout   = 10 * time.Second
	defaultDrainTimeout   = 30 * time.Second
	defaultMaxConcurrent  = 64
	defaultHealthInterval = 5 * time.Second
	// reapGrace is kept back from the deadline of a stop, for killing.
	reapGrace = time.Second
)

// Options configure a [Host]. Dir, RunDir, Host and Catalogue are required.
type Options struct {
	// Dir holds the plugins, one executable file each.
	Dir string
	// RunDir is the server's own directory for running them (0700): made if absent,
	// swept at the start, emptied at the stop, locked meanwhile. A short path: sockets
	// lie in it.
	RunDir string
	// StartTimeout bounds a start, from fork to ready; 0 takes 10 s.
	StartTimeout time.Duration
	// DrainTimeout is how long calls in flight may go on when the host stops; 0
	// takes 30 s.
	DrainTimeout time.Duration
	// HealthInterval is how long a plugin may be silent before it is asked for a sign
	// of life; 0 takes 5 s.
	HealthInterval time.Duration
	// MaxConcurrent is how many calls a plugin works on at once, and how many more
	// may wait for that; 0 takes 64.
	MaxConcurrent int
	// Settings are handed to the plugins, by name: one JSON object each.
	Settings map[string][]byte
	// Grants are the capabilities that the operator grants, by plugin.
	Grants map[string][]string
	// Host answers what plugins ask of the server.
	Host core.HostServices
	// Catalogue is where commands are published.
	Catalogue core.Catalogue
	// Logger takes what an operator should see, and the plugins' output.
	Logger zerolog.Logger
	// Registerer takes the metrics; nil keeps none.
	Registerer prometheus.Registerer
}

// Host runs the plugins of a directory. Ready, States and Reset may be called from
// any goroutine after Start has returned.
type Host struct {
	o       Options
	metrics *metrics

	ready   chan struct{}
	waiting atomic.Int64 // plugins that are neither ready nor have failed
	closing chan struct{}
	stopped chan struct{} // closed when nothing is left
	// patience ends when a stop has no time left to be gentle.
	patience context.Context
	giveUp   context.CancelFunc

	mu          sync.Mutex
	started     bool
	stopping    bool
	runDir      *runDir
	supervisors []*supervisor // by name; fixed once started
}

// New checks the options; every problem is named.
func New(o Options) (*Host, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.StartTimeout = orDefault(o.StartTimeout, defaultStartTimeout)
	o.DrainTimeout = orDefault(o.DrainTimeout, defaultDrainTimeout)
	o.HealthInterval = orDefault(o.HealthInterval, defaultHealthInterval)
	o.MaxConcurrent = orDefault(o.MaxConcurrent, defaultMaxConcurrent)
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register plugin metrics: %w", err)
	}
	h := &Host{o: o, metrics: m, ready: make(chan struct{}), closing: make(chan struct{}), stopped: make(chan struct{})}
	h.patience, h.giveUp = context.WithCancel(context.Background())
	return h, nil
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}

func (o *Options) check() error {
	var c checker
	c.that(o.Dir != "", "no plugins directory")
	c.that(o.RunDir != "", "no run directory")
	c.that(o.Host != nil, "no host services")
	c.that(o.Catalogue != nil, "no catalogue")
	c.that(o.StartTimeout >= 0 && o.DrainTimeout >= 0 && o.HealthInterval >= 0, "a negative time")
	c.that(o.MaxConcurrent >= 0 && o.MaxConcurrent <= 1000, "max concurrent is %d, want 1 to 1000", o.MaxConcurrent)
	for name, settings := range o.Settings {
		c.that(isObject(settings, maxSchemaBytes), "settings of %q are not one JSON object", name)
	}
	for name, grants := range o.Grants {
		for _, g := range grants {
			c.that(hostsvc.ValidCapability(g), "%q is granted %q, which is no capability", name, g)
		}
	}
	if len(c.wrong) == 0 {
		return nil
	}
	slices.Sort(c.wrong)
	return fmt.Errorf("plugin host options: %s", strings.Join(c.wrong, "; "))
}

// Start scans the directory and starts every plugin in it, in parallel. It returns
// without waiting for them: a plugin that does not start never stops the server
// (docs/plugin.md §3). Its error is about the directories only; a plugins directory
// that does not exist is none.
func (h *Host) Start(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.started {
		return errors.New("start plugin host: started before")
	}
	names, err := scan(h.o.Dir, h.o.Logger)
	if err != nil {
		return err
	}
	if h.runDir, err = openRunDir(h.o.RunDir); err != nil {
		return err
	}
	h.started = true
	h.waiting.Store(int64(len(names)) + 1)
	for _, name := range names {
		v := h.newSupervisor(name)
		h.supervisors = append(h.supervisors, v)
		go v.run()
	}
	h.settle() // the one that stands for this function
	return nil
}

func (h *Host) newSupervisor(name string) *supervisor {
	log := h.o.Logger.With().Str("plugin", name).Logger()
	return &supervisor{
		slot: newSlot(name, h.o.MaxConcurrent, h.metrics, h.settle),
		dir:  h.o.Dir, runDir: h.runDir, catalogue: h.o.Catalogue, log: log, metrics: h.metrics,
		interval: h.o.HealthInterval, drainTime: h.o.DrainTimeout,
		template: launch{
			plugin: name, settings: h.o.Settings[name], granted: h.o.Grants[name], host: h.o.Host,
			maxConcurrent: h.o.MaxConcurrent, timeout: h.o.StartTimeout, log: log, metrics: h.metrics,
		},
		resets: make(chan struct{}, 1), closing: h.closing, patience: h.patience, done: make(chan struct{}),
	}
}

func (h *Host) settle() {
	if h.waiting.Add(-1) == 0 {
		close(h.ready)
	}
}

// Ready is closed when every plugin is ready or has failed once.
func (h *Host) Ready() <-chan struct{} { return h.ready }

// States are all plugins, by name.
func (h *Host) States() []core.PluginState {
	h.mu.Lock()
	defer h.mu.Unlock()
	states := make([]core.PluginState, 0, len(h.supervisors))
	for _, v := range h.supervisors {
		states = append(states, v.slot.State())
	}
	slices.SortFunc(states, func(a, b core.PluginState) int { return strings.Compare(a.Name, b.Name) })
	return states
}

// ErrNoPlugin says that there is no plugin of this name.
var ErrNoPlugin = errors.New("no such plugin")

// Reset gives a plugin a clean slate: out of quarantine or failure, from its file
// as it is now, in a new process. Calls in flight are let to their end first, as at a
// stop; new ones wait for the new process. Reset itself waits for nothing.
// ErrNoPlugin.
func (h *Host) Reset(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.supervisors {
		if v.slot.name != name {
			continue
		}
		select {
		case v.resets <- struct{}{}:
		default: // one is on its way, which is as good
		}
		return nil
	}
	return fmt.Errorf("reset plugin %q: %w", name, ErrNoPlugin)
}

// Stop refuses new calls, lets those in flight end, and ends every plugin: asked
// first, then killed. It returns when no process, socket or directory is left, or
// shortly after ctx has ended with what it gave up on. A second call waits for the
// same end; a host that was not started stops at once.
func (h *Host) Stop(ctx context.Context) error {
	h.mu.Lock()
	if !h.started {
		h.mu.Unlock()
		return nil
	}
	if !h.stopping {
		h.stopping = true
		close(h.closing)
		go h.finish()
	}
	supervisors := h.supervisors
	h.mu.Unlock()
	return h.await(ctx, supervisors)
}

// await waits for the end, and kills what is left shortly before the deadline.
func (h *Host) await(ctx context.Context, supervisors []*supervisor) error {
	hurry := ctx.Done()
	if deadline, ok := ctx.Deadline(); ok {
		early, cancel := context.WithDeadline(ctx, deadline.Add(-reapGrace))
		defer cancel()
		hurry = early.Done()
	}
	select {
	case <-h.stopped:
		return nil
	case <-hurry:
	}
	h.giveUp()
	timer := time.NewTimer(2 * reapGrace)
	defer timer.Stop()
	select {
	case <-h.stopped:
		return nil
	case <-timer.C:
	}
	var left []string
	for _, v := range supervisors {
		select {
		case <-v.done:
		default:
			left = append(left, v.slot.name)
		}
	}
	return fmt.Errorf("stop plugins: %s still running", strings.Join(left, ", "))
}

// finish waits for the supervisors and removes what they shared.
func (h *Host) finish() {
	defer close(h.stopped)
	defer h.giveUp()
	for _, v := range h.supervisors {
		<-v.done
	}
	if err := h.runDir.close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.o.Logger.Warn().Err(err).Msg("Run directory stays behind")
	}
}
