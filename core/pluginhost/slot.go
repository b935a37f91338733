package pluginhost

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
)

// The states of a plugin (docs/plugin.md §3).
const (
	StateDiscovered  = "discovered"
	StateStarting    = "starting"
	StateReady       = "ready"
	StateDraining    = "draining"
	StateStopped     = "stopped"
	StateFailed      = "failed"
	StateCrashed     = "crashed"
	StateBackoff     = "backoff"
	StateQuarantined = "quarantined"
)

const (
	// restartWait is how long a call waits for a plugin that is (re)starting.
	restartWait = 2 * time.Second
	// maxReplays is how often an idempotent call is sent again after a crash. A call
	// that itself is the reason must not keep the plugin falling.
	maxReplays = 2
	// crashesKept is how many crashes are remembered.
	crashesKept = 5
)

// slot is a plugin's place: calls go in whatever generation is there, or wait for
// one. Its supervisor is its only writer.
type slot struct {
	// Fixed after construction.
	name     string
	places   int // and as many calls may wait
	inFlight prometheus.Gauge
	queued   prometheus.Gauge
	up       prometheus.Gauge
	refused  *prometheus.CounterVec
	replayed prometheus.Counter
	settled  func() // called once, when it is ready or has failed for the first time

	current atomic.Pointer[generation] // nil while nobody takes calls
	waiting atomic.Int64
	working atomic.Int64

	mu      sync.Mutex
	detail  core.PluginDetail
	removed bool          // its file is gone: whoever still comes looks again elsewhere
	changed chan struct{} // closed and replaced with each change of state
	once    sync.Once     // guards settled
}

func newSlot(name string, places int, m *metrics, settled func()) *slot {
	return &slot{
		name: name, places: places, settled: settled, changed: make(chan struct{}),
		detail:   core.PluginDetail{PluginState: core.PluginState{Name: name, State: StateDiscovered}},
		inFlight: m.inFlight.WithLabelValues(name), queued: m.waiting.WithLabelValues(name), up: m.up.WithLabelValues(name),
		refused: m.refused.MustCurryWith(prometheus.Labels{"plugin": name}), replayed: m.replayed.WithLabelValues(name),
	}
}

// offer is what a plugin published at one time; calls come in through it. It
// implements core.Invoker. A call that comes by an offer was checked against the
// schemas of that offer, so only a generation that made it may have the call.
type offer struct {
	slot     *slot
	number   uint64 // the later the higher, per slot
	commands []core.Command
}

func (o *offer) idempotent(command string) bool {
	i := slices.IndexFunc(o.commands, func(c core.Command) bool { return c.Name == command })
	return i >= 0 && o.commands[i].Idempotent
}

// Invoke runs one call in the plugin. Besides what the plugin answers, errors are
// core.ErrReplaced, *fault.Error with plugin_unavailable (not running, or gone in
// the middle of the call), overloaded or shutting_down, or ctx's own.
//
// A call that had not been sent to a generation that ended goes to the next; one
// that had been sent only if its command is idempotent and no part of its answer
// was passed on.
func (o *offer) Invoke(ctx context.Context, call *core.Call, progress func(core.Progress)) ([]byte, error) {
	s := o.slot
	parts := 0
	counted := func(p core.Progress) {
		parts++
		progress(p)
	}
	for replays := 0; ; {
		g, err := s.lease(ctx, o)
		if err != nil {
			return nil, err
		}
		s.inFlight.Inc()
		s.working.Add(1)
		result, err := g.session.call(ctx, call, counted, func() {
			s.inFlight.Dec()
			s.working.Add(-1)
			g.places.Release(1)
		})
		lost, isLost := errors.AsType[*lostError](err)
		switch {
		case !isLost:
			return result, err
		case !lost.sent:
			// As if it came later.
		case replays < maxReplays && parts == 0 && o.idempotent(call.Command):
			replays++
			s.replayed.Inc()
		default:
			return nil, lost.cause
		}
	}
}

// lease takes a place in the current generation for a call that came by o. The fast
// path takes no lock of the slot's.
func (s *slot) lease(ctx context.Context, o *offer) (*generation, error) {
	if g := s.current.Load(); g != nil && g.offer == o && g.open.Err() == nil && g.places.TryAcquire(1) {
		return g, nil
	}
	if s.waiting.Add(1) > int64(s.places) {
		s.waiting.Add(-1)
		s.refused.WithLabelValues(refusedPlaces).Inc()
		return nil, fault.Newf(fault.Overloaded, "Plugin %q is working on as many calls as it may, and as many wait.", s.name).
			WithRetryAfter(retryUnavailable)
	}
	s.queued.Inc()
	defer func() {
		s.waiting.Add(-1)
		s.queued.Dec()
	}()
	patience := time.NewTimer(restartWait)
	defer patience.Stop()
	for {
		g, changed, err := s.look(o)
		if err != nil {
			return nil, err
		}
		if g != nil {
			if err := g.enter(ctx); !errors.Is(err, errGone) {
				return g, err
			}
			continue
		}
		select {
		case <-changed:
		case <-patience.C:
			s.refused.WithLabelValues(refusedDown).Inc()
			return nil, unavailable(s.name, "is restarting")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look returns the generation to wait for, or none but a channel that tells when to
// look again, or why there is nothing to wait for.
func (s *slot) look(o *offer) (*generation, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.current.Load()
	if g != nil && g.open.Err() != nil {
		g = nil // over; its supervisor is about to say so
	}
	switch {
	case s.removed, g != nil && g.offer.number > o.number:
		return nil, nil, core.ErrReplaced
	case g != nil && g.offer != o:
		return nil, s.changed, nil // published already, and the switch follows at once
	case g != nil:
		return g, nil, nil
	}
	switch s.detail.State {
	case StateDraining, StateStopped:
		s.refused.WithLabelValues(refusedClosing).Inc()
		return nil, nil, shuttingDown()
	case StateFailed, StateQuarantined:
		s.refused.WithLabelValues(refusedDown).Inc()
		return nil, nil, unavailable(s.name, "does not work at the moment; its operator has been told why")
	}
	return nil, s.changed, nil
}

// errGone says that a generation ended, or takes no calls any more, while a call
// waited for a place in it.
var errGone = errors.New("generation ended")

// enter waits for a place.
func (g *generation) enter(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(g.open, func() { cancel(errGone) })
	defer stop()
	if err := g.places.Acquire(ctx, 1); err != nil {
		if errors.Is(context.Cause(ctx), errGone) {
			return errGone
		}
		return err
	}
	return nil
}

// set changes the state as the outside sees it. A generation takes calls, nil takes
// none. A problem stays until the next generation, or note, replaces it. What is told
// about the state is seen together with it.
func (s *slot) set(state string, g *generation, problem string, about ...func(*core.PluginDetail)) {
	s.mu.Lock()
	former := s.current.Swap(g)
	s.detail.State = state
	if g != nil && g != former {
		s.detail.Error = ""
	}
	if problem != "" {
		s.detail.Error = problem
	}
	if g == nil {
		s.detail.PID = 0
	}
	for _, tell := range about {
		tell(&s.detail)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if former != nil && former != g {
		former.shut() // whoever waits for a place in it looks again
	}
	up := 0.0
	if g != nil {
		up = 1
	}
	s.up.Set(up)
	switch state {
	case StateDiscovered, StateStarting:
	default:
		s.once.Do(s.settled)
	}
}

// note changes what operators see beside the state.
func (s *slot) note(change func(*core.PluginDetail)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.detail)
}

// remove has calls that still come look for another slot of this name.
func (s *slot) remove() {
	s.mu.Lock()
	s.removed = true
	s.mu.Unlock()
}

// State is the plugin as everybody may see it.
func (s *slot) State() core.PluginState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.detail.PluginState
}

// Detail is the plugin as its operator sees it.
func (s *slot) Detail() core.PluginDetail {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.detail
	d.History = slices.Clone(d.History)
	d.InFlight, d.Waiting = int(s.working.Load()), int(s.waiting.Load())
	return d
}

var _ core.Invoker = (*offer)(nil)
