package pluginhost_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestBadFilesDoNotDisturbGoodOnes(t *testing.T) {
	w := newWorld(t, "good", "exits", "silent", "liar", "remote", "tcp", "unsafe", "settings")
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	write("readme", "not a plugin", 0o644)
	write("rubbish", "#!/bin/sh\nfor i in 1 2 3 4 5; do echo \"line $i of rubbish\"; done\n", 0o755)
	write("noformat", "\x00\x01\x02", 0o755)
	write("Bad-Name", "", 0o755)
	if err := os.Mkdir(filepath.Join(w.dir, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(w.dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("good", filepath.Join(w.dir, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(w.dir, "unsafe"), 0o777); err != nil { // that is the test
		t.Fatal(err)
	}
	w.start(func(o *pluginhost.Options) {
		o.StartTimeout = 2 * time.Second
		o.Settings = map[string][]byte{"settings": []byte(`{"refuse":true}`)}
	})
	w.wantResult("good", `{"a":1}`, `{"a":1}`)
	w.wantResult("linked", `{}`, `{}`)
	for file, why := range map[string]string{
		"readme": "not executable", "Bad-Name": "does not match", "directory": "is a directory", "dangling": "no such file",
	} {
		if got := w.log.lines("File ignored", `"file":"`+file+`"`, why); len(got) != 1 {
			t.Errorf("%s: got %d lines saying %q, want 1", file, len(got), why)
		}
	}
	for plugin, why := range map[string]string{
		"exits": "exit status 3", "silent": "no handshake within 2s", "rubbish": "line 1 of rubbish", "noformat": "exec format error",
		"liar": "it calls itself", "remote": "schema leaves the plugin", "tcp": "want a unix socket", "unsafe": "may write to it", "settings": "refuse: is not a setting",
	} {
		w.eventually(plugin+" told why", func() bool { return strings.Contains(w.state(plugin).Error, why) })
		if got := w.log.lines("Plugin not running", `"level":"warn"`, `"plugin":"`+plugin+`"`); len(got) != 1 {
			t.Errorf("%s: got %d warnings, want 1: %s", plugin, len(got), strings.Join(got, "\n"))
		}
		if _, err := w.invoke(t.Context(), plugin, "{}"); err == nil {
			t.Errorf("%s: a call succeeded", plugin)
		}
	}
	for _, plugin := range []string{"liar", "remote", "unsafe", "settings"} {
		if got := w.state(plugin).State; got != pluginhost.StateFailed {
			t.Errorf("%s: got state %s, want failed, because trying again is of no use", plugin, got)
		}
	}
	if got := w.state("liar").Error; !strings.Contains(got, `version "one"`) || !strings.Contains(got, "other.command") || !strings.Contains(got, "params schema of") {
		t.Errorf("got %q, want everything that is wrong", got)
	}
	if got := w.state("exits").Error; !strings.Contains(got, "cannot find my configuration") {
		t.Errorf("got %q, want the last of stderr in it", got)
	}
	w.wantResult("good", `{"a":2}`, `{"a":2}`)
}

func TestNoPluginsDirectory(t *testing.T) {
	w := newWorld(t)
	w.dir = filepath.Join(w.dir, "absent")
	w.start(nil)
	if got := w.log.lines("No plugins directory"); len(got) != 1 || len(w.host.States()) != 0 {
		t.Errorf("got %d lines and states %v, want one and none", len(got), w.host.States())
	}
}

func TestCrashFailsCallsInFlightAndRestarts(t *testing.T) {
	w := newWorld(t, "good", "other").start(nil)
	for _, how := range []string{"crash", "exit", "panic", "close"} {
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := w.invoke(t.Context(), "good.hang", "{}")
				if fault.CodeOf(err) != fault.PluginUnavailable {
					t.Errorf("%s: a call in flight got %v, want plugin_unavailable", how, err)
				}
			})
		}
		w.eventually("five calls are in flight", func() bool { return w.metric("plugboard_plugin_in_flight", "good", "") == 5 })
		begin := time.Now()
		_, err := w.invoke(t.Context(), "good."+how, "{}")
		w.wantCode(err, fault.PluginUnavailable)
		wg.Wait()
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("%s: calls in flight failed after %v", how, took)
		}
		// A call that comes now waits for the restart.
		w.wantResult("good", `{"n":1}`, `{"n":1}`)
		w.wantResult("other", `{}`, `{}`)
		if how == "close" {
			break
		}
	}
	w.wantMetric("plugboard_plugin_in_flight", "good", "", 0)
	for _, story := range [][]string{
		{"signal: killed"}, {"exit status 4", "giving up"}, {"exit status 2", "panic: test panic"},
	} {
		if got := w.log.lines(append(story, "Plugin process ended", "good.hang call-1")...); len(got) == 0 {
			t.Errorf("no line tells of %v and the calls in flight", story)
		}
	}
}

func TestFiveCrashesQuarantine(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	for i := range 5 {
		_, err := w.invoke(t.Context(), "good.exit", "{}")
		w.wantCode(err, fault.PluginUnavailable)
		if i < 4 {
			w.wantState("good", pluginhost.StateReady)
		}
	}
	if got := w.wantState("good", pluginhost.StateQuarantined); !strings.Contains(got.Error, "exit status 4: giving up") {
		t.Errorf("got error %q, want the last crash", got.Error)
	}
	begin := time.Now()
	_, err := w.invoke(t.Context(), "good", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("a call of a quarantined plugin was refused after %v, want at once", took)
	}
	if err := w.host.Reset("good"); err != nil {
		t.Fatalf("reset: %v", err)
	}
	w.wantState("good", pluginhost.StateReady)
	w.wantResult("good", "{}", "{}")
	if err := w.host.Reset("absent"); !errors.Is(err, core.ErrNoPlugin) {
		t.Errorf("got %v, want that there is no such plugin", err)
	}
}

func TestResetTakesTheFileAsItIsNow(t *testing.T) {
	w := newWorld(t, "good")
	path := filepath.Join(w.dir, "good")
	if err := os.Chmod(path, 0o775); err != nil { // that is the test
		t.Fatal(err)
	}
	w.start(nil)
	if got := w.state("good"); got.State != pluginhost.StateFailed {
		t.Fatalf("got %+v, want failed", got)
	}
	if err := os.Chmod(path, 0o755); err != nil { // a plugin is executable
		t.Fatal(err)
	}
	if err := w.host.Reset("good"); err != nil {
		t.Fatal(err)
	}
	w.wantState("good", pluginhost.StateReady)
	// A healthy plugin goes on until the new process is ready: its call ends well.
	done := make(chan error, 1)
	go func() {
		_, err := w.invoke(context.Background(), "good.slow", `{"ms":300}`)
		done <- err
	}()
	w.eventually("the call is in flight", func() bool { return w.metric("plugboard_plugin_in_flight", "good", "") == 1 })
	if err := w.host.Reset("good"); err != nil {
		t.Fatal(err)
	}
	w.wantResult("good", `{"n":2}`, `{"n":2}`)
	w.eventually("a new process serves", func() bool { return w.detail("good").Starts == 2 })
	if err := <-done; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
}

func TestCallsWaitForARestartOnlySoLong(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	// From now on the plugin never gets beyond its start.
	w.write("good", "#!/bin/sh\nexec sleep 60\n")
	w.eventually("the new file is being started", func() bool { return len(processesIn(t, w.run)) == 2 })
	_, err := w.invoke(t.Context(), "good.crash", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.wantState("good", pluginhost.StateStarting)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.invoke(ctx, "good", "{}"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the call's own deadline", err)
	}
	begin := time.Now()
	_, err = w.invoke(t.Context(), "good", "{}")
	f := w.wantCode(err, fault.PluginUnavailable)
	if took := time.Since(begin); took < 1900*time.Millisecond || took > 4*time.Second || f.RetryAfter == 0 {
		t.Errorf("got %v after %v, want it after two seconds with a hint when to try again", f, took)
	}
	w.wantMetric("plugboard_plugin_waiting", "good", "", 0)
	// A file that comes now does not wait for the start that leads nowhere.
	begin = time.Now()
	w.replace("good", testBinary)
	w.wantState("good", pluginhost.StateReady)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the new start took %v, want it not to wait for the old one", took)
	}
}

func TestCallsDuringCrashes(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	var stop atomic.Bool
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				_, err := w.invoke(ctx, "good", "{}")
				cancel()
				switch fault.CodeOf(err) {
				case "":
					answered.Add(1)
				case fault.PluginUnavailable:
				default:
					t.Errorf("got %v, want an answer or plugin_unavailable", err)
					return
				}
			}
		})
	}
	for range 4 {
		before := answered.Load()
		w.eventually("calls are answered", func() bool { return answered.Load() > before+50 })
		_, err := w.invoke(t.Context(), "good.crash", "{}")
		w.wantCode(err, fault.PluginUnavailable)
	}
	w.wantState("good", pluginhost.StateReady)
	stop.Store(true)
	wg.Wait()
	w.wantResult("good", "{}", "{}")
	w.wantMetric("plugboard_plugin_in_flight", "good", "", 0)
}

func TestHungPluginIsKilled(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.HealthInterval = 100 * time.Millisecond })
	w.wantResult("good.freeze", "{}", "{}")
	_, err := w.invoke(t.Context(), "good.hang", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.wantResult("good", "{}", "{}")
	w.wantMetric("plugboard_plugin_ends_total", "good", "hung", 1)
	// One that only waits is not hung, however long nothing is asked of it.
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	if _, err := w.invoke(ctx, "good.hang", "{}"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	w.wantMetric("plugboard_plugin_ends_total", "good", "hung", 1)
}

func TestGrandchildDiesWithThePlugin(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	raw, err := w.invoke(t.Context(), "good.child", "{}")
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.invoke(t.Context(), "good.crash", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.wantResult("good", "{}", "{}") // although the grandchild held stderr open
	w.eventually("the grandchild is gone", func() bool { return gone(grandchild) })
}

// gone reports whether a process has ended; one that nobody reaped yet has.
func gone(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestStopDrains(t *testing.T) {
	w := newWorld(t, "good", "deaf").start(nil)
	done := make(chan error, 1)
	go func() {
		_, err := w.invoke(context.Background(), "good.slow", `{"ms":400}`)
		done <- err
	}()
	w.eventually("the call is in flight", func() bool { return w.metric("plugboard_plugin_in_flight", "good", "") == 1 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.stop()
	}()
	w.wantState("good", pluginhost.StateDraining)
	_, err := w.invoke(t.Context(), "good", "{}")
	w.wantCode(err, fault.ShuttingDown)
	if err := <-done; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	<-stopped
	if got := w.state("good").State; got != pluginhost.StateStopped {
		t.Errorf("got state %s, want stopped", got)
	}
	w.wantMetric("plugboard_plugin_ends_total", "good", "stopped", 1)
	_, err = w.invoke(t.Context(), "good", "{}")
	w.wantCode(err, fault.ShuttingDown)
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	for name, c := range map[string]struct {
		drain, ctx time.Duration
	}{
		"the drain time is over": {200 * time.Millisecond, 10 * time.Second},
		"the context ends":       {time.Minute, 1200 * time.Millisecond},
		"no time at all":         {time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "good", "frozen").start(func(o *pluginhost.Options) { o.DrainTimeout = c.drain })
			done := make(chan error, 1)
			go func() {
				_, err := w.invoke(context.Background(), "good.ignore", `{"ms":60000}`)
				done <- err
			}()
			w.wantResult("frozen.freeze", "{}", "{}")
			w.eventually("the call is in flight", func() bool { return w.metric("plugboard_plugin_in_flight", "good", "") == 1 })
			ctx, cancel := context.WithTimeout(t.Context(), c.ctx)
			defer cancel()
			begin := time.Now()
			if err := w.host.Stop(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("stop took %v", took)
			}
			w.wantCode(<-done, fault.ShuttingDown)
		})
	}
}

func TestStopWhileStarting(t *testing.T) {
	w := newWorld(t, "silent", "good")
	h, err := pluginhost.New(pluginhost.Options{Dir: w.dir, RunDir: w.run, Host: services{}, Catalogue: w.catalogue, StartTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	w.host = h
	if err := h.Stop(t.Context()); err != nil {
		t.Errorf("stop before the start: %v", err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err == nil {
		t.Error("a second start succeeded")
	}
	w.stop()
	w.stop() // again
}

func TestKilledHostLeavesNoPlugin(t *testing.T) {
	w := newWorld(t, "good", "other")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+w.dir+":"+w.run)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v, want ready", line, err)
	}
	pids := processesIn(t, w.run)
	if len(pids) != 2 {
		t.Fatalf("got processes %v, want two", pids)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(5 * time.Second); len(processesIn(t, w.run)) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("plugins outlive the host: %v", processesIn(t, w.run))
		}
	}
	// What the killed host left is swept by the next.
	left, err := filepath.Glob(filepath.Join(w.run, "g", "*"))
	if err != nil || len(left) != 2 {
		t.Fatalf("got %v, %v, want the two directories of the killed host", left, err)
	}
	if err := os.WriteFile(filepath.Join(w.run, "bin", "copy-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.install("third")
	w.start(nil)
	w.wantResult("third", "{}", "{}")
	if left, err := filepath.Glob(filepath.Join(w.run, "g", "*")); err != nil || len(left) != 3 {
		t.Errorf("got %v, %v, want three directories", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(w.run, "bin", "copy-*")); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v, want the unfinished copy swept", left, err)
	}
	w.keepsRun = true // the killed host made it, so this one leaves it
}

func TestLifelineIsInherited(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	pids := processesIn(t, w.run)
	if len(pids) != 1 {
		t.Fatalf("got processes %v, want one", pids)
	}
	target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pids[0]), "fd", "3"))
	if err != nil || !strings.HasPrefix(target, "pipe:") {
		t.Errorf("got descriptor 3 %q, %v, want a pipe", target, err)
	}
	if group, err := syscall.Getpgid(pids[0]); err != nil || group != pids[0] {
		t.Errorf("got process group %d, %v, want its own, %d", group, err, pids[0])
	}
}
