package router

import (
	"bytes"
	"context"
	"runtime/debug"

	"github.com/google/uuid"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// command runs beside the reader, as one of the connection's bounded set of
// calls, and answers when it ends: progress while it runs, then exactly one
// response or error.
func (r *Router) command(req *core.Request, f *wire.Command) error {
	call := &core.Call{
		ID: f.ID, Command: f.Command, Caller: req.Session.Caller(), SignatureVerified: req.SignatureVerified, SignedDigest: req.SignedDigest,
		Params: bytes.Clone(f.Params), // the frame's bytes are the reader's again when this returns
	}
	s := req.Session
	return s.Calls.Start(f.ID, func(ctx context.Context) { r.run(ctx, s, call) })
}

func (r *Router) run(ctx context.Context, s *core.Session, call *core.Call) {
	defer func() { // the second of the three doors at which a panic ends
		if p := recover(); p != nil {
			reference := uuid.NewString()
			r.Logger.Error().Str("reference", reference).Str("command", call.Command).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("Command dispatch panicked")
			s.Outbox.Answer(core.Encode(&wire.ErrorFrame{ID: call.ID, Fault: fault.From(context.Canceled, reference)}))
		}
	}()
	result, elapsed, err := r.Commands.Dispatch(ctx, call, func(p core.Progress) {
		// A client that does not read its progress loses parts of it, not the answer.
		if !s.Outbox.Offer(core.Encode(&wire.Progress{ID: call.ID, Data: p.Data, Percent: p.Percent})) {
			r.metrics.progressDropped.Inc()
		}
	})
	if err != nil {
		reference := uuid.NewString()
		f := fault.From(err, reference)
		if f.Code == fault.Internal {
			r.Logger.Error().Err(err).Str("reference", reference).Str("command", call.Command).Str("conn", s.ConnID).Msg("Command failed inside the server")
		}
		s.Outbox.Answer(core.Encode(&wire.ErrorFrame{ID: call.ID, Fault: f}))
		return
	}
	s.Outbox.Answer(core.Encode(&wire.Response{ID: call.ID, Command: call.Command, Result: result, Elapsed: elapsed}))
}
