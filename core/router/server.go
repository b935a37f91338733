package router

import (
	"bytes"
	"context"
	"runtime/debug"
	"time"

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
		await(ctx, s.Outbox, core.Encode(&wire.Progress{ID: call.ID, Data: p.Data, Percent: p.Percent}))
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

// roomInterval is how often a part that found the queue full looks for room.
const roomInterval = 5 * time.Millisecond

// await queues a frame once there is room for it. It ends with the call, or with
// the connection, whose outbox takes everything once it is closing: a client that
// does not read is cut off by the write deadline.
func await(ctx context.Context, out core.Outbox, frame *core.Encoded) {
	for !out.Offer(frame) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(roomInterval):
		}
	}
}
