package command_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/command"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// invokerFunc is a plugin as a function.
type invokerFunc func(ctx context.Context, call *core.Call, progress func(core.Progress)) ([]byte, error)

func (f invokerFunc) Invoke(ctx context.Context, call *core.Call, progress func(core.Progress)) ([]byte, error) {
	return f(ctx, call, progress)
}

var echo invokerFunc = func(_ context.Context, call *core.Call, _ func(core.Progress)) ([]byte, error) {
	return call.Params, nil
}

// memoryLog is a command log that keeps everything and fails when told to.
type memoryLog struct {
	mu    sync.Mutex
	runs  []core.CommandRun
	spent map[string]time.Time
	sizes []int
	fail  error
	block chan struct{}
}

func (l *memoryLog) LogRuns(ctx context.Context, runs []core.CommandRun) error {
	if l.block != nil {
		select {
		case <-l.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.runs = append(l.runs, runs...)
	l.sizes = append(l.sizes, len(runs))
	return nil
}

func (l *memoryLog) SpendSigned(_ context.Context, from, id string, _ [32]byte, until time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	key := from + "/" + id
	if _, ok := l.spent[key]; ok {
		return core.ErrIDConflict
	}
	if l.spent == nil {
		l.spent = make(map[string]time.Time)
	}
	l.spent[key] = until
	return nil
}

const textSchema = `{"type":"object","properties":{"text":{"type":"string","minLength":1,"maxLength":10},
	"count":{"type":"integer"},"tags":{"type":"array","items":{"type":"string"},"maxItems":3},
	"where":{"type":"object","properties":{"a/b~c":{"type":"boolean"}},"required":["lat"]}},
	"required":["text"],"additionalProperties":false}`

func newDispatcher(t testing.TB, o command.Options) *command.Dispatcher {
	t.Helper()
	if o.Log == nil {
		o.Log = &memoryLog{}
	}
	d, err := command.New(o)
	if err != nil {
		t.Fatalf("new dispatcher: %v", err)
	}
	return d
}

func publish(t testing.TB, d *command.Dispatcher, invoker core.Invoker, commands ...core.Command) {
	t.Helper()
	byPlugin := map[string][]core.Command{}
	for _, c := range commands {
		c.Plugin, _, _ = strings.Cut(c.Name, ".")
		byPlugin[c.Plugin] = append(byPlugin[c.Plugin], c)
	}
	for plugin, list := range byPlugin {
		if err := d.Catalogue().Publish(plugin, list, invoker); err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
}

func callOf(name, params string) *core.Call {
	return &core.Call{ID: "call-1", Command: name, Params: []byte(params), Caller: core.Caller{UserID: "alice", Roles: []string{core.RoleUser}, Surface: core.SurfaceHTTP}}
}

func wantCode(t testing.TB, err error, want fault.Code) *fault.Error {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != want {
		t.Fatalf("got error %v, want code %s", err, want)
	}
	return f
}

func names(d *command.Dispatcher, roles ...string) []string {
	list := []string{}
	for _, c := range d.List(core.Caller{UserID: "alice", Roles: roles}) {
		list = append(list, c.Name)
	}
	return list
}
