package pluginhost

import (
	"context"
	"errors"
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

// restartWait is how long a call waits for a plugin that is (re)starting.
const restartWait = 2 * time.Second

// slot is a plugin's place: calls go in whatever generation is there, or wait for
// one. It implements core.Invoker. Its supervisor is its only writer.
type slot struct {
	// Fixed after construction.
	name     string
	places   int // and as many calls may wait
	inFlight prometheus.Gauge
	queued   prometheus.Gauge
	up       prometheus.Gauge
	refused  *prometheus.CounterVec
	settled  func() // called once, when it is ready or has failed for the first time

	current atomic.Pointer[generation] // nil while nobody takes calls
	waiting atomic.Int64

	mu      sync.Mutex
	state   string
	version string
	err     string
	changed chan struct{} // closed and replaced with each change of state
	once    sync.Once     // guards settled
}

func newSlot(name string, places int, m *metrics, settled func()) *slot {
	return &slot{
		name: name, places: places, settled: settled, state: StateDiscovered, changed: make(chan struct{}),
		inFlight: m.inFlight.WithLabelValues(name), queued: m.waiting.WithLabelValues(name), up: m.up.WithLabelValues(name),
		refused: m.refused.MustCurryWith(prometheus.Labels{"plugin": name}),
	}
}

// Invoke runs one call in the plugin. Besides what the plugin answers, errors are
// *fault.Error with plugin_unavailable (not running, or gone in the middle of the
// call), overloaded or shutting_down, or ctx's own.
func (s *slot) Invoke(ctx context.Context, call *core.Call, progress func(core.Progress)) ([]byte, error) {
	for {
		g, err := s.lease(ctx)
		if err != nil {
			return nil, err
		}
		s.inFlight.Inc()
		result, err := g.session.call(ctx, call, progress, func() {
			s.inFlight.Dec()
			g.places.Release(1)
		})
		// A generation that ended before the call reached it: as if it came later.
		if !errors.Is(err, errGone) {
			return result, err
		}
	}
}

// lease takes a place in the current generation. The fast path takes no lock of
// the slot's.
func (s *slot) lease(ctx context.Context) (*generation, error) {
	if g := s.current.Load(); g != nil && g.session.ctx.Err() == nil && g.places.TryAcquire(1) {
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
		g, changed, err := s.look()
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
func (s *slot) look() (*generation, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case StateDraining, StateStopped:
		s.refused.WithLabelValues(refusedClosing).Inc()
		return nil, nil, shuttingDown()
	case StateFailed, StateQuarantined:
		s.refused.WithLabelValues(refusedDown).Inc()
		return nil, nil, unavailable(s.name, "does not work at the moment; its operator has been told why")
	}
	g := s.current.Load()
	if g != nil && g.session.ctx.Err() != nil {
		g = nil // over; its supervisor is about to say so
	}
	return g, s.changed, nil
}

// errGone says that a generation ended while a call waited for a place in it.
var errGone = errors.New("generation ended")

// enter waits for a place.
func (g *generation) enter(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(g.session.ctx, func() { cancel(errGone) })
	defer stop()
	if err := g.places.Acquire(ctx, 1); err != nil {
		if errors.Is(context.Cause(ctx), errGone) {
			return errGone
		}
		return err
	}
	return nil
}

// set changes what the outside sees. A generation takes calls, nil takes none.
func (s *slot) set(state string, g *generation, problem string) {
	s.mu.Lock()
	s.current.Store(g)
	s.state = state
	if g != nil {
		s.version, s.err = g.description.version, ""
	}
	if problem != "" {
		s.err = problem
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
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

// State is the plugin as operators see it.
func (s *slot) State() core.PluginState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return core.PluginState{Name: s.name, Version: s.version, State: s.state, Error: s.err}
}

var _ core.Invoker = (*slot)(nil)
