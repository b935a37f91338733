package pluginhost_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/fault"
)

// build makes the test plugin in another version.
func build(t testing.TB, version string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "testplugin-"+version)
	cmd := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-o", out, "./testplugin")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build testplugin %s: %v\n%s", version, err, text)
	}
	return out
}

func (w *world) wantVersion(plugin, want string) {
	w.t.Helper()
	w.eventually(plugin+" is version "+want, func() bool {
		s := w.state(plugin)
		return s.Version == want && s.State == pluginhost.StateReady
	})
}

func TestFilesComeChangeAndGo(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	two := build(t, "2.0.0")
	w.replace("late", testBinary)
	w.wantState("late", pluginhost.StateReady)
	w.wantResult("late", `{"n":1}`, `{"n":1}`)

	w.replace("late", two)
	w.wantVersion("late", "2.0.0")
	if got := w.detail("late"); got.Former == nil || got.Former.Version != "1.0.0" || got.Starts != 2 || got.Crashes != 0 || got.PID == 0 {
		t.Errorf("got %+v, want the former version and two starts told", got)
	}
	// The same bytes again are no change.
	before := w.detail("late").PID
	w.replace("late", two)
	w.reload()
	if got := w.detail("late").PID; got != before {
		t.Errorf("a file with the same bytes started a new process: pid %d, was %d", got, before)
	}
	if err := os.Remove(filepath.Join(w.dir, "late")); err != nil {
		t.Fatal(err)
	}
	w.eventually("late is gone", func() bool { _, err := w.host.Plugin("late"); return errors.Is(err, core.ErrNoPlugin) })
	if _, err := w.invoke(t.Context(), "late", "{}"); err == nil {
		t.Error("a command of a removed plugin was run")
	}
	w.replace("late", testBinary)
	w.wantState("late", pluginhost.StateReady)
	w.wantResult("late", `{"n":2}`, `{"n":2}`)
	w.wantResult("good", `{}`, `{}`)
	w.eventually("copies that nobody needs are gone", func() bool {
		copies, err := os.ReadDir(filepath.Join(w.run, "bin"))
		return err == nil && len(copies) == 1
	})
}

func (w *world) reload() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.host.Reload(ctx); err != nil {
		w.t.Fatalf("reload: %v", err)
	}
}

// TestNoCallIsLostByReplacements has callers that never pause while the file is
// replaced again and again, every other time by one with other commands.
func TestNoCallIsLostByReplacements(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.DrainTimeout = 10 * time.Second })
	versions := []string{testBinary, build(t, "2.0.0")}
	var calls atomic.Int64
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 16 {
		callers.Go(func() {
			command, params := "good", `{"n":1}`
			if i%4 == 0 {
				command, params = "good.slow", `{"ms":50}`
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := w.dispatch(t.Context(), command, params); err != nil {
					t.Errorf("call %d: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for i := range 6 {
		w.replace("good", versions[(i+1)%2])
		w.wantVersion("good", []string{"2.0.0", "1.0.0"}[i%2])
	}
	close(stop)
	callers.Wait()
	t.Logf("%d calls during 6 replacements", calls.Load())
	w.wantMetric("plugboard_plugin_replaced_total", "good", "", 6)
	w.wantMetric("plugboard_plugin_in_flight", "good", "", 0)
}

// dispatch is what the dispatcher does: it looks the command up again when it was
// replaced on the way.
func (w *world) dispatch(ctx context.Context, command, params string) ([]byte, error) {
	for {
		result, err := w.invoke(ctx, command, params)
		if !errors.Is(err, core.ErrReplaced) {
			return result, err
		}
	}
}

func TestReplacementThatDoesNotStartChangesNothing(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	two := build(t, "2.0.0")
	w.write("good", "#!/bin/sh\necho no plugin >&2\nexit 5\n")
	w.eventually("the failure is told", func() bool { return strings.Contains(w.detail("good").Error, "exit status 5") })
	d := w.detail("good")
	if d.State != pluginhost.StateReady || d.Version != "1.0.0" || !strings.Contains(d.RolledBack, "does not start") {
		t.Errorf("got %+v, want version 1.0.0 ready and why the file is not what runs", d)
	}
	w.wantResult("good", `{"n":1}`, `{"n":1}`)
	w.replace("good", two)
	w.wantVersion("good", "2.0.0")
	if d := w.detail("good"); d.Error != "" || d.RolledBack != "" {
		t.Errorf("got %+v, want nothing held against it", d)
	}
}

func TestQuarantinedReplacementGivesWayToTheFormer(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	w.replace("good", build(t, "2.0.0"))
	w.wantVersion("good", "2.0.0")
	for i := range 5 {
		_, err := w.dispatch(t.Context(), "good.exit", "{}")
		w.wantCode(err, fault.PluginUnavailable)
		if i < 4 {
			w.wantState("good", pluginhost.StateReady)
		}
	}
	w.wantVersion("good", "1.0.0")
	d := w.detail("good")
	if !strings.Contains(d.RolledBack, "exit status 4") || d.Former != nil || len(d.History) != 5 || d.History[0].Version != "2.0.0" {
		t.Errorf("got %+v, want the return and its reason", d)
	}
	result, err := w.dispatch(t.Context(), "good", `{"n":3}`)
	if err != nil || string(result) != `{"n":3}` {
		t.Errorf("got %s, %v", result, err)
	}
	// The file is looked at again when it changes or an operator resets the plugin.
	if err := w.host.Reset("good"); err != nil {
		t.Fatal(err)
	}
	w.wantVersion("good", "2.0.0")
}

func TestRollback(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	if _, err := w.host.Rollback(t.Context(), "good"); !errors.Is(err, core.ErrNoFormer) {
		t.Errorf("got %v, want that there is no former version", err)
	}
	if _, err := w.host.Rollback(t.Context(), "absent"); !errors.Is(err, core.ErrNoPlugin) {
		t.Errorf("got %v, want that there is no such plugin", err)
	}
	w.replace("good", build(t, "2.0.0"))
	w.wantVersion("good", "2.0.0")
	for i, want := range []string{"1.0.0", "2.0.0", "1.0.0"} {
		got, err := w.host.Rollback(t.Context(), "good")
		if err != nil || got.Version != want {
			t.Fatalf("roll-back %d: got %+v, %v, want version %s", i, got, err, want)
		}
		if raw, err := os.ReadFile(got.Path); err != nil || len(raw) == 0 {
			t.Errorf("the copy at %s: %v", got.Path, err)
		}
		w.wantVersion("good", want)
	}
	if d := w.detail("good"); !strings.Contains(d.RolledBack, "operator") || d.Former == nil || d.Former.Version != "2.0.0" {
		t.Errorf("got %+v, want the roll-back told and a way forth", d)
	}
}

func TestHalfWrittenFilesAreLeftAlone(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	raw, err := os.ReadFile(build(t, "2.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	// Another process writes the new file in place, with pauses longer than any wait.
	path := filepath.Join(w.dir, "slow")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	half := len(raw) / 2
	if _, err := f.Write(raw[:half]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.reload()
		time.Sleep(150 * time.Millisecond) // the pause is the test
		if _, err := w.host.Plugin("slow"); err == nil {
			t.Fatalf("half a file was taken for a plugin: %+v", w.detail("slow"))
		}
	}
	if _, err := f.Write(raw[half:]); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.wantVersion("slow", "2.0.0")
}

func TestIdempotentCallsSurviveACrash(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	var wg sync.WaitGroup
	answers := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			_, err := w.invoke(t.Context(), "good.again", `{"ms":300}`)
			answers <- err
		})
	}
	w.eventually("eight calls are in flight", func() bool { return w.metric("plugboard_plugin_in_flight", "good", "") == 8 })
	_, err := w.invoke(t.Context(), "good.crash", "{}")
	if f := w.wantCode(err, fault.PluginUnavailable); !strings.Contains(f.Message, "not known") {
		t.Errorf("got %q, want it said that the outcome is unknown", f.Message)
	}
	wg.Wait()
	for range 8 {
		if err := <-answers; err != nil {
			t.Errorf("an idempotent call: %v", err)
		}
	}
	w.wantMetric("plugboard_plugin_replayed_total", "good", "", 8)
	d := w.detail("good")
	if len(d.History) != 1 || d.History[0].How != "crashed" || len(d.History[0].Calls) != 9 || d.Crashes != 1 {
		t.Errorf("got history %+v, want the crash with nine calls in flight", d.History)
	}
	// A call that is itself the reason is given up.
	_, err = w.invoke(t.Context(), "good.poison", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.eventually("the poisonous call was tried three times", func() bool { return w.detail("good").Crashes == 4 })
}

func TestPartsOfAnAnswerAreNotRepeated(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	parts := 0
	_, err := w.invokeWith(t.Context(), "good.halfway", "{}", func(core.Progress) { parts++ })
	w.wantCode(err, fault.PluginUnavailable)
	if parts != 1 {
		t.Errorf("got %d parts, want the one that came before the crash", parts)
	}
}

func TestSettingsAndGrantsChangeWithoutALostCall(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	before := w.detail("good").PID
	if err := w.host.Configure(map[string][]byte{"good": []byte(`{"refuse":1}`)}, nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("the refusal is told", func() bool { return strings.Contains(w.detail("good").Error, "is not a setting") })
	w.wantResult("good", "{}", "{}")
	if got := w.detail("good").PID; got != before {
		t.Errorf("a plugin that refused its settings does not go on: pid %d, was %d", got, before)
	}
	if err := w.host.Configure(nil, map[string][]string{"good": {"server", "nonsense"}}); err == nil {
		t.Error("a grant that does not exist was taken")
	}
	if err := w.host.Configure(nil, map[string][]string{"good": {"server"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the grant is there", func() bool { return fmt.Sprint(w.detail("good").Grants) == "[server]" })
	w.wantResult("good.host", `{"ask":"server"}`, `{"code":"","version":"9.9.9"}`)
}

func TestRestartAfterALongLifeIsImmediate(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	time.Sleep(200 * time.Millisecond) // longer than the first backoff: that is the test
	_, err := w.invoke(t.Context(), "good.crash", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.wantResult("good", "{}", "{}")
	if got := w.log.lines("Plugin not running", `"next_start":0`); len(got) != 1 {
		t.Errorf("got %d lines of a start at once, want one", len(got))
	}
}
