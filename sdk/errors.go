package sdk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	maxMessageText  = 4 << 10  // of a failure's sentence
	maxDetailsBytes = 64 << 10 // of a failure's details
)

// Failf is a failure that the user should read. The format is that of fmt.Errorf,
// %w included; what it yields is shown, so wrap only what may be. Any other error a
// command returns is shown as "internal", without its text, which goes to the log.
//
// The code is a word for programs. The codes invalid_params, forbidden,
// rate_limited and command_failed travel as such; with any other the failure is
// command_failed and the word stands in its details, {"code": …}.
func Failf(code, format string, args ...any) error {
	text := fmt.Errorf(format, args...)
	f := fault.New(fault.CommandFailed, text.Error())
	switch c := fault.Code(code); {
	case c == "":
	case chosen(c):
		f.Code = c
	default:
		f = f.WithDetails(map[string]string{"code": code})
	}
	if wrapped := errors.Unwrap(text); wrapped != nil {
		f = f.WithCause(wrapped)
	}
	return f
}

// InvalidParams refuses the params for a reason that their schema cannot say. The
// pointer is a JSON Pointer (RFC 6901) such as /from/0, or empty for the whole; the
// message says what would be right there.
func InvalidParams(pointer, message string) error {
	return violation(pointer, message)
}

// RetryAfter refuses a call that may succeed later: the user sees rate_limited with
// the message, and the client waits for d.
func RetryAfter(d time.Duration, message string) error {
	return fault.New(fault.RateLimited, message).WithRetryAfter(max(d, 0))
}

// chosen lists the codes that an author may give a failure.
func chosen(c fault.Code) bool {
	switch c {
	case fault.CommandFailed, fault.InvalidParams, fault.Forbidden, fault.RateLimited:
		return true
	default:
		return false
	}
}

// HostError is the server's refusal of a request made through [Host]. It is for the
// plugin: a command that returns it unchanged shows its user only "internal".
type HostError struct {
	// Code is one of the codes in the comment of HostError in plugin.proto, or
	// no_server for a plugin run by hand.
	Code string
	// Message is a sentence for the plugin's author.
	Message string
	// RetryAfter says when repeating makes sense; zero says nothing.
	RetryAfter time.Duration
}

// Error is the text for logs.
func (e *HostError) Error() string { return "ask the server: " + e.Code + ": " + e.Message }

// Is matches any HostError of the same code, so that the Err values below work with
// errors.Is.
func (e *HostError) Is(target error) bool {
	var t *HostError
	return errors.As(target, &t) && t.Code == e.Code
}

// What a request to the server fails with, for errors.Is.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound error = &HostError{Code: "not_found", Message: "no such key"}
	// ErrConflict: the key's revision is not the one that [IfRevision] or [IfAbsent]
	// named.
	ErrConflict error = &HostError{Code: "revision_conflict", Message: "another revision"}
	// ErrForbidden: the operator did not grant the capability.
	ErrForbidden error = &HostError{Code: string(fault.Forbidden), Message: "not granted"}
	// ErrUnknownUser: there is no such user.
	ErrUnknownUser error = &HostError{Code: string(fault.UnknownUser), Message: "no such user"}
	// ErrNoServer: the plugin was run by hand, or its session has ended.
	ErrNoServer error = &HostError{Code: "no_server", Message: "there is no server behind this plugin"}
)

// errCallOver is what progress fails with after its handler returned.
var errCallOver = errors.New("send progress: the call is over")

// errTooLarge is what a message above the limit of the contract fails with.
var errTooLarge = fmt.Errorf("message above %d bytes", pluginpb.MaxMessageBytes)

// panicked is a panic in the author's code, or an end of its goroutine.
type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// internalText is all that a user learns of a failure that nobody chose.
const internalText = "The command failed unexpectedly."

// failureOf decides what the user is told about err. logged is true where err's own
// text is kept back and belongs in the log.
func failureOf(ctx context.Context, err error) (f *fault.Error, logged bool) {
	if _, ok := errors.AsType[*panicked](err); ok {
		return fault.New(fault.Internal, internalText), true
	}
	if errors.As(err, &f) && chosen(f.Code) {
		return f, false
	}
	switch ctx.Err() {
	case context.DeadlineExceeded:
		return fault.New(fault.CommandTimeout, "The command did not finish in time."), false
	case context.Canceled:
		return fault.New(fault.CommandCancelled, "The command was cancelled."), false
	}
	if errors.Is(err, errTooLarge) {
		return fault.New(fault.TooLarge, "The command's result is too large."), true
	}
	return fault.New(fault.Internal, internalText), true
}

// failureMessage is f on the wire, cut to what a message may hold.
func failureMessage(callID string, f *fault.Error) *pluginpb.Failure {
	out := &pluginpb.Failure{
		CallId:       callID,
		Code:         string(f.Code),
		Message:      shorten(f.Message, maxMessageText),
		RetryAfterMs: f.RetryAfter.Milliseconds(),
	}
	if f.RetryAfter > 0 && out.GetRetryAfterMs() == 0 {
		out.RetryAfterMs = 1
	}
	if len(f.Details) <= maxDetailsBytes {
		out.Details = f.Details
	}
	return out
}

// shorten makes s valid UTF-8, as protobuf demands, of at most limit bytes.
func shorten(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
}
