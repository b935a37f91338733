package sdk

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
)

// Command is one command of a plugin, made by [Handle] or [Stream]. The zero
// value is refused by [Serve].
type Command struct {
	name        string
	summary     string
	description string
	params      *jsonschema.Schema
	result      *jsonschema.Schema
	examples    []example
	streaming   bool
	idempotent  bool
	readOnly    bool
	destructive bool
	timeout     time.Duration
	run         runFunc
	err         error // what Handle found wrong, told by Serve
}

type example struct{ params, result any }

type runFunc func(ctx context.Context, call Call, params []byte, progress ProgressFunc) ([]byte, error)

// ProgressFunc sends one part of a streaming answer: how far the work is, from 0
// to 100, and any value that JSON can hold, or nil. A negative percent says that it
// is unknown. It waits while the server does not keep up, and fails when the call
// is over, cancelled or out of time, or when data cannot be encoded; a handler
// should then return. It may be called from any goroutine until the handler
// returns.
type ProgressFunc func(percent float64, data any) error

// Handle makes a command of a function. The name is the plugin's own, or the
// plugin's, a dot and a part ^[a-z][a-z0-9_]{0,62}$.
//
// P must be what JSON calls an object: a struct, a map with string keys, or any or
// json.RawMessage for an object of any members; struct{} for a command without
// params. R is anything that JSON can hold. Unknown members of a struct are
// refused, and a field without omitempty or omitzero is required; the tag
// jsonschema:"…" describes a field. A time.Time travels as RFC 3339 in UTC with
// milliseconds, a time.Duration as text such as "1m30s", a []byte as base64, a nil
// slice as []. In a result omitempty leaves out what JSON calls empty and omitzero a
// zero such as 0 or false.
//
// The function is called from many goroutines at once. Its context ends when the
// call's time is over, the caller cancels or leaves, or the plugin is cut off.
func Handle[P, R any](name, summary string, run func(context.Context, Call, P) (R, error), options ...Option) Command {
	if run == nil {
		return Command{name: name, err: fmt.Errorf("the function is nil")}
	}
	return newCommand[P, R](name, summary, func(ctx context.Context, call Call, p P, _ ProgressFunc) (R, error) {
		return run(ctx, call, p)
	}, options)
}

// Stream is [Handle] for a command that tells its progress before its result.
func Stream[P, R any](name, summary string, run func(context.Context, Call, P, ProgressFunc) (R, error), options ...Option) Command {
	if run == nil {
		return Command{name: name, err: fmt.Errorf("the function is nil")}
	}
	c := newCommand[P, R](name, summary, run, options)
	c.streaming = true
	return c
}

func newCommand[P, R any](name, summary string, run func(context.Context, Call, P, ProgressFunc) (R, error), options []Option) Command {
	c := Command{name: name, summary: summary}
	for _, option := range options {
		option(&c)
	}
	var err error
	if c.params, err = paramsSchema(reflect.TypeFor[P]()); err != nil {
		c.err = err
		return c
	}
	if c.result, err = schemaOf(reflect.TypeFor[R]()); err != nil {
		c.err = fmt.Errorf("its result: %w", err)
		return c
	}
	c.run = func(ctx context.Context, call Call, raw []byte, progress ProgressFunc) ([]byte, error) {
		var p P
		if err := decodeParams(raw, &p); err != nil {
			return nil, err
		}
		r, err := run(ctx, call, p, progress)
		if err != nil {
			return nil, err
		}
		return encode(r)
	}
	return c
}

// Name is the command's full name.
func (c Command) Name() string { return c.name }

// Option refines a command.
type Option func(*Command)

// ReadOnly says that the command changes nothing.
func ReadOnly() Option { return func(c *Command) { c.readOnly = true } }

// Idempotent says that running the command twice with the same params leaves
// things as running it once does. The server then sends a call again when the
// plugin crashed under it.
func Idempotent() Option { return func(c *Command) { c.idempotent = true } }

// Destructive says that the command may undo or delete what is there, so that a
// surface can ask before it runs it.
func Destructive() Option { return func(c *Command) { c.destructive = true } }

// Timeout is how long the command may take by default, at least a millisecond. The
// operator may set another.
func Timeout(d time.Duration) Option {
	return func(c *Command) {
		c.timeout = d
		if d < time.Millisecond {
			c.err = fmt.Errorf("its timeout is %s, want at least 1ms", d)
		}
	}
}

// Describe gives the command a longer description, in Markdown.
func Describe(markdown string) Option {
	return func(c *Command) { c.description = markdown }
}

// Example documents one call. Both values are encoded as the command's own are, and
// [Serve] refuses an example that does not fit the schemas. It may be given
// several times.
func Example(params, result any) Option {
	return func(c *Command) { c.examples = append(c.examples, example{params, result}) }
}
