package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Error is a failure that may be shown to a stranger. Code, Message, Details and
// RetryAfter travel; the cause does not. An Error is immutable: the With methods
// return a changed copy, so a shared value can be refined safely from any
// goroutine.
type Error struct {
	// Code is for programs.
	Code Code
	// Message is one sentence for people: what was wrong, where, what would be right.
	Message string
	// RetryAfter says when repeating makes sense; zero says nothing. It travels in whole milliseconds.
	RetryAfter time.Duration
	// Details is JSON for programs, or nil; its shape depends on the code (docs/protocol.md §5).
	Details json.RawMessage

	cause error
}

// Violation is one entry of the details of [InvalidParams]: Pointer is a JSON
// Pointer (RFC 6901) into the params, Message says what would be right there.
type Violation struct {
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

// New makes an error of a code with a sentence for people.
func New(code Code, message string) *Error {
	return &Error{Code: code, Message: message}
}

// Newf is [New] with a format. It does not wrap: use [Error.WithCause] for what
// the operator should see and the stranger should not.
func Newf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error is the text for logs: code, message and cause.
func (e *Error) Error() string {
	if e.cause != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.cause.Error()
	}
	return string(e.Code) + ": " + e.Message
}

// Unwrap returns the cause, which never leaves the server.
func (e *Error) Unwrap() error { return e.cause }

// Is matches any *Error of the same code, so that callers may write
// errors.Is(err, fault.New(fault.MailboxFull, "")).
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code
}

// WithCause returns a copy that carries cause for the operator.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithRetryAfter returns a copy that tells when to try again.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// WithDetails returns a copy that carries v as JSON. A value that JSON cannot
// hold is a mistake of the caller and leaves the details out.
func (e *Error) WithDetails(v any) *Error {
	c := *e
	if raw, err := json.Marshal(v); err == nil {
		c.Details = raw
	}
	return &c
}

// CodeOf is the code of the first Error in err's chain, [Internal] for any other
// error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// From turns any error into what may be shown. An Error in the chain is returned
// as it is; anything else becomes [Internal] with reference, under which the
// caller logs the cause.
func From(err error, reference string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return New(Internal, "Something went wrong on the server; quote reference "+reference+" to its operator.").WithCause(err)
}
