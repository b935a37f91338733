package sdktest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProcess(t *testing.T) {
	in := sdktest.StartProcess(t, sdktest.Build(t, "testdata/noisy", "noisy"))
	for _, params := range []string{`{"text":"one"}`, `{"text":"two"}`} {
		got, err := in.Call(t.Context(), "noisy", params)
		if err != nil || string(got) != params {
			t.Errorf("got %s, %v, want %s", got, err, params)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if err := in.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Call(t.Context(), "noisy", `{"text":"still here"}`); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
	}
	if err := in.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestProcessDiesWithItsServer(t *testing.T) {
	in := sdktest.StartProcess(t, sdktest.Build(t, "testdata/noisy", "noisy"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := in.Call(ctx, "noisy.hang", nil)
		done <- err
	}()
	if err := in.Ping(ctx); err != nil { // the call before it has arrived too
		t.Fatal(err)
	}
	in.CutLifeline()
	if err := <-done; fault.CodeOf(err) != fault.PluginUnavailable {
		t.Errorf("got %v, want the process gone although its handler hangs", err)
	}
}

func TestProcessMessageLimit(t *testing.T) {
	in := sdktest.StartProcess(t, sdktest.Build(t, "testdata/noisy", "noisy"))
	large := `{"text":"` + strings.Repeat("x", 4<<20-8<<10) + `"}`
	got, err := in.Call(t.Context(), "noisy", large)
	if err != nil || len(got) != len(large) {
		t.Errorf("just under the limit: got %d bytes, %v", len(got), err)
	}
	if _, err := in.Call(t.Context(), "noisy.large", nil); fault.CodeOf(err) != fault.TooLarge {
		t.Errorf("a result above the limit: got %v, want too_large", err)
	}
	if _, err := in.Call(t.Context(), "noisy", `{"text":"after"}`); err != nil {
		t.Errorf("the session did not survive: %v", err)
	}
}

func TestWithoutCookieTheBinaryExplainsItself(t *testing.T) {
	path := sdktest.Build(t, "testdata/noisy", "noisy")
	out, err := runAlone(path)
	var exit interface{ ExitCode() int }
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(out, "plugin of a Plugboard server") {
		t.Errorf("got %v and %q, want status 2 and an explanation", err, out)
	}
	if out, err := runAlone(path, "run", "noisy", `{"text":"hi"}`); err != nil || !strings.Contains(out, `{"text":"hi"}`) {
		t.Errorf("run: got %q, %v", out, err)
	}
}

func TestProcessLeavesNothingBehind(t *testing.T) {
	var dir string
	t.Run("run", func(t *testing.T) {
		in := sdktest.StartProcess(t, sdktest.Build(t, "testdata/noisy", "noisy"))
		raw, err := in.Call(t.Context(), "noisy.dir", nil)
		if err != nil {
			t.Fatal(err)
		}
		dir = strings.Trim(string(raw), `"`)
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("runtime directory: %v", err)
		}
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: got %v, want it gone", dir, err)
	}
}

// TestLastWordsAreNotLost has a process end right after it wrote to os.Stderr.
func TestLastWordsAreNotLost(t *testing.T) {
	path := sdktest.Build(t, "testdata/noisy", "noisy")
	for i := range 10 {
		var stderr bytes.Buffer
		t.Run("", func(t *testing.T) {
			in := sdktest.StartProcess(t, path, sdktest.Stderr(&stderr))
			if _, err := in.Call(t.Context(), "noisy.die", nil); fault.CodeOf(err) != fault.PluginUnavailable {
				t.Errorf("got %v, want plugin_unavailable", err)
			}
		})
		if got := stderr.String(); !strings.Contains(got, "last words") {
			t.Fatalf("start %d: got %q on standard error, want the last words", i+1, got)
		}
	}
}
