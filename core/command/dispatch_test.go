package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/command"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestSignedCommands(t *testing.T) {
	start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	log := &memoryLog{}
	d := newDispatcher(t, command.Options{Log: log, Now: func() time.Time { return start },
		Access: map[string]command.Policy{"pay": {RequireSignature: true}}})
	publish(t, d, echo, core.Command{Name: "pay", ParamsSchema: []byte(textSchema)})
	_, _, err := d.Dispatch(t.Context(), callOf("pay", `{"text":"a"}`), nil)
	wantCode(t, err, fault.SignatureRequired)

	signed := callOf("pay", `{}`)
	signed.SignatureVerified = true
	_, _, err = d.Dispatch(t.Context(), signed, nil)
	wantCode(t, err, fault.InvalidParams)
	if len(log.spent) != 0 {
		t.Fatal("a refused call spent its id")
	}
	signed.Params = []byte(`{"text":"a"}`)
	if _, _, err = d.Dispatch(t.Context(), signed, nil); err != nil {
		t.Fatalf("the mended call: %v", err)
	}
	if got, want := log.spent["alice/call-1"], start.Add(10*time.Minute); !got.Equal(want) {
		t.Errorf("got id spent until %v, want %v", got, want)
	}
	_, _, err = d.Dispatch(t.Context(), signed, nil)
	wantCode(t, err, fault.IDConflict)

	log.fail = errors.New("disk on fire")
	signed.ID = "call-2"
	_, _, err = d.Dispatch(t.Context(), signed, nil)
	wantCode(t, err, fault.StorageUnavailable)
}

func TestRateIsPerUserAndCommand(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	d := newDispatcher(t, command.Options{Now: func() time.Time { return now }, Access: map[string]command.Policy{"echo": {Rate: 2}, "echo.free": {Rate: 1000}, "echo.slow": {Rate: 0.5}}})
	publish(t, d, echo, core.Command{Name: "echo"}, core.Command{Name: "echo.two"}, core.Command{Name: "echo.slow", ParamsSchema: []byte(textSchema)}, core.Command{Name: "other"})
	try := func(name, user, params string) error {
		c := callOf(name, params)
		c.Caller.UserID = user
		_, _, err := d.Dispatch(t.Context(), c, nil)
		return err
	}
	for range 2 {
		if err := try("echo", "alice", ""); err != nil {
			t.Fatalf("within the rate: %v", err)
		}
	}
	f := wantCode(t, try("echo", "alice", ""), fault.RateLimited)
	if f.RetryAfter != 500*time.Millisecond {
		t.Errorf("got retry after %v, want 500ms", f.RetryAfter)
	}
	for _, c := range [][2]string{{"echo", "bob"}, {"echo.two", "alice"}, {"other", "alice"}} {
		if err := try(c[0], c[1], ""); err != nil {
			t.Errorf("%v: %v, want it unaffected", c, err)
		}
	}
	// Publishing anew gives no fresh tokens.
	d.Catalogue().Withdraw("echo")
	publish(t, d, echo, core.Command{Name: "echo"}, core.Command{Name: "echo.slow", ParamsSchema: []byte(textSchema)})
	wantCode(t, try("echo", "alice", ""), fault.RateLimited)
	now = now.Add(time.Second)
	if err := try("echo", "alice", ""); err != nil {
		t.Errorf("a second later: %v", err)
	}
	// What is wrong costs a token, too.
	wantCode(t, try("echo.slow", "alice", "{}"), fault.InvalidParams)
	wantCode(t, try("echo.slow", "alice", `{"text":"a"}`), fault.RateLimited)
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, command.Options{CallTimeout: 10 * time.Second, Access: map[string]command.Policy{"slow.allowed": {Timeout: time.Minute}}})
		hang := invokerFunc(func(ctx context.Context, _ *core.Call, _ func(core.Progress)) ([]byte, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("call plugin: %w", ctx.Err())
		})
		publish(t, d, hang, core.Command{Name: "slow"}, core.Command{Name: "slow.brief", Timeout: 2 * time.Second},
			core.Command{Name: "slow.greedy", Timeout: time.Hour}, core.Command{Name: "slow.allowed", Timeout: time.Second})
		for name, want := range map[string]time.Duration{
			"slow": 10 * time.Second, "slow.brief": 2 * time.Second, "slow.greedy": 10 * time.Second, "slow.allowed": time.Minute,
		} {
			_, elapsed, err := d.Dispatch(t.Context(), callOf(name, ""), nil)
			wantCode(t, err, fault.CommandTimeout)
			if elapsed != want {
				t.Errorf("%s: ended after %v, want %v", name, elapsed, want)
			}
		}
		cancelled, cancelNow := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancelNow)
		_, _, err := d.Dispatch(cancelled, callOf("slow", ""), nil)
		wantCode(t, err, fault.CommandCancelled)
	})
}

func TestOutcomes(t *testing.T) {
	secret := "open /var/lib/plugboard/keys"
	for name, c := range map[string]struct {
		result string
		err    error
		want   fault.Code
	}{
		"the author's refusal":   {err: fault.New(fault.CommandFailed, "No such city."), want: fault.CommandFailed},
		"a wrapped fault":        {err: fmt.Errorf("call: %w", fault.New(fault.Overloaded, "Busy.")), want: fault.Overloaded},
		"any other error":        {err: errors.New(secret), want: fault.Internal},
		"an internal fault":      {err: fault.New(fault.Internal, secret), want: fault.Internal},
		"a code outside the set": {err: fault.New("made_up", secret), want: fault.Internal},
		"no JSON":                {result: `{"a":`, want: fault.Internal},
		"nothing":                {result: ``, want: fault.Internal},
		"two values":             {result: `1 2`, want: fault.Internal},
		"duplicate members":      {result: `{"a":1,"a":2}`, want: fault.Internal},
		"too deep":               {result: strings.Repeat("[", 65) + strings.Repeat("]", 65), want: fault.Internal},
		"too many":               {result: "[" + strings.Repeat("1,", 10_001) + "1]", want: fault.Internal},
		"too large":              {result: `"` + strings.Repeat("a", 100_000) + `"`, want: fault.TooLarge},
	} {
		var logged bytes.Buffer
		d := newDispatcher(t, command.Options{Logger: zerolog.New(&logged)})
		publish(t, d, invokerFunc(func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) { return []byte(c.result), c.err }), core.Command{Name: "echo"})
		got, _, err := d.Dispatch(t.Context(), callOf("echo", ""), nil)
		f := wantCode(t, err, c.want)
		if got != nil {
			t.Errorf("%s: got result %.40s beside an error", name, got)
		}
		if c.want != fault.Internal {
			continue
		}
		if strings.Contains(f.Message, secret) || !strings.Contains(f.Message, "call-1") {
			t.Errorf("%s: got message %q, want a reference and no cause", name, f.Message)
		}
		if !strings.Contains(logged.String(), `"call":"call-1"`) {
			t.Errorf("%s: log has no reference: %s", name, logged.String())
		}
	}
}

func TestPanicCostsOneCall(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	publish(t, d, invokerFunc(func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) { panic("boom") }), core.Command{Name: "echo"})
	_, _, err := d.Dispatch(t.Context(), callOf("echo", ""), nil)
	wantCode(t, err, fault.Internal)
}

func TestProgressReachesOnlyStreamingCommands(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	publish(t, d, invokerFunc(func(_ context.Context, _ *core.Call, progress func(core.Progress)) ([]byte, error) {
		progress(core.Progress{Data: []byte("1")})
		return []byte("2"), nil
	}), core.Command{Name: "tell", Streaming: true}, core.Command{Name: "tell.not"})
	for name, want := range map[string]int{"tell": 1, "tell.not": 0} {
		got := 0
		if _, _, err := d.Dispatch(t.Context(), callOf(name, ""), func(core.Progress) { got++ }); err != nil || got != want {
			t.Errorf("%s: got %d parts, %v, want %d", name, got, err, want)
		}
	}
	if _, _, err := d.Dispatch(t.Context(), callOf("tell", ""), nil); err != nil {
		t.Errorf("without a listener: %v", err)
	}
}

// A part that would not fit a frame is left out; those around it are not.
func TestProgressThatIsTooLargeIsLeftOut(t *testing.T) {
	d := newDispatcher(t, command.Options{MaxResultBytes: 10})
	publish(t, d, invokerFunc(func(_ context.Context, _ *core.Call, progress func(core.Progress)) ([]byte, error) {
		for _, part := range []string{"1", `"0123456789"`, `"01234567"`} {
			progress(core.Progress{Data: []byte(part)})
		}
		return []byte("2"), nil
	}), core.Command{Name: "tell", Streaming: true})
	got := ""
	if _, _, err := d.Dispatch(t.Context(), callOf("tell", ""), func(p core.Progress) { got += string(p.Data) }); err != nil || got != `1"01234567"` {
		t.Errorf("got %s, %v, want the two parts that fit", got, err)
	}
}

func BenchmarkDispatch(b *testing.B) {
	d := newDispatcher(b, command.Options{})
	publish(b, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(textSchema)})
	if err := d.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			b.Error(err)
		}
	})
	call := callOf("echo", `{"text":"hello","count":3,"tags":["a","b"]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := d.Dispatch(b.Context(), call, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// A surface that is slow gets every part, in order, before the answer, and holds up
// nobody meanwhile; one that leaves too much unread loses the call, not some parts.
func TestProgressIsWholeOrNotAtAll(t *testing.T) {
	const parts = 3000
	burst := func(size int) invokerFunc {
		return func(ctx context.Context, _ *core.Call, progress func(core.Progress)) ([]byte, error) {
			start := time.Now()
			for i := range parts {
				progress(core.Progress{Data: fmt.Appendf(nil, `"%0*d"`, size, i)})
			}
			if took := time.Since(start); took != 0 { // on synctest's clock: not at all
				t.Errorf("the plugin waited %v for a slow surface", took)
			}
			return []byte(`{}`), ctx.Err()
		}
	}
	for name, c := range map[string]struct {
		size int
		want fault.Code
	}{"fits": {8, ""}, "too much": {1000, fault.Overloaded}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDispatcher(t, command.Options{})
				publish(t, d, burst(c.size), core.Command{Name: "tail", Streaming: true})
				got := 0
				_, _, err := d.Dispatch(t.Context(), callOf("tail", ""), func(p core.Progress) {
					if want := fmt.Sprintf(`"%0*d"`, c.size, got); string(p.Data) != want {
						t.Errorf("got part %s, want %s", p.Data, want)
					}
					got++
					if got%100 == 0 {
						time.Sleep(time.Millisecond) // a surface that writes now and then
					}
				})
				if fault.CodeOf(err) != c.want {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if c.want == "" && got != parts {
					t.Errorf("got %d parts, want %d", got, parts)
				}
			})
		})
	}
}

func TestReplacedCommandsAreJudgedAnew(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	var next func()
	replaced := invokerFunc(func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) {
		next()
		return nil, core.ErrReplaced
	})
	for name, c := range map[string]struct {
		then func()
		code fault.Code // "" where the call succeeds
	}{
		"same command": {func() { publish(t, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(`{"type":"object"}`)}) }, ""},
		"other schema": {func() { publish(t, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(textSchema)}) }, fault.InvalidParams},
		"command gone": {func() { d.Catalogue().Withdraw("echo") }, fault.UnknownCommand},
		"replaced twice": {func() {
			publish(t, d, invokerFunc(func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) {
				publish(t, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(`{"type":"object"}`)})
				return nil, core.ErrReplaced
			}), core.Command{Name: "echo", ParamsSchema: []byte(`{"type":"object"}`)})
		}, ""},
	} {
		publish(t, d, replaced, core.Command{Name: "echo", ParamsSchema: []byte(`{"type":"object"}`)})
		next = c.then
		result, _, err := d.Dispatch(t.Context(), callOf("echo", `{"n":1}`), nil)
		if c.code == "" && (err != nil || string(result) != `{"n":1}`) {
			t.Errorf("%s: got %s, %v", name, result, err)
		}
		if fault.CodeOf(err) != c.code && err != nil {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if c.code != "" && err == nil {
			t.Errorf("%s: the call succeeded, want %s", name, c.code)
		}
	}
}

func TestUntimedCommandsHaveNoDeadline(t *testing.T) {
	d := newDispatcher(t, command.Options{CallTimeout: time.Second, Access: map[string]command.Policy{"echo": {Timeout: time.Second}}})
	publish(t, d, invokerFunc(func(ctx context.Context, _ *core.Call, _ func(core.Progress)) ([]byte, error) {
		if _, ok := ctx.Deadline(); ok {
			t.Error("a command under a debugger has a deadline")
		}
		return []byte("{}"), nil
	}), core.Command{Name: "echo", ParamsSchema: []byte(`{"type":"object"}`), Untimed: true})
	if _, _, err := d.Dispatch(t.Context(), callOf("echo", "{}"), nil); err != nil {
		t.Error(err)
	}
}
