package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

const (
	// probation is how long a version that was put in the place of another may be
	// quarantined and have the former one come back.
	probation = 5 * time.Minute
	// maxRetiring is how many generations may be on their way out beside the current
	// one. A further replacement waits for one of them.
	maxRetiring = 3
)

// supervisor owns a slot's generations. One goroutine, [supervisor.run], does
// everything; it owns all fields below the channels.
type supervisor struct {
	// Fixed after construction.
	house    *house
	slot     *slot
	log      zerolog.Logger
	orders   chan func()   // from the watcher and from operators
	retired  chan struct{} // a generation on its way out is gone
	closing  <-chan struct{}
	patience context.Context // ends when a stop has no time left to be gentle
	done     chan struct{}   // closed when run has returned

	policy  policy
	present bool // there is a file
	leaving bool // the plugin is to be removed

	binary   *version  // what runs, or is to be tried again
	former   *version  // what ran before it
	switched time.Time // since when binary is in the place of former

	current  *generation // nil while there is none
	ready    time.Time   // since when current is
	offer    *offer      // published last
	offers   uint64
	starting *start  // nil unless one is under way
	pending  *wanted // a replacement that waits until fewer generations retire
	retiring int

	past    history
	health  health
	timer   *time.Timer     // the next start, or the next look at health
	told    string          // the error that was logged last
	waiting []chan struct{} // closed when nothing is under way
}

// policy is what an operator set for a plugin.
type policy struct {
	settings []byte
	grants   []string
	named    bool // the configuration names the plugin, with or without grants
}

// version is a binary that the slot keeps.
type version struct {
	*binary
	name   string // as it calls itself; "" while it was never ready
	stated core.PluginVersion
}

// reason is why a generation is started.
type reason int

const (
	forFile    reason = iota // the file as it is now, whatever runs
	forRestart               // what ran, again
	forFormer                // the version before
	forDebug                 // one that somebody else started
)

// wanted says what is to be started.
type wanted struct {
	why reason
	// of is the binary, kept once; nil takes the file, or at.
	of *binary
	at *core.PluginAttachment
	// unless is what runs: nothing is to be done where the file leads to the same.
	unless *launch
	// strict ends what runs when the file may not be run any more.
	strict bool
	answer func(error) // told the outcome; may be nil
}

func (w *wanted) tell(err error) {
	if w.answer != nil {
		w.answer(err)
	}
}

// start is a start under way.
type start struct {
	wanted
	results chan startResult // holds one
	abandon context.CancelFunc
}

type startResult struct {
	gen    *generation
	binary *binary // kept once for whoever takes the result
	err    error
}

var (
	errGivenUp   = errors.New("given up for a later order")
	errUnchanged = errors.New("unchanged")
)

// run supervises until closing: what happens comes in by one select, what follows
// is decided by the breaker.
func (v *supervisor) run() {
	defer close(v.done)
	v.timer = time.NewTimer(time.Hour)
	v.timer.Stop()
	defer v.timer.Stop()
	if v.present {
		v.begin(wanted{why: forFile})
	}
	for !v.leaving {
		select {
		case r := <-v.results():
			v.tookOff(r)
		case <-v.gone():
			v.ended()
		case <-v.timer.C:
			v.tick()
		case order := <-v.orders:
			order()
		case <-v.retired:
			v.oneLess()
		case <-v.closing:
			v.close()
			return
		}
		v.tellIdle()
	}
	v.slot.remove()
	v.house.catalogue.Withdraw(v.slot.name)
	v.log.Info().Msg("Plugin removed")
	v.close()
}

// gone tells of the end of the current generation; without one it never does.
func (v *supervisor) gone() <-chan struct{} {
	if v.current == nil {
		return nil
	}
	return v.current.ended()
}

func (v *supervisor) results() <-chan startResult {
	if v.starting == nil {
		return nil
	}
	return v.starting.results
}

// tellIdle answers whoever waits until nothing is under way.
func (v *supervisor) tellIdle() {
	if v.starting != nil || v.pending != nil {
		return
	}
	for _, w := range v.waiting {
		close(w)
	}
	v.waiting = nil
}

// begin starts a generation beside the select. One that is starting already is given
// up; one that runs goes on until the new one is ready.
func (v *supervisor) begin(w wanted) {
	v.giveUpStart()
	if v.retiring >= maxRetiring {
		v.pending = &w
		return
	}
	if v.current == nil {
		v.timer.Stop()
		v.slot.set(StateStarting, nil, "")
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.starting = &start{wanted: w, results: make(chan startResult, 1), abandon: cancel}
	results, p := v.starting.results, v.policy
	go func() {
		defer cancel()
		results <- v.launch(ctx, w, p)
	}()
}

// restart tries again what ran, or the file where nothing ever did.
func (v *supervisor) restart() {
	w := wanted{why: forRestart}
	if v.binary == nil {
		w.why = forFile
	} else {
		w.of = v.house.binaries.again(v.binary.binary)
	}
	v.begin(w)
}

// launch prepares and starts one generation. It uses only what is fixed.
func (v *supervisor) launch(ctx context.Context, w wanted, p policy) startResult {
	l := v.house.launchOf(v.slot.name, p, v.log)
	if w.at != nil {
		g, err := attachGeneration(ctx, l, *w.at)
		return startResult{gen: g, err: err}
	}
	var err error
	if l.binary = w.of; l.binary == nil {
		if l.binary, err = v.prepare(); err != nil {
			return startResult{err: &refusal{err}}
		}
	}
	if err := v.house.ready(&l, p); err != nil {
		return startResult{binary: l.binary, err: &refusal{err}}
	}
	if w.unless != nil && l.same(w.unless) {
		return startResult{binary: l.binary, err: errUnchanged}
	}
	g, err := startGeneration(ctx, l)
	return startResult{gen: g, binary: l.binary, err: err}
}

func (v *supervisor) prepare() (b *binary, err error) {
	f, err := openTrusted(v.house.dir, v.slot.name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return v.house.binaries.keep(f)
}

// tookOff takes the result of a start.
func (v *supervisor) tookOff(r startResult) {
	s := v.starting
	v.starting = nil
	err := r.err
	if err == nil {
		err = v.publish(r.gen)
	}
	var refused *refusal
	switch {
	case err == nil:
		v.house.metrics.starts.WithLabelValues(v.slot.name, startOK).Inc()
		v.take(s, r)
	case errors.Is(err, errUnchanged):
		v.house.binaries.drop(r.binary)
		v.slot.note(func(d *core.PluginDetail) { d.Error, d.RolledBack = "", "" })
		if err = nil; v.current == nil { // it ended meanwhile
			v.restart()
		}
	case errors.As(err, &refused):
		v.house.metrics.starts.WithLabelValues(v.slot.name, startRefused).Inc()
		v.notStarted(s, r, eventRefused, err)
	default:
		v.house.metrics.starts.WithLabelValues(v.slot.name, startFailed).Inc()
		v.notStarted(s, r, eventFailed, err)
	}
	s.tell(err)
}

// publish puts a generation's commands into the catalogue, if they are not what is
// there already. Calls that come by them wait for the switch, which follows.
func (v *supervisor) publish(g *generation) error {
	if v.offer != nil && sameCommands(v.offer.commands, g.description.commands) {
		g.offer = v.offer
		return nil
	}
	v.offers++
	next := &offer{slot: v.slot, number: v.offers, commands: g.description.commands}
	if err := v.house.catalogue.Publish(v.slot.name, next.commands, next); err != nil {
		g.close(unavailable(v.slot.name, "was refused"))
		return &refusal{err}
	}
	g.offer, v.offer = next, next
	return nil
}

// take puts a new generation in the place of the current one: the one step by which
// an upgrade happens.
func (v *supervisor) take(s *start, r startResult) {
	g, old := r.gen, v.current
	now := time.Now()
	v.current, v.ready, v.told = g, now, ""
	if s.why != forRestart {
		v.past = history{}
	}
	rolledBack := ""
	if r.binary != nil {
		if s.why == forFormer {
			rolledBack = "an operator rolled back"
		}
		v.keep(r.binary, g.description.version, now)
	}
	v.health = health{interval: v.house.interval}
	v.timer.Stop()
	if !g.attached {
		v.timer.Reset(v.house.interval)
	}
	v.slot.set(StateReady, g, "", func(d *core.PluginDetail) {
		g.tell(d)
		d.Since, d.Starts = now, d.Starts+1
		d.Former = nil
		if v.former != nil {
			d.Former = &v.former.stated
		}
		if s.why != forRestart {
			d.RolledBack = rolledBack
		}
		if !g.attached {
			d.File = filepath.Join(v.house.dir, v.slot.name)
		}
	})
	line := v.log.Info().Str("version", g.description.version).Int("commands", len(g.description.commands))
	if r.binary != nil {
		line = line.Str("sha256", r.binary.SHA256).Str("pid", g.process.ID())
	}
	if old == nil {
		line.Msg("Plugin ready")
		return
	}
	line.Str("former", old.description.version).Msg("Plugin replaced, the former version finishes its calls")
	v.house.metrics.replaced.WithLabelValues(v.slot.name).Inc()
	v.retireAside(old)
}

// keep remembers the binary that runs, and the one before it.
func (v *supervisor) keep(b *binary, name string, now time.Time) {
	next := &version{binary: b, name: name, stated: core.PluginVersion{Version: name, SHA256: b.SHA256, Path: b.Path}}
	switch {
	case v.binary == nil:
	case v.binary.SHA256 == b.SHA256:
		v.house.binaries.drop(v.binary.binary)
	case v.binary.name == "": // never ready: nothing to come back to
		v.house.binaries.drop(v.binary.binary)
		v.switched = now
	default:
		v.forgetFormer()
		v.former, v.switched = v.binary, now
	}
	v.binary = next
	if v.former != nil && v.former.SHA256 == b.SHA256 { // rolled back: the two changed places
		v.forgetFormer()
	}
}

func (v *supervisor) forgetFormer() {
	if v.former != nil {
		v.house.binaries.drop(v.former.binary)
		v.former = nil
	}
}

// notStarted is what follows when a start did not succeed. What runs goes on.
func (v *supervisor) notStarted(s *start, r startResult, e event, err error) {
	if s.why == forDebug {
		v.log.Warn().Err(err).Msg("Plugin not attached")
		if v.current == nil {
			v.back()
		}
		return
	}
	if s.strict && e == eventRefused && v.current != nil {
		old := v.current
		v.current = nil
		v.slot.set(StateFailed, nil, err.Error())
		v.retireAside(old)
		v.forgetFormer() // nor may what ran before come back
		v.house.binaries.drop(v.binary.binary)
		v.binary = nil
	}
	if v.current != nil {
		v.house.binaries.drop(r.binary)
		text := fmt.Sprintf("version %s goes on, because the start of another failed: %v", v.current.description.version, err)
		v.slot.note(func(d *core.PluginDetail) {
			d.Error = text
			if s.why == forFile {
				d.RolledBack = "the file as it is now does not start: " + err.Error()
			}
		})
		v.log.Error().Err(err).Str("running", v.current.description.version).Msg("Plugin not replaced, the former version goes on")
		return
	}
	if r.binary != nil {
		v.attempt(r.binary)
	}
	v.apply(e, err)
}

// attempt remembers a binary that is to be tried again.
func (v *supervisor) attempt(b *binary) {
	switch {
	case v.binary == nil:
	case v.binary.SHA256 == b.SHA256:
		v.house.binaries.drop(b)
		return
	case v.binary.name == "":
		v.house.binaries.drop(v.binary.binary)
	default:
		v.forgetFormer()
		v.former, v.switched = v.binary, time.Now()
	}
	v.binary = &version{binary: b}
}

// apply asks the breaker and does as it says.
func (v *supervisor) apply(e event, cause error) {
	var next verdict
	v.past, next = v.past.decide(e, time.Now(), rand.Float64()) //nolint:gosec // jitter is no secret
	untried := v.binary != nil && v.binary.name == ""
	if v.former != nil && (untried || next.State != StateBackoff && time.Since(v.switched) < probation) {
		v.comeBack(cause)
		return
	}
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

// comeBack gives up a version that soon did not work for the one before it.
func (v *supervisor) comeBack(cause error) {
	bad := v.binary
	v.binary, v.former = v.former, nil
	v.house.binaries.drop(bad.binary)
	v.past = history{}
	text := "the file as it is now does not work: " + cause.Error()
	v.slot.note(func(d *core.PluginDetail) { d.RolledBack, d.Error = text, text })
	v.log.Error().Err(cause).Str("version", v.binary.name).Msg("Plugin does not work in its new version, the former one comes back")
	v.house.metrics.rollbacks.WithLabelValues(v.slot.name).Inc()
	v.restart()
}

// tick is the next start, or the next look at the health of what runs.
func (v *supervisor) tick() {
	if v.current == nil {
		if v.starting == nil {
			v.restart()
		}
		return
	}
	if !v.past.clean() && time.Since(v.ready) >= crashWindow {
		v.past, _ = v.past.decide(eventStable, time.Now(), 0)
	}
	p := v.health.look(v.current.session.received.Load())
	if p.Hung {
		v.hung()
		return
	}
	if p.Ping {
		v.current.session.ping()
	}
	v.timer.Reset(p.Next)
}

// hung ends a generation that gives no sign of life. Its calls fail before it is
// asked for its goroutines, so they do not wait for that.
func (v *supervisor) hung() {
	v.slot.set(StateCrashed, nil, "it hung")
	v.current.session.end(unavailable(v.slot.name, "hung and is restarted").WithCause(errHung))
	v.current.dump()
	v.crashed(endHung)
}

var errHung = fmt.Errorf("two pings unanswered for %v each", missDeadline)

// ended is what follows when the current generation ended by itself.
func (v *supervisor) ended() {
	if !v.current.attached {
		v.crashed(endCrash)
		return
	}
	g := v.current
	v.current = nil
	g.close(unavailable(v.slot.name, "was ended under its debugger"))
	v.house.metrics.ends.WithLabelValues(v.slot.name, endStopped).Inc()
	v.log.Info().Msg("Attached plugin ended")
	v.back()
}

// back is what follows an attached plugin: the file, where there is one.
func (v *supervisor) back() {
	if !v.present {
		v.leaving = true
		return
	}
	v.begin(wanted{why: forFile})
}

// crashed buries the current generation and lets the breaker say what follows. While
// a replacement is starting, that is it.
func (v *supervisor) crashed(how string) {
	g := v.current
	v.current = nil
	v.slot.set(StateCrashed, nil, "")
	g.lastBreath()
	g.close(unavailable(v.slot.name, "stopped working"))
	v.house.metrics.ends.WithLabelValues(v.slot.name, how).Inc()
	record := g.obituary(how, v.ready)
	v.slot.note(func(d *core.PluginDetail) {
		d.Crashes++
		d.History = slices.Insert(d.History, 0, record)
		d.History = d.History[:min(len(d.History), crashesKept)]
	})
	_, cause := g.session.cause()
	v.log.Warn().Err(errors.Unwrap(cause)).Str("how", how).Str("process", record.Status).Strs("calls", record.Calls).
		Strs("stderr", record.Stderr).Msg("Plugin process ended")
	if v.starting != nil {
		v.slot.set(StateStarting, nil, "")
		return
	}
	text := how + ": " + record.Status
	if words := lastWords(record.Stderr); words != "" {
		text += ": " + words
	}
	v.past = v.past.began(g.began)
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

// giveUpStart ends a start under way.
func (v *supervisor) giveUpStart() {
	v.forgetPending()
	s := v.starting
	if s == nil {
		return
	}
	v.starting = nil
	s.abandon()
	r := <-s.results
	if r.gen != nil { // it has had no call yet
		r.gen.close(unavailable(v.slot.name, "was replaced"))
	}
	v.house.binaries.drop(r.binary)
	s.tell(errGivenUp)
}

// forgetPending gives up a start that was not even begun.
func (v *supervisor) forgetPending() {
	if w := v.pending; w != nil {
		v.pending = nil
		v.house.binaries.drop(w.of)
		w.tell(errGivenUp)
	}
}

// retireAside ends a generation in good order, beside the select.
func (v *supervisor) retireAside(g *generation) {
	v.retiring++
	go func() {
		v.retire(g, unavailable(v.slot.name, "was replaced"))
		v.retired <- struct{}{}
	}()
}

func (v *supervisor) oneLess() {
	v.retiring--
	if w := v.pending; w != nil {
		v.pending = nil
		v.begin(*w)
	}
}

// retire ends a generation in good order; calls that do not end in time fail with
// late.
func (v *supervisor) retire(g *generation, late error) {
	ctx, cancel := context.WithTimeout(v.patience, v.house.drainTime)
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
	v.house.metrics.ends.WithLabelValues(v.slot.name, how).Inc()
}

// close is the end of the slot. Nothing of it is left when it returns.
func (v *supervisor) close() {
	v.slot.set(StateDraining, nil, "")
	v.giveUpStart()
	if g := v.current; g != nil {
		v.current = nil
		v.retire(g, shuttingDown())
	}
	for ; v.retiring > 0; v.retiring-- {
		<-v.retired
	}
	v.forgetFormer()
	if v.binary != nil {
		v.house.binaries.drop(v.binary.binary)
	}
	v.tellIdle()
	v.slot.set(StateStopped, nil, "")
}

// pidOf is a process id as operators know it.
func pidOf(id string) int {
	pid, _ := strconv.Atoi(id) // "" while there is none
	return pid
}
