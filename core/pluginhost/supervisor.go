package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

// supervisor owns a slot's generations. One goroutine, [supervisor.run], does
// everything; it owns all fields below the channels.
type supervisor struct {
	// Fixed after construction.
	slot      *slot
	dir       string // the plugins directory
	runDir    *runDir
	template  launch // all but binary and dir
	catalogue core.Catalogue
	interval  time.Duration // of health checks
	drainTime time.Duration
	log       zerolog.Logger
	metrics   *metrics

	resets   chan struct{} // an operator asks for a fresh start
	closing  <-chan struct{}
	patience context.Context // ends when a stop has no time left to be gentle
	done     chan struct{}   // closed when run has returned

	binary  *binary
	starts  uint64
	past    history
	gen     *generation // nil while there is none
	ready   time.Time   // since when gen is
	health  health
	started chan startResult // nil unless one is starting
	abandon context.CancelFunc
	timer   *time.Timer // the next start, or the next look at health
	told    string      // the error that was logged last
}

type startResult struct {
	gen    *generation
	binary *binary
	err    error
}

// run supervises until closing: what happens comes in by one select, what follows
// is decided by the breaker.
func (v *supervisor) run() {
	defer close(v.done)
	v.timer = time.NewTimer(time.Hour)
	v.timer.Stop()
	defer v.timer.Stop()
	v.begin()
	for {
		select {
		case r := <-v.started:
			v.tookOff(r)
		case <-v.gone():
			v.crashed(endCrash)
		case <-v.timer.C:
			v.tick()
		case <-v.resets:
			v.reset()
		case <-v.closing:
			v.close()
			return
		}
	}
}

// gone tells of the end of the current generation; without one it never does.
func (v *supervisor) gone() <-chan struct{} {
	if v.gen == nil {
		return nil
	}
	return v.gen.ended()
}

// begin starts a generation beside the select.
func (v *supervisor) begin() {
	v.starts++
	v.slot.set(StateStarting, nil, "")
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan startResult, 1)
	v.started, v.abandon = results, cancel
	l, n, b := v.template, v.starts, v.binary
	go func() {
		defer cancel()
		results <- v.launch(ctx, l, n, b)
	}()
}

// launch prepares and starts one generation. It uses only what is fixed.
func (v *supervisor) launch(ctx context.Context, l launch, n uint64, b *binary) startResult {
	if b == nil {
		var err error
		if b, err = v.prepare(); err != nil {
			return startResult{err: &refusal{err}}
		}
	}
	dir, err := v.runDir.generation(l.plugin, n)
	if err != nil {
		return startResult{binary: b, err: &refusal{err}}
	}
	l.binary, l.dir = b, dir
	g, err := startGeneration(ctx, l)
	return startResult{gen: g, binary: b, err: err}
}

func (v *supervisor) prepare() (b *binary, err error) {
	f, err := openTrusted(v.dir, v.slot.name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return keep(v.runDir.binaries(), f)
}

// tookOff takes the result of a start.
func (v *supervisor) tookOff(r startResult) {
	v.started, v.binary = nil, r.binary
	if r.err == nil {
		if err := v.catalogue.Publish(v.slot.name, r.gen.description.commands, v.slot); err != nil {
			r.gen.close(unavailable(v.slot.name, "was refused"))
			r.err = &refusal{err}
		}
	}
	var refused *refusal
	switch {
	case errors.As(r.err, &refused):
		v.metrics.starts.WithLabelValues(v.slot.name, startRefused).Inc()
		v.apply(eventRefused, r.err)
	case r.err != nil:
		v.metrics.starts.WithLabelValues(v.slot.name, startFailed).Inc()
		v.apply(eventFailed, r.err)
	default:
		v.metrics.starts.WithLabelValues(v.slot.name, startOK).Inc()
		v.gen, v.ready, v.told = r.gen, time.Now(), ""
		v.health = health{interval: v.interval}
		v.timer.Reset(v.interval)
		v.slot.set(StateReady, r.gen, "")
		v.log.Info().Str("version", r.gen.description.version).Int("commands", len(r.gen.description.commands)).
			Str("sha256", r.binary.SHA256).Str("pid", r.gen.process.ID()).Msg("Plugin ready")
	}
}

// apply asks the breaker and does as it says.
func (v *supervisor) apply(e event, cause error) {
	var next verdict
	v.past, next = v.past.decide(e, time.Now(), rand.Float64()) //nolint:gosec // jitter is no secret
	text := cause.Error()
	v.slot.set(next.State, nil, text)
	v.timer.Stop()
	level := zerolog.WarnLevel
	switch {
	case next.State == StateQuarantined && v.past.probes == 0:
		level = zerolog.ErrorLevel
	case text == v.told:
		level = zerolog.DebugLevel // the same again tells an operator nothing
	}
	line := v.log.WithLevel(level).Err(cause).Str("state", next.State)
	if next.Wait >= 0 {
		line = line.Dur("next_start", next.Wait)
		v.timer.Reset(next.Wait)
	}
	line.Msg("Plugin not running")
	v.told = text
}

// tick is the next start, or the next look at the health of what runs.
func (v *supervisor) tick() {
	if v.gen == nil {
		v.begin()
		return
	}
	if !v.past.clean() && time.Since(v.ready) >= crashWindow {
		v.past, _ = v.past.decide(eventStable, time.Now(), 0)
	}
	p := v.health.look(v.gen.session.received.Load())
	if p.Hung {
		v.hung()
		return
	}
	if p.Ping {
		v.gen.session.ping()
	}
	v.timer.Reset(p.Next)
}

// hung ends a generation that gives no sign of life. Its calls fail before it is
// asked for its goroutines, so they do not wait for that.
func (v *supervisor) hung() {
	v.slot.set(StateCrashed, nil, "it hung")
	v.gen.session.end(unavailable(v.slot.name, "hung and is restarted").WithCause(errHung))
	v.gen.dump()
	v.crashed(endHung)
}

var errHung = fmt.Errorf("two pings unanswered for %v each", missDeadline)

// crashed buries the current generation and lets the breaker say what follows.
func (v *supervisor) crashed(how string) {
	g := v.gen
	v.gen = nil
	v.slot.set(StateCrashed, nil, "")
	g.lastBreath()
	g.close(unavailable(v.slot.name, "stopped working"))
	v.metrics.ends.WithLabelValues(v.slot.name, how).Inc()
	status, stderr := g.obituary()
	calls, cause := g.session.cause()
	v.log.Warn().Err(errors.Unwrap(cause)).Str("how", how).Str("process", status).Strs("calls", calls).Strs("stderr", stderr).Msg("Plugin process ended")
	text := how + ": " + status
	if words := lastWords(stderr); words != "" {
		text += ": " + words
	}
	v.apply(eventFailed, errors.New(text))
}

// lastWords is the line of stderr that says most about a crash.
func lastWords(stderr []string) string {
	for _, line := range stderr {
		if isPanic(line) {
			return line
		}
	}
	if len(stderr) == 0 {
		return ""
	}
	return stderr[len(stderr)-1]
}

// reset gives a plugin a clean slate and a new process from its file as it is now.
func (v *supervisor) reset() {
	v.log.Info().Msg("Plugin reset by an operator")
	v.giveUpStart()
	if g := v.gen; g != nil {
		v.gen = nil
		v.slot.set(StateStarting, nil, "")
		v.retire(g, unavailable(v.slot.name, "was restarted by an operator"))
	}
	v.past, _ = v.past.decide(eventReset, time.Now(), 0)
	v.timer.Stop()
	v.told, v.binary = "", nil
	v.begin()
}

// giveUpStart ends a start under way. One that has succeeded meanwhile leaves a
// generation like any other.
func (v *supervisor) giveUpStart() {
	if v.started == nil {
		return
	}
	v.abandon()
	r := <-v.started
	v.started, v.gen = nil, r.gen
}

// retire ends a generation in good order; calls that do not end in time fail with
// late. New ones meanwhile wait for the next generation, or are refused where there
// will be none.
func (v *supervisor) retire(g *generation, late error) {
	ctx, cancel := context.WithTimeout(v.patience, v.drainTime)
	defer cancel()
	how := endStopped
	if err := g.drain(ctx); err != nil {
		how = endKilled
		v.log.Warn().Err(err).Msg("Plugin did not drain")
		g.session.end(late) // before the process ends, which would be told as a crash
	}
	ctx, cancel = context.WithTimeout(v.patience, exitGrace)
	defer cancel()
	if !g.stop(ctx) {
		how = endKilled
		v.log.Warn().Msg("Plugin did not exit, killed")
	}
	g.close(late)
	v.metrics.ends.WithLabelValues(v.slot.name, how).Inc()
}

// close is the end of the slot. Nothing of it is left when it returns.
func (v *supervisor) close() {
	v.slot.set(StateDraining, nil, "")
	v.giveUpStart()
	if g := v.gen; g != nil {
		v.gen = nil
		v.retire(g, shuttingDown())
	}
	v.slot.set(StateStopped, nil, "")
}
