package transport

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// listCommands: GET /commands.
func (t *Transport) listCommands(_ http.ResponseWriter, r *request) (int, any, error) {
	return http.StatusOK, wire.CommandList{Commands: t.Commands.List(httpCaller(r))}, nil
}

func httpCaller(r *request) core.Caller {
	return core.Caller{
		UserID: r.caller.UserID, Username: r.caller.Username, Roles: r.caller.Roles,
		SessionID: r.caller.SessionID, RemoteAddr: r.remote.Addr, Surface: core.SurfaceHTTP,
	}
}

// runCommand: POST /commands/{name}. A client that asks a streaming command for
// text/event-stream gets progress as it comes; any other gets the result alone.
func (t *Transport) runCommand(w http.ResponseWriter, r *request) (int, any, error) {
	call, err := t.httpCall(w, r)
	if err != nil {
		return 0, nil, err
	}
	// The listener's read deadline is for slow bodies; this one has arrived, and a
	// command may take longer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if info, found := t.Commands.Find(call.Caller, call.Command); found && info.Streaming && strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return t.streamCommand(w, r, call)
	}
	result, elapsed, err := t.Commands.Dispatch(r.Context(), call, func(core.Progress) {})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, wire.CommandResult{ID: call.ID, Command: call.Command, Result: result, ElapsedMS: milliseconds(elapsed)}, nil
}

func (t *Transport) httpCall(w http.ResponseWriter, r *request) (*core.Call, error) {
	if t.draining.Load() {
		return nil, fault.New(fault.ShuttingDown, "The server is shutting down; try again shortly.")
	}
	if ok, retry := t.MessageLimit.Allow(r.caller.UserID, t.Now()); !ok {
		return nil, fault.New(fault.RateLimited, "Too many commands; slow down.").WithRetryAfter(retry)
	}
	call := &core.Call{ID: r.Header.Get("Idempotency-Key"), Command: r.PathValue("name"), Caller: httpCaller(r)}
	if call.ID == "" {
		call.ID = uuid.NewString()
	}
	if err := (&wire.Command{ID: call.ID, Command: call.Command}).Validate(); err != nil {
		return nil, err
	}
	data, err := body(w, r)
	if err != nil {
		return nil, err
	}
	call.Params, err = wire.DecodeParams(data)
	return call, err
}

// streamCommand answers with server-sent events: progress, then response or
// error, each with the frame of the WebSocket as its data. A peer that stops
// reading is cut off by the write deadline, one that left ends r.Context: both
// end the call.
func (t *Transport) streamCommand(w http.ResponseWriter, r *request, call *core.Call) (int, any, error) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	send := func(f wire.Frame) {
		hurry(w)
		if _, err := w.Write(event(f)); err != nil || control.Flush() != nil {
			cancel()
		}
	}
	result, elapsed, err := t.Commands.Dispatch(ctx, call, func(p core.Progress) {
		send(&wire.Progress{ID: call.ID, Data: p.Data, Percent: p.Percent})
	})
	send(t.final(call, result, elapsed, err))
	return 0, nil, nil
}

// final is the last event of a stream.
func (t *Transport) final(call *core.Call, result []byte, elapsed time.Duration, err error) wire.Frame {
	if err == nil {
		return &wire.Response{ID: call.ID, Command: call.Command, Result: result, Elapsed: elapsed}
	}
	reference := uuid.NewString()
	f := fault.From(err, reference)
	if f.Code == fault.Internal {
		t.Logger.Error().Err(err).Str("reference", reference).Str("command", call.Command).Msg("Command failed inside the server")
	}
	return &wire.ErrorFrame{ID: call.ID, Fault: f}
}

// event is a frame as a server-sent event. A line break ends an event's data, and
// in JSON it is only a blank: a plugin may have written its result over several
// lines.
func event(f wire.Frame) []byte {
	e := []byte("event: " + f.Type() + "\ndata: ")
	head := len(e)
	e = f.Append(e)
	for i, b := range e[head:] {
		if b == '\n' || b == '\r' {
			e[head+i] = ' '
		}
	}
	return append(e, "\n\n"...)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
