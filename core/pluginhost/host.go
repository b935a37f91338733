package pluginhost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

const (
	defaultStartTimeout   = 10 * time.Second
	defaultDrainTimeout   = 30 * time.Second
	defaultMaxConcurrent  = 64
	defaultHealthInterval = 5 * time.Second
	// reapGrace is kept back from the deadline of a stop, for killing.
	reapGrace = time.Second
)

// Which files may be run (docs/plugin.md §1).
const (
	// TrustOwned: every file that nobody but root and the server's user could have
	// written.
	TrustOwned = "owned"
	// TrustLocked: of those the ones whose hash stands in plugins.lock.
	TrustLocked = "locked"
)

// Options configure a [Host]. Dir, RunDir, Host and Catalogue are required.
type Options struct {
	// Dir holds the plugins, one executable file each. It is watched.
	Dir string
	// Trust is TrustOwned or TrustLocked; "" takes TrustOwned.
	Trust string
	// Sandbox is how much is insisted on confining plugins; "" takes sandbox.Off.
	Sandbox sandbox.Mode
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

// Host runs the plugins of a directory, and follows what becomes of their files. It
// implements core.PluginOperator; that, Ready, States and Configure may be used from
// any goroutine after Start has returned.
type Host struct {
	o       Options
	metrics *metrics
	asked   *hostsvc.Metrics

	ready   chan struct{}
	waiting atomic.Int64 // plugins that are neither ready nor have failed
	looks   chan chan<- struct{}
	closing chan struct{}
	stopped chan struct{} // closed when nothing is left
	// patience ends when a stop has no time left to be gentle.
	patience context.Context
	giveUp   context.CancelFunc

	mu       sync.Mutex
	started  bool
	stopping bool
	house    *house
	policies policies
	slots    map[string]*supervisor
	leaving  []*supervisor // removed, and perhaps not gone yet
	watching sync.WaitGroup
}

// policies are what operators set, by plugin.
type policies struct {
	settings map[string][]byte
	grants   map[string][]string
}

func (p policies) of(plugin string) policy {
	grants, named := p.grants[plugin]
	return policy{settings: p.settings[plugin], grants: grants, named: named}
}

// New checks the options; every problem is named.
func New(o Options) (*Host, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Trust, o.Sandbox = cmp.Or(o.Trust, TrustOwned), cmp.Or(o.Sandbox, sandbox.Off)
	o.StartTimeout = orDefault(o.StartTimeout, defaultStartTimeout)
	o.DrainTimeout = orDefault(o.DrainTimeout, defaultDrainTimeout)
	o.HealthInterval = orDefault(o.HealthInterval, defaultHealthInterval)
	o.MaxConcurrent = orDefault(o.MaxConcurrent, defaultMaxConcurrent)
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register plugin metrics: %w", err)
	}
	asked, err := hostsvc.NewMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register plugin metrics: %w", err)
	}
	h := &Host{
		o: o, metrics: m, asked: asked, policies: policies{o.Settings, o.Grants}, slots: make(map[string]*supervisor),
		ready: make(chan struct{}), looks: make(chan chan<- struct{}), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	h.patience, h.giveUp = context.WithCancel(context.Background())
	if o.Registerer != nil {
		if err := o.Registerer.Register(&processCollector{host: h}); err != nil {
			return nil, fmt.Errorf("register plugin metrics: %w", err)
		}
	}
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
	c.that(o.Trust == "" || o.Trust == TrustOwned || o.Trust == TrustLocked, "trust is %q, want %s or %s", o.Trust, TrustOwned, TrustLocked)
	c.that(slices.Contains([]sandbox.Mode{"", sandbox.Auto, sandbox.Require, sandbox.Off}, o.Sandbox), "sandbox is %q, want auto, require or off", o.Sandbox)
	c.that(o.StartTimeout >= 0 && o.DrainTimeout >= 0 && o.HealthInterval >= 0, "a negative time")
	c.that(o.MaxConcurrent >= 0 && o.MaxConcurrent <= 1000, "max concurrent is %d, want 1 to 1000", o.MaxConcurrent)
	c.policies(policies{o.Settings, o.Grants})
	return c.named("plugin host options")
}

func (c *checker) policies(p policies) {
	for name, settings := range p.settings {
		c.that(isObject(settings, maxSchemaBytes), "settings of %q are not one JSON object", name)
	}
	for name, grants := range p.grants {
		for _, g := range grants {
			c.that(validGrant(g), "%q is granted %q, which is no capability and nothing for a process to reach", name, g)
		}
	}
}

// named is everything that is wrong, in an order that does not change.
func (c *checker) named(what string) error {
	if len(c.wrong) == 0 {
		return nil
	}
	slices.Sort(c.wrong)
	return fmt.Errorf("%s: %s", what, strings.Join(c.wrong, "; "))
}

// Start looks at the directory and starts every plugin in it, in parallel. It returns
// without waiting for them: a plugin that does not start never stops the server
// (docs/plugin.md §3). Its error is about the run directory only; a plugins directory
// that does not exist is none.
func (h *Host) Start(context.Context) error {
	h.mu.Lock()
	if h.started {
		h.mu.Unlock()
		return errors.New("start plugin host: started before")
	}
	run, err := openRunDir(h.o.RunDir)
	if err != nil {
		h.mu.Unlock()
		return err
	}
	h.started = true
	h.house = &house{
		dir: h.o.Dir, locked: h.o.Trust == TrustLocked, mode: h.o.Sandbox, support: sandbox.Detect(), runDir: run, binaries: newBinaries(run.binaries()), catalogue: h.o.Catalogue, host: h.o.Host,
		maxConcurrent: h.o.MaxConcurrent, startTimeout: h.o.StartTimeout, interval: h.o.HealthInterval, drainTime: h.o.DrainTimeout,
		metrics: h.metrics, asked: h.asked, usages: make(map[string]*hostsvc.Usage),
	}
	h.waiting.Store(1) // stands for this function
	h.mu.Unlock()
	h.tellSandbox()

	w := &watcher{dir: h.o.Dir, locked: h.house.locked, log: h.o.Logger, told: h.apply, files: make(map[string]sight)}
	w.open()
	w.look(time.Now(), 0)
	ctx, cancel := context.WithCancel(context.Background())
	h.watching.Go(func() { w.watch(ctx, h.looks) })
	context.AfterFunc(h.patience, cancel)
	h.watching.Go(func() {
		<-h.closing
		cancel()
	})
	h.settle()
	return nil
}

// tellSandbox says once what the machine cannot enforce.
func (h *Host) tellSandbox() {
	switch {
	case h.o.Sandbox == sandbox.Off:
		h.o.Logger.Warn().Msg("Plugins are not confined, because plugins.sandbox is off: one that is hostile owns the server")
	case len(h.house.support.Missing) > 0:
		h.o.Logger.Warn().Str("level", h.house.support.Level).Strs("missing", h.house.support.Missing).Msg("Plugins cannot be confined in full on this machine")
	}
}

// apply does what a look at the directory calls for. The watcher alone calls it. A
// supervisor is never waited for under the lock, because a plugin may at that moment
// ask for what the lock protects.
func (h *Host) apply(c changes) {
	for _, name := range c.gone {
		if v := h.slot(name); v != nil {
			h.remove(name, v)
		}
	}
	for name := range c.present {
		if v := h.slot(name); v == nil || !v.order(v.fileIs) {
			h.add(name, true)
		}
	}
	if c.lock {
		for _, v := range h.all() {
			v.order(v.lockIs)
		}
	}
}

func (h *Host) slot(name string) *supervisor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.slots[name]
}

// remove takes the place of a plugin whose file is gone away; a plugin that comes
// under the same name has another place. One that is attached stays.
func (h *Host) remove(name string, v *supervisor) {
	stays := make(chan bool, 1)
	if v.order(func() { stays <- v.fileGone() }) && <-stays {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[name] == v {
		delete(h.slots, name)
	}
	h.leaving = append(slices.DeleteFunc(h.leaving, (*supervisor).isDone), v)
}

// add makes a plugin's place, or none once the host is stopping.
func (h *Host) add(name string, present bool) *supervisor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addLocked(name, present)
}

func (h *Host) addLocked(name string, present bool) *supervisor {
	if h.stopping {
		return nil
	}
	select {
	case <-h.ready: // who comes later is not waited for
	default:
		h.waiting.Add(1)
	}
	log := h.o.Logger.With().Str("plugin", name).Logger()
	v := &supervisor{
		house: h.house, slot: newSlot(name, h.o.MaxConcurrent, h.metrics, h.settle), log: log, present: present,
		policy: h.policies.of(name), orders: make(chan func()), retired: make(chan struct{}),
		closing: h.closing, patience: h.patience, done: make(chan struct{}),
	}
	h.slots[name] = v
	go v.run()
	return v
}

// settle counts a plugin that is ready or has failed for the first time.
func (h *Host) settle() {
	if h.waiting.Add(-1) == 0 {
		close(h.ready)
	}
}

// Ready is closed when every plugin that lay in the directory at the start is ready
// or has failed once.
func (h *Host) Ready() <-chan struct{} { return h.ready }

// all are the supervisors, by name.
func (h *Host) all() []*supervisor {
	h.mu.Lock()
	all := maps.Clone(h.slots)
	h.mu.Unlock()
	maps.DeleteFunc(all, func(_ string, v *supervisor) bool { return v.isDone() && v.leaving })
	return slices.SortedFunc(maps.Values(all), func(a, b *supervisor) int { return strings.Compare(a.slot.name, b.slot.name) })
}

// States are all plugins, by name.
func (h *Host) States() []core.PluginState {
	all := h.all()
	states := make([]core.PluginState, 0, len(all))
	for _, v := range all {
		states = append(states, v.slot.State())
	}
	return states
}

// Configure takes other settings and grants, by plugin. A plugin for which they
// changed gets a new process, which takes over as after a change of its file; one
// that refuses them goes on with those it has, and its operator is told. The error
// names everything that is no settings or no grant; then nothing is changed.
func (h *Host) Configure(settings map[string][]byte, grants map[string][]string) error {
	p := policies{settings, grants}
	var c checker
	c.policies(p)
	if err := c.named("configure plugins"); err != nil {
		return err
	}
	h.mu.Lock()
	h.policies = p
	h.mu.Unlock()
	for _, v := range h.all() {
		v.order(func() { v.configure(p.of(v.slot.name)) })
	}
	return nil
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
		go h.finish(slices.AppendSeq(slices.Clone(h.leaving), maps.Values(h.slots)))
	}
	supervisors := slices.AppendSeq(slices.Clone(h.leaving), maps.Values(h.slots))
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
		if !v.isDone() {
			left = append(left, v.slot.name)
		}
	}
	return fmt.Errorf("stop plugins: %s still running", strings.Join(left, ", "))
}

// finish waits for the watcher and the supervisors and removes what they shared.
func (h *Host) finish(supervisors []*supervisor) {
	defer close(h.stopped)
	defer h.giveUp()
	h.watching.Wait()
	for _, v := range supervisors {
		<-v.done
	}
	if err := h.house.runDir.close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.o.Logger.Warn().Err(err).Msg("Run directory stays behind")
	}
}

func (v *supervisor) isDone() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}
