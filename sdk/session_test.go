package sdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type text struct {
	Text string `json:"text"`
}

// probe is a plugin named probe of these commands.
func probe(commands ...sdk.Command) sdk.Plugin {
	return sdk.Plugin{Name: "probe", Version: "1.0.0", Summary: "A plugin of the tests", Commands: commands}
}

// failing is a plugin whose one command fails with err.
func failing(err error) sdk.Plugin {
	return probe(sdk.Handle("probe", "Fails", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
		return struct{}{}, err
	}))
}

func TestWhatTheUserSeesOfAnError(t *testing.T) {
	secret := errors.New("dial 10.0.0.7: refused")
	for _, tt := range []struct {
		name string
		err  error
		want fault.Error
	}{
		{"chosen", sdk.Failf("no_such_city", "No city is called %s.", "Atlantis"),
			fault.Error{Code: fault.CommandFailed, Message: "No city is called Atlantis.", Details: []byte(`{"code":"no_such_city"}`)}},
		{"chosen without a word", sdk.Failf("", "No."), fault.Error{Code: fault.CommandFailed, Message: "No."}},
		{"chosen code of the closed set", sdk.Failf("forbidden", "Only for editors."), fault.Error{Code: fault.Forbidden, Message: "Only for editors."}},
		{"not the author's to choose", sdk.Failf("internal", "Boom."),
			fault.Error{Code: fault.CommandFailed, Message: "Boom.", Details: []byte(`{"code":"internal"}`)}},
		{"wrapped by the author", fmt.Errorf("forecast: %w", sdk.Failf("", "No.")), fault.Error{Code: fault.CommandFailed, Message: "No."}},
		{"params", sdk.InvalidParams("/from/0", "must lie before /to"),
			fault.Error{Code: fault.InvalidParams, Message: "Invalid params: /from/0 must lie before /to.", Details: []byte(`[{"pointer":"/from/0","message":"must lie before /to"}]`)}},
		{"later", sdk.RetryAfter(1500*time.Millisecond, "The quota is used up."),
			fault.Error{Code: fault.RateLimited, Message: "The quota is used up.", RetryAfter: 1500 * time.Millisecond}},
		{"not chosen", secret, fault.Error{Code: fault.Internal, Message: "The command failed unexpectedly."}},
		{"a fault that is not for users", fault.New(fault.TokenRevoked, "…"), fault.Error{Code: fault.Internal, Message: "The command failed unexpectedly."}},
		{"refused by the server", &sdk.HostError{Code: "forbidden", Message: "not granted"}, fault.Error{Code: fault.Internal, Message: "The command failed unexpectedly."}},
		{"no valid UTF-8", sdk.Failf("", "a\xffb"), fault.Error{Code: fault.CommandFailed, Message: "a\uFFFDb"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := sdktest.Start(t, failing(tt.err))
			_, err := in.Call(t.Context(), "probe", nil)
			var got *fault.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a fault", err)
			}
			same := got.Code == tt.want.Code && got.Message == tt.want.Message && got.RetryAfter == tt.want.RetryAfter && string(got.Details) == string(tt.want.Details)
			if !same {
				t.Errorf("got  %+v (%s)\nwant %+v (%s)", got, got.Details, &tt.want, tt.want.Details)
			}
			if got.Code == fault.Internal && len(in.Logs()) != 1 {
				t.Errorf("got log %+v, want what was kept from the user", in.Logs())
			}
		})
	}
}

func TestPanicIsOneCallsBusiness(t *testing.T) {
	in := sdktest.Start(t, probe(
		sdk.Handle("probe", "Answers", func(_ context.Context, _ sdk.Call, p text) (text, error) { return p, nil }),
		sdk.Handle("probe.panic", "Panics", func(context.Context, sdk.Call, struct{}) (struct{}, error) { panic("secret-7") }),
		sdk.Handle("probe.exit", "Ends its goroutine", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
			runtime.Goexit()
			return struct{}{}, nil
		}),
	))
	for _, command := range []string{"probe.panic", "probe.exit"} {
		_, err := in.Call(t.Context(), command, nil)
		if fault.CodeOf(err) != fault.Internal || strings.Contains(err.Error(), "secret-7") {
			t.Errorf("%s: got %v, want internal and nothing more", command, err)
		}
	}
	if got, err := in.Call(t.Context(), "probe", text{"on"}); err != nil || string(got) != `{"text":"on"}` {
		t.Errorf("after a panic: got %s, %v", got, err)
	}
	logs := in.Logs()
	if len(logs) != 2 || logs[0].Level != "ERROR" || logs[0].CallID == "" ||
		!strings.Contains(string(logs[0].Attrs), "secret-7") || !strings.Contains(string(logs[0].Attrs), "session_test.go") {
		t.Errorf("got log %+v, want panic and stack", logs)
	}
}

// nilError is an error whose methods cannot bear their nil receiver.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestAnErrorValueMayPanicToo(t *testing.T) {
	in := sdktest.Start(t, failing((*nilError)(nil)))
	for range 2 {
		if _, err := in.Call(t.Context(), "probe", nil); fault.CodeOf(err) != fault.Internal {
			t.Errorf("got %v, want internal", err)
		}
	}
}

func TestRawParamsAndResults(t *testing.T) {
	const object = `{"z":1,"a":[1.50,12345678901234567890]}`
	in := sdktest.Start(t, probe(
		sdk.Handle("probe", "Answers", func(_ context.Context, _ sdk.Call, p jsontext.Value) (jsontext.Value, error) { return p, nil }),
		sdk.Handle("probe.any", "Answers", func(_ context.Context, _ sdk.Call, p any) (any, error) { return p, nil }),
		sdk.Handle("probe.map", "Answers", func(_ context.Context, _ sdk.Call, p map[string]string) (map[string]string, error) { return p, nil }),
		sdk.Handle("probe.bad", "Answers", func(context.Context, sdk.Call, struct{}) (json.RawMessage, error) {
			return json.RawMessage(`{"a":`), nil
		}),
		sdk.Handle("probe.nil", "Answers", func(context.Context, sdk.Call, struct{}) (json.RawMessage, error) { return nil, nil }),
		sdk.Handle("probe.nan", "Answers", func(context.Context, sdk.Call, struct{}) (float64, error) { return math.NaN(), nil }),
	))
	for _, tt := range []struct {
		command, params, want string
		code                  fault.Code
	}{
		{"probe", object, object, ""},
		{"probe.any", `{"a":[true,null]}`, `{"a":[true,null]}`, ""},
		{"probe.map", `{"a":"b"}`, `{"a":"b"}`, ""},
		{"probe.map", `{"a":1}`, "", fault.InvalidParams},
		{"probe.bad", `{}`, "", fault.Internal},
		{"probe.nil", `{}`, "null", ""},
		{"probe.nan", `{}`, "", fault.Internal},
	} {
		got, err := in.Call(t.Context(), tt.command, tt.params)
		if string(got) != tt.want || fault.CodeOf(err) != tt.code {
			t.Errorf("%s %s: got %s, %v, want %s %s", tt.command, tt.params, got, err, tt.want, tt.code)
		}
	}
}

// waiting is a plugin whose command waits for the end of its context.
func waiting(started chan<- struct{}) sdk.Plugin {
	return probe(sdk.Handle("probe", "Waits", func(ctx context.Context, _ sdk.Call, _ struct{}) (struct{}, error) {
		if started != nil {
			started <- struct{}{}
		}
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	}))
}

func TestCancelReachesTheHandler(t *testing.T) {
	started := make(chan struct{})
	in := sdktest.Start(t, waiting(started))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := in.Call(ctx, "probe", nil); fault.CodeOf(err) != fault.CommandCancelled {
		t.Errorf("got %v, want command_cancelled", err)
	}
}

func TestDeadlineReachesTheHandler(t *testing.T) {
	in := sdktest.Start(t, probe(sdk.Handle("probe", "Waits", func(ctx context.Context, _ sdk.Call, _ struct{}) (bool, error) {
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > time.Hour {
			return false, errors.New("no deadline")
		}
		return true, nil
	})))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if got, err := in.Call(ctx, "probe", nil); err != nil || string(got) != "true" {
		t.Errorf("got %s, %v, want the deadline to travel", got, err)
	}
}

func TestTheCallTellsWhoAsked(t *testing.T) {
	var got sdk.Call
	in := sdktest.Start(t, probe(sdk.Handle("probe", "Looks", func(_ context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
		got = c
		return struct{}{}, nil
	})))
	want := sdk.Caller{UserID: "bob", Username: "Bob", Roles: []string{"editor"}, SessionID: "s", RemoteAddr: "192.0.2.9:1", Surface: "http"}
	if _, err := in.Call(t.Context(), "probe", nil, sdktest.As(want), sdktest.Signed(), sdktest.Traced("00-1-2-01", "a=b")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.Caller); d != "" || !got.SignatureVerified || got.ID == "" || got.Command != "probe" {
		t.Errorf("got %+v: %s", got, d)
	}
	if got.Traceparent != "00-1-2-01" || got.Tracestate != "a=b" {
		t.Errorf("got trace %q, %q", got.Traceparent, got.Tracestate)
	}
	if !got.Caller.HasRole("editor") || got.Caller.HasRole("admin") {
		t.Error("HasRole is wrong")
	}
}

func TestProgressComesInOrderAndEndsWithTheCall(t *testing.T) {
	var late sdk.ProgressFunc
	in := sdktest.Start(t, probe(sdk.Stream("probe", "Counts", func(_ context.Context, _ sdk.Call, _ struct{}, progress sdk.ProgressFunc) (int, error) {
		late = progress
		for i := range 1000 {
			if err := progress(float64(i)/10, i); err != nil {
				return 0, err
			}
		}
		if err := progress(-1, nil); err != nil {
			return 0, err
		}
		if err := progress(0, func() {}); err == nil {
			return 0, errors.New("a function is no JSON")
		}
		return 1000, progress(400, map[string]string{"step": "last"})
	})))
	var parts []sdktest.Progress
	got, err := in.Call(t.Context(), "probe", nil, sdktest.OnProgress(func(p sdktest.Progress) { parts = append(parts, p) }))
	if err != nil || string(got) != "1000" || len(parts) != 1002 {
		t.Fatalf("got %s, %v and %d parts, want 1000 and 1002 parts", got, err, len(parts))
	}
	for i, p := range parts[:1000] {
		if string(p.Data) != strconv.Itoa(i) || *p.Percent != float64(i)/10 {
			t.Fatalf("part %d: got %s %v", i, p.Data, *p.Percent)
		}
	}
	if p := parts[1000]; p.Percent != nil || string(p.Data) != "null" {
		t.Errorf("unknown percent: got %+v", p)
	}
	if p := parts[1001]; *p.Percent != 100 || string(p.Data) != `{"step":"last"}` {
		t.Errorf("above 100: got %v %s", *p.Percent, p.Data)
	}
	if err := late(1, nil); err == nil {
		t.Error("progress after the answer: got nil, want an error")
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	in := sdktest.Start(t, probe(sdk.Stream("probe", "Echoes", func(_ context.Context, c sdk.Call, p text, progress sdk.ProgressFunc) (text, error) {
		c.Log.Info("Called", "text", p.Text)
		return p, progress(50, p)
	})))
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf(`{"text":"%d-%d"}`, worker, i)
				var part string
				got, err := in.Call(t.Context(), "probe", want, sdktest.OnProgress(func(p sdktest.Progress) { part = string(p.Data) }))
				if err != nil || string(got) != want || part != want {
					t.Errorf("got %s, %v after %s, want %s", got, err, part, want)
				}
			}
		})
	}
	wg.Wait()
	if err := in.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDrainFinishesCallsThenBackground(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	var order []string
	p := probe(sdk.Handle("probe", "Waits", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
		close(started)
		<-release
		order = append(order, "call")
		return struct{}{}, nil
	}))
	p.Background = func(ctx context.Context, _ sdk.Background) error {
		<-ctx.Done()
		order = append(order, "background")
		return ctx.Err()
	}
	in := sdktest.Start(t, p)
	answer := make(chan error, 1)
	go func() {
		_, err := in.Call(t.Context(), "probe", nil)
		answer <- err
	}()
	<-started
	in.Drain()
	if err := in.Ping(t.Context()); err != nil {
		t.Errorf("ping while draining: %v", err)
	}
	if _, err := in.Call(t.Context(), "probe", nil); fault.CodeOf(err) != fault.ShuttingDown {
		t.Errorf("a call after drain: got %v, want shutting_down", err)
	}
	close(release)
	if err := <-answer; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := in.Stop(); err != nil {
		t.Errorf("end of the session: got %v, want clean", err)
	}
	if d := cmp.Diff([]string{"call", "background"}, order); d != "" {
		t.Errorf("order: %s", d)
	}
}

func TestBackgroundThatFailsEndsTheSession(t *testing.T) {
	for name, work := range map[string]func(context.Context, sdk.Background) error{
		"error":  func(context.Context, sdk.Background) error { return errors.New("lost the feed") },
		"panic":  func(context.Context, sdk.Background) error { panic("lost the feed") },
		"Goexit": func(context.Context, sdk.Background) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := waiting(nil)
			p.Background = work
			in := sdktest.Start(t, p)
			if _, err := in.Call(t.Context(), "probe", nil); err == nil {
				t.Error("a call: got nil, want it to end with the session")
			}
			if err := in.Stop(); err == nil {
				t.Error("end of the session: got clean, want an error")
			}
		})
	}
}

func TestBackgroundMayReturnAndAsk(t *testing.T) {
	p := probe(sdk.Handle("probe", "Answers", func(context.Context, sdk.Call, struct{}) (struct{}, error) { return struct{}{}, nil }))
	p.Needs = []sdk.Capability{sdk.CapabilityKV, sdk.CapabilityCommands}
	result := make(chan error, 2)
	p.Background = func(ctx context.Context, b sdk.Background) error {
		_, err := b.Host.KV().Put(ctx, "started", []byte("yes"))
		result <- err
		_, err = b.Host.ListCommands(ctx)
		result <- err
		return nil
	}
	in := sdktest.Start(t, p)
	if err := <-result; err != nil {
		t.Errorf("put: %v", err)
	}
	if err := <-result; !errors.Is(err, sdk.ErrForbidden) {
		t.Errorf("list commands: got %v, want forbidden outside of a call", err)
	}
	if _, err := in.Call(t.Context(), "probe", nil); err != nil {
		t.Errorf("after the background work returned: %v", err)
	}
}
