package pluginhost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestCalls(t *testing.T) {
	w := newWorld(t, "good", "other").start(nil)
	for _, name := range []string{"good", "other"} {
		if got := w.state(name); got.State != pluginhost.StateReady || got.Version != "1.0.0" || got.Error != "" {
			t.Errorf("got %+v, want it ready", got)
		}
	}
	w.wantResult("good", `{"a":1}`, `{"a":1}`)
	w.wantResult("other", `{}`, `{}`)

	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			params := fmt.Sprintf(`{"n":%d}`, i)
			got, err := w.invoke(t.Context(), "good", params)
			for fault.CodeOf(err) == fault.Overloaded {
				time.Sleep(time.Millisecond)
				got, err = w.invoke(t.Context(), "good", params)
			}
			if err != nil || string(got) != params {
				t.Errorf("got %s, %v, want %s", got, err, params)
			}
		})
	}
	wg.Wait()
}

func TestProgress(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	var got []string
	result, err := w.invokeWith(t.Context(), "good.progress", "{}", func(p core.Progress) {
		got = append(got, fmt.Sprintf("%s %v", p.Data, *p.Percent))
	})
	if err != nil || string(result) != `"done"` {
		t.Fatalf("got %s, %v", result, err)
	}
	if diff := cmp.Diff([]string{`{"part":0} 0`, `{"part":1} 50`, `{"part":2} 100`}, got); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
	w.wantMetric("plugboard_plugin_dropped_total", "good", "bad_progress", 2)
}

func TestDeadlineAndCancellationReachThePlugin(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.MaxConcurrent = 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.invoke(ctx, "good.hang", "{}"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	// The only place is free again: so the plugin heard of it.
	w.wantResult("good", `{"after":"deadline"}`, `{"after":"deadline"}`)

	cancelled, cancelNow := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancelNow)
	if _, err := w.invoke(cancelled, "good.hang", "{}"); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want cancelled", err)
	}
	w.wantResult("good", `{"after":"cancel"}`, `{"after":"cancel"}`)

	limited, cancelLimited := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancelLimited()
	got, err := w.invoke(limited, "good.slow", `{"ms":1}`)
	var said struct {
		Timeout int `json:"timeout_ms"`
	}
	if err != nil || json.Unmarshal(got, &said) != nil || said.Timeout < 5000 || said.Timeout > 10_000 {
		t.Errorf("got %s, %v, want the time that is left", got, err)
	}
}

func TestIgnoredCancellationCostsOnlyItsPlace(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.MaxConcurrent = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := w.invoke(ctx, "good.ignore", `{"ms":700}`); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
		})
	}
	wg.Wait()
	// Both places are held, two calls may wait, and the next is refused at once.
	for range 2 {
		wg.Go(func() { w.wantResult("good", "{}", "{}") })
	}
	w.eventually("two calls wait", func() bool { return w.metric("plugboard_plugin_waiting", "good", "") == 2 })
	_, err := w.invoke(t.Context(), "good", "{}")
	if f := w.wantCode(err, fault.Overloaded); f.RetryAfter == 0 {
		t.Error("overloaded without a hint when to try again")
	}
	wg.Wait()
	w.wantMetric("plugboard_plugin_in_flight", "good", "", 0)
	w.wantMetric("plugboard_plugin_refused_total", "good", "places_taken", 1)
}

func TestFailures(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	for _, code := range []fault.Code{fault.CommandFailed, fault.InvalidParams, fault.Forbidden, fault.RateLimited, fault.CommandTimeout,
		fault.CommandCancelled, fault.Overloaded, fault.TooLarge, fault.UnknownCommand} {
		_, err := w.invoke(t.Context(), "good.fail", fmt.Sprintf(`{"code":%q}`, code))
		if f := w.wantCode(err, code); f.Message != "because the test asked" {
			t.Errorf("%s: got message %q, want it without escapes", code, f.Message)
		}
	}
	for _, code := range []string{"internal", "storage_unavailable", "authentication_failed", "made_up", ""} {
		_, err := w.invoke(t.Context(), "good.fail", fmt.Sprintf(`{"code":%q}`, code))
		var f *fault.Error
		if err == nil || errors.As(err, &f) {
			t.Errorf("code %q: got %v, want an error that the dispatcher makes internal", code, err)
		}
	}
}

func TestAnswersThatNobodyAskedFor(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	w.wantResult("good.twice", "{}", "1")
	w.wantResult("good.stray", "{}", "{}")
	w.wantResult("good", "{}", "{}")
	w.wantMetric("plugboard_plugin_dropped_total", "good", "unknown_call", 4)
	w.wantMetric("plugboard_plugin_dropped_total", "good", "unexpected", 2)
}

func TestLargeResults(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	got, err := w.invoke(t.Context(), "good.big", `{"n":3000000}`)
	if err != nil || len(got) != 3_000_002 {
		t.Fatalf("got %d bytes, %v, want 3000002", len(got), err)
	}
	_, err = w.invoke(t.Context(), "good", `{"a":"`+strings.Repeat("x", 4<<20)+`"}`)
	w.wantCode(err, fault.TooLarge)
	// Beyond the limit of a message the stream cannot go on; the plugin can.
	_, err = w.invoke(t.Context(), "good.big", `{"n":5000000}`)
	w.wantCode(err, fault.PluginUnavailable)
	w.wantResult("good", "{}", "{}")
}

func TestHostRequests(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) {
		o.Grants = map[string][]string{"good": {"server", "commands"}}
	})
	w.wantResult("good.host", `{"ask":"server"}`, `{"code":"","version":"9.9.9"}`)
	w.wantResult("good.host", `{"ask":"commands"}`, `{"code":"","command":"for_alice","version":""}`)
	w.wantResult("good.host", `{"ask":"commands","for":"nobody"}`, `{"code":"invalid_request","version":""}`)
	w.wantResult("good.host", `{"ask":"users"}`, `{"code":"forbidden","version":""}`)
	w.wantResult("good.host", `{"ask":"kv"}`, `{"code":"forbidden","version":""}`)
	w.wantResult("good.host", `{"ask":""}`, `{"code":"invalid_request","version":""}`)
}

func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("PLUGBOARD_SECRET", "hunter2")
	w := newWorld(t, "good").start(nil)
	raw, err := w.invoke(t.Context(), "good.env", "{}")
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	if err := json.Unmarshal(raw, &env); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		got[name] = true
	}
	want := map[string]bool{"PATH": true, "LANG": true, "TMPDIR": true, "GOMAXPROCS": true, "PLUGIN_UNIX_SOCKET_DIR": true, "PLUGBOARD_RUNTIME_DIR": true,
		"PLUGBOARD_LIFELINE_FD": true, "PLUGBOARD_PLUGIN": true, "PLUGIN_PROTOCOL_VERSIONS": true, "PLUGIN_CLIENT_CERT": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestOutputReachesTheLog(t *testing.T) {
	w := newWorld(t, "good", "noisy").start(nil)
	w.wantResult("noisy", "{}", "{}")
	if got := w.log.lines("Plugin printed to stdout before its handshake", `"plugin":"noisy"`, `"lines":2`, "Welcome to noisy!", `"loading"`); len(got) != 1 {
		t.Errorf("got %d lines about what came before the handshake, want 1", len(got))
	}
	w.wantResult("good.print", "{}", "{}")
	for _, text := range []string{"printed to stdout", "printed to stderr", "written to fd 1"} {
		w.eventually("the log has "+text, func() bool { return len(w.log.lines(`"plugin":"good"`, `"level":"info"`, `"text":"`+text+`"`)) == 1 })
	}
	w.eventually("the warning", func() bool { return len(w.log.lines(`"level":"warn"`, `"text":"[WARN] written to fd 2 bold"`)) == 1 })
	w.wantResult("good.log", "{}", "{}")
	w.eventually("the record", func() bool {
		return len(w.log.lines(`"level":"warn"`, `"call":"call-1"`, `"command":"good.log"`, `"attrs":{"n":1}`, `"text":"said by the plugin"`)) == 1
	})
}

func TestFloodOfOutputIsCut(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	w.wantResult("good.flood", `{"n":8192}`, "{}")
	w.eventually("output was dropped", func() bool { return w.metric("plugboard_plugin_output_dropped_bytes_total", "good", "") > 0 })
	if got := len(w.log.lines("Plugin printed")); got > 5000 {
		t.Errorf("got %d lines in the log of 8192, want the budget kept", got)
	}
}
