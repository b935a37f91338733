package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const (
	defaultCallTimeout    = 30 * time.Second
	defaultMaxResultBytes = wire.DefaultMaxFrameBytes

	// signedIDsKept is how long the id of a signed command is spent. It covers the
	// span in which the signature's timestamp would still be accepted.
	signedIDsKept = 10 * time.Minute
)

// Options configure a [Dispatcher]. Log is required.
type Options struct {
	// Access is the operator's policy by command or plugin name.
	Access map[string]Policy
	// CallTimeout is the time limit of a call for which nobody set another; 0
	// takes 30 s.
	CallTimeout time.Duration
	// MaxResultBytes is the largest result that is passed on; 0 takes 64 KiB.
	MaxResultBytes int
	// Log keeps the command log and the ids of signed commands.
	Log core.CommandLog
	// Logger takes what an operator should see.
	Logger zerolog.Logger
	// Registerer takes the metrics; nil keeps none.
	Registerer prometheus.Registerer
	// Now is the clock for what is stored; nil takes time.Now.
	Now func() time.Time
	// OnChange is called when the set of commands, or what is said of one, has
	// changed. It must not block. It may be called from any goroutine.
	OnChange func()
}

// Dispatcher runs commands: one road for every surface. Dispatch, List and Find
// may be called from any goroutine between Start and Stop.
type Dispatcher struct {
	callTimeout    time.Duration
	maxResultBytes int
	log            core.CommandLog
	logger         zerolog.Logger
	now            func() time.Time

	catalogue *Catalogue
	rates     *rates
	runs      *runLog
	metrics   *metrics
}

// New makes a dispatcher with an empty catalogue. It refuses a policy that is
// out of range, naming every problem.
func New(o Options) (*Dispatcher, error) {
	if o.Log == nil {
		return nil, errors.New("new dispatcher: no command log")
	}
	if err := checkAccess(o.Access); err != nil {
		return nil, err
	}
	if o.CallTimeout <= 0 {
		o.CallTimeout = defaultCallTimeout
	}
	if o.MaxResultBytes <= 0 {
		o.MaxResultBytes = defaultMaxResultBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register command metrics: %w", err)
	}
	return &Dispatcher{
		callTimeout: o.CallTimeout, maxResultBytes: o.MaxResultBytes, log: o.Log, logger: o.Logger, now: o.Now,
		catalogue: newCatalogue(o.Access, o.OnChange), rates: newRates(o.Now),
		runs: newRunLog(o.Log, o.Logger, m), metrics: m,
	}, nil
}

// Start starts the command log's writer.
func (d *Dispatcher) Start(context.Context) error {
	d.runs.start()
	return nil
}

// Stop writes what the command log still holds and returns when its writer has
// ended, or with an error when ctx ends first. Dispatch must not be called any
// more. A dispatcher that was not started stops at once.
func (d *Dispatcher) Stop(ctx context.Context) error { return d.runs.stop(ctx) }

// Catalogue is where plugins publish their commands.
func (d *Dispatcher) Catalogue() *Catalogue { return d.catalogue }

// SetAccess puts another policy in the place of the one in force. It refuses one that
// is out of range, naming every problem, and then changes nothing. Where it changes
// anything, rates begin with full buckets.
func (d *Dispatcher) SetAccess(access map[string]Policy) error {
	if err := checkAccess(access); err != nil {
		return err
	}
	if d.catalogue.hasAccess(access) {
		return nil
	}
	d.catalogue.setAccess(access)
	d.rates.forget()
	return nil
}

// List is what caller may run, by name.
func (d *Dispatcher) List(caller core.Caller) []wire.CommandInfo { return d.catalogue.list(&caller) }

// Find is one command, if it exists and caller may run it.
func (d *Dispatcher) Find(caller core.Caller, name string) (wire.CommandInfo, bool) {
	e, ok := d.catalogue.find(name, &caller)
	if !ok {
		return wire.CommandInfo{}, false
	}
	return e.info(), true
}

// Dispatch runs one call to its end: policy, params, deadline, plugin, result,
// command log. progress may be nil; it is called in order, from one goroutine at a
// time and not after Dispatch has returned, and may block as long as a write may:
// the plugin does not wait for it. A caller that leaves too much unread has its
// call cancelled as overloaded. elapsed is also told beside an error.
//
// Errors are *fault.Error: unknown_command (also for a command that exists, but
// not for this caller), signature_required, rate_limited, invalid_params with
// [fault.Violation] details, id_conflict, too_large for a result above
// MaxResultBytes, command_timeout, command_cancelled, whatever code the plugin
// chose, and internal, which is logged under the call's id.
func (d *Dispatcher) Dispatch(ctx context.Context, call *core.Call, progress func(core.Progress)) (result []byte, elapsed time.Duration, err error) {
	started := d.now()
	begin := time.Now() // monotonic, whatever clock is injected
	e, ok := d.catalogue.find(call.Command, &call.Caller)
	if !ok {
		d.metrics.unknown.Inc()
		return nil, time.Since(begin), fault.Newf(fault.UnknownCommand, "There is no command %q that you may run; ask for the list.", clip(call.Command, 130))
	}
	running := *call
	running.Params = normalParams(call.Params)
	e, result, err = d.run(ctx, e, &running, progress)
	elapsed = time.Since(begin)
	if err != nil {
		result, err = nil, d.shown(e, call, err)
	}
	d.record(e, &running, started, elapsed, len(result), err)
	return result, elapsed, err
}

// run is Dispatch without its bookkeeping. A plugin may be replaced between the
// look-up of a command and its call; then the call is judged anew by what there is
// now. It returns the command that ran.
func (d *Dispatcher) run(ctx context.Context, e *entry, call *core.Call, progress func(core.Progress)) (*entry, []byte, error) {
	if err := d.admit(ctx, e, call); err != nil {
		return e, nil, err
	}
	for {
		result, err := d.once(ctx, e, call, progress)
		if !errors.Is(err, core.ErrReplaced) {
			return e, result, err
		}
		next, ok := d.catalogue.find(call.Command, &call.Caller)
		switch {
		case !ok:
			return e, nil, fault.Newf(fault.UnknownCommand, "Command %q was removed a moment ago.", e.Name)
		case ctx.Err() != nil:
			return e, nil, ctx.Err()
		case next.policy.requireSignature && !call.SignatureVerified:
			return e, nil, signatureRequired(next)
		}
		if err := next.params.validate(call.Params); err != nil {
			return next, nil, err
		}
		e = next
	}
}

// once has one version of a command run a call.
func (d *Dispatcher) once(ctx context.Context, e *entry, call *core.Call, progress func(core.Progress)) ([]byte, error) {
	if !e.Untimed {
		timed, cancel := context.WithTimeout(ctx, e.policy.deadline(&e.Command, d.callTimeout))
		defer cancel()
		ctx = timed
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	parts := &relay{ctx: ctx, cancel: giveUp, deliver: progress}
	progress = parts.add
	if parts.deliver == nil || !e.Streaming {
		// A command that never said it streams has no one listening for parts.
		progress = func(core.Progress) {}
	}
	progress = d.bounded(e, call, progress)
	inFlight := d.metrics.inFlight.WithLabelValues(e.Plugin)
	inFlight.Inc()
	defer inFlight.Dec()
	result, err := invoke(ctx, e.invoker, call, progress)
	unread := parts.wait()
	if cause := context.Cause(ctx); fault.CodeOf(cause) == fault.Overloaded {
		return nil, cause
	}
	if err = cmp.Or(err, unread); err != nil {
		return nil, err
	}
	if len(result) > d.maxResultBytes {
		return nil, fault.Newf(fault.TooLarge, "The command's result has %d bytes; at most %d can be passed on. Ask for less.", len(result), d.maxResultBytes)
	}
	if err := checkResult(result); err != nil {
		return nil, fmt.Errorf("check result: %w", err)
	}
	return result, nil
}

// bounded leaves out parts that would not fit a frame, and tells the log of the
// first of a call.
func (d *Dispatcher) bounded(e *entry, call *core.Call, progress func(core.Progress)) func(core.Progress) {
	told := false
	return func(p core.Progress) {
		switch {
		case len(p.Data) <= d.maxResultBytes:
			progress(p)
		case !told:
			told = true
			d.logger.Warn().Str("command", e.Name).Str("plugin", e.Plugin).Str("call", call.ID).Int("bytes", len(p.Data)).
				Msg("Progress too large to be passed on was left out")
		}
	}
}

// admit asks everything that can be asked before the plugin is involved, in the
// order of what it costs us. The signed id is spent last: a call that was
// refused may be mended and sent again under it.
func (d *Dispatcher) admit(ctx context.Context, e *entry, call *core.Call) error {
	if e.policy.requireSignature && !call.SignatureVerified {
		return signatureRequired(e)
	}
	if err := d.rates.take(e, call.Caller.UserID); err != nil {
		return err
	}
	if err := e.params.validate(call.Params); err != nil {
		return err
	}
	if !call.SignatureVerified {
		return nil
	}
	err := d.log.SpendSigned(ctx, call.Caller.UserID, call.ID, call.SignedDigest, d.now().Add(signedIDsKept))
	if errors.Is(err, core.ErrIDConflict) {
		return fault.Newf(fault.IDConflict, "The signed command %q was taken before; sign a new one with another id.", call.ID)
	}
	return core.StoreFault(err)
}

func signatureRequired(e *entry) error {
	return fault.Newf(fault.SignatureRequired, "Command %q runs only when its frame is signed.", e.Name)
}

// invoke is the door behind which a panic of our own costs one call and not the
// server.
func invoke(ctx context.Context, invoker core.Invoker, call *core.Call, progress func(core.Progress)) (result []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("invoke command: panic: %v\n%s", p, debug.Stack())
		}
	}()
	return invoker.Invoke(ctx, call, progress)
}

// shown turns any error into what the caller may see, and logs what only the
// operator may.
func (d *Dispatcher) shown(e *entry, call *core.Call, err error) error {
	var known *fault.Error
	switch {
	case errors.As(err, &known) && known.Code.Valid() && known.Code != fault.Internal:
		return known
	case known != nil:
		// Internal, or a code outside the set: the text stays here.
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Newf(fault.CommandTimeout, "Command %q did not answer in time.", e.Name).WithCause(err)
	case errors.Is(err, context.Canceled):
		return fault.Newf(fault.CommandCancelled, "Command %q was cancelled.", e.Name).WithCause(err)
	}
	d.logger.Error().Err(err).Str("command", e.Name).Str("plugin", e.Plugin).
		Str("call", call.ID).Str("user", call.Caller.UserID).Msg("Command failed internally")
	return fault.From(errors.New(err.Error()), call.ID)
}

func (d *Dispatcher) record(e *entry, call *core.Call, started time.Time, elapsed time.Duration, resultBytes int, err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(fault.CodeOf(err))
	}
	d.metrics.calls.WithLabelValues(e.Name, outcome).Inc()
	d.metrics.duration.WithLabelValues(e.Name).Observe(elapsed.Seconds())
	run := core.CommandRun{
		ID: call.ID, Command: e.Name, Plugin: e.Plugin, UserID: call.Caller.UserID, SessionID: call.Caller.SessionID,
		Surface: call.Caller.Surface, RemoteAddr: call.Caller.RemoteAddr, Outcome: outcome, StartedAt: started.UTC().Truncate(time.Microsecond),
		Duration: elapsed, ParamsBytes: len(call.Params), ResultBytes: resultBytes,
	}
	if e.policy.logParams {
		run.Params = append([]byte{}, call.Params...)
	}
	d.runs.offer(run)
}
