package pluginhost_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

// lock writes plugins.lock with the files as they are, each with grants.
func (w *world) lock(version string, grants []string, names ...string) {
	w.t.Helper()
	var f lockfile.File
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			w.t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		if err := f.Set(lockfile.Entry{Name: name, Version: version, SHA256: hex.EncodeToString(sum[:]), Grants: grants}); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := f.Save(w.dir); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantFailed(plugin, why string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s is refused with %q", plugin, why), func() bool {
		s := w.state(plugin)
		return s.State == pluginhost.StateFailed && strings.Contains(s.Error, why)
	})
}

func TestLockedTrustRunsWhatTheLockNames(t *testing.T) {
	w := newWorld(t, "good", "other").start(func(o *pluginhost.Options) {
		o.Trust = pluginhost.TrustLocked
		o.Grants = map[string][]string{"other": {"commands"}}
	})
	w.wantFailed("good", "there is no plugins.lock")
	// The lock is followed while the server runs.
	w.lock("1.0.0", []string{"server", "commands"}, "good", "other")
	w.wantState("good", pluginhost.StateReady)
	w.wantState("other", pluginhost.StateReady)
	if got := w.detail("good").Grants; fmt.Sprint(got) != "[server commands]" {
		t.Errorf("got grants %v, want those of the lock", got)
	}
	if got := w.detail("other").Grants; fmt.Sprint(got) != "[commands]" {
		t.Errorf("got grants %v, want those of the lock that the configuration has, too", got)
	}
	// A replaced file does not run, the former one goes on.
	w.replace("good", build(t, "2.0.0"))
	w.eventually("the replacement is refused", func() bool { return strings.Contains(w.detail("good").Error, "wants sha256") })
	if got := w.state("good"); got.State != pluginhost.StateReady || got.Version != "1.0.0" {
		t.Errorf("got %+v, want version 1.0.0 to go on", got)
	}
	// Nor under another version than the one that was reviewed.
	w.lock("1.0.0", nil, "good")
	w.wantFailed("good", "wants version 1.0.0, but it calls itself 2.0.0")
	w.wantFailed("other", `does not name "other"`)
	w.lock("2.0.0", nil, "good", "other")
	w.wantVersion("good", "2.0.0")
	if err := os.WriteFile(filepath.Join(w.dir, lockfile.Name), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wantFailed("good", "plugins.lock line 1")
}

func TestPluginsAreConfined(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.Grants = map[string][]string{"good": {"read:/etc/hostname"}} })
	if got, want := w.detail("good").Sandbox, sandbox.Detect().Level; got != want {
		t.Errorf("got level %q, want %q, which is what this machine has", got, want)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.detail("good").PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"} {
		if sandbox.Detect().Level == sandbox.Full && !strings.Contains(string(status), want) {
			t.Errorf("the plugin's process is without %q:\n%s", want, status)
		}
	}
	off := newWorld(t, "good").start(func(o *pluginhost.Options) { o.Sandbox = sandbox.Off })
	if got := off.detail("good"); got.Sandbox != sandbox.None || len(got.SandboxMissing) == 0 {
		t.Errorf("got %q %v, want none and why", got.Sandbox, got.SandboxMissing)
	}
	if got := off.log.lines("Plugins are not confined"); len(got) != 1 {
		t.Errorf("got %d lines that say so, want one", len(got))
	}
}
