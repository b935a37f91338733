package pluginhost_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core/pluginhost"
)

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestTrust(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, w *world)
		want    string // in the error, or "" where it is to be run
	}{
		"as it should be":            {func(*testing.T, *world) {}, ""},
		"file writable by its group": {func(t *testing.T, w *world) { chmod(t, filepath.Join(w.dir, "good"), 0o775) }, "its group or everybody may write"},
		"file writable by all":       {func(t *testing.T, w *world) { chmod(t, filepath.Join(w.dir, "good"), 0o757) }, "its group or everybody may write"},
		"directory writable by all":  {func(t *testing.T, w *world) { chmod(t, w.dir, 0o777) }, "put files there"},
		"sticky plugins directory":   {func(t *testing.T, w *world) { chmod(t, w.dir, 0o777|os.ModeSticky) }, "put files there"},
		"directory above":            {func(t *testing.T, w *world) { chmod(t, filepath.Dir(w.dir), 0o775) }, "put files there"},
		"sticky directory above":     {func(t *testing.T, w *world) { chmod(t, filepath.Dir(w.dir), 0o777|os.ModeSticky) }, ""},
		"link into a bad directory": {func(t *testing.T, w *world) {
			elsewhere := filepath.Join(filepath.Dir(w.dir), "elsewhere")
			if err := os.Mkdir(elsewhere, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(w.dir, "good"), filepath.Join(elsewhere, "good")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(elsewhere, "good"), filepath.Join(w.dir, "good")); err != nil {
				t.Fatal(err)
			}
			chmod(t, elsewhere, 0o770)
		}, "put files there"},
		"another's file": {func(t *testing.T, w *world) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			if err := os.Chown(filepath.Join(w.dir, "good"), 12345, -1); err != nil {
				t.Fatal(err)
			}
		}, "belongs to uid 12345"},
		"another's directory": {func(t *testing.T, w *world) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			if err := os.Chown(filepath.Dir(w.dir), 12345, -1); err != nil {
				t.Fatal(err)
			}
		}, "belongs to uid 12345"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "good")
			w.run = t.TempDir() + "/run" // not below what the case changes
			c.prepare(t, w)
			w.start(nil)
			got := w.state("good")
			if c.want == "" {
				if got.State != pluginhost.StateReady {
					t.Errorf("got %+v, want it ready", got)
				}
				return
			}
			if got.State != pluginhost.StateFailed || !strings.Contains(got.Error, c.want) {
				t.Errorf("got %+v, want it failed with %q", got, c.want)
			}
		})
	}
}

func TestRunDirectory(t *testing.T) {
	start := func(w *world) (*pluginhost.Host, error) {
		h, err := pluginhost.New(pluginhost.Options{Dir: w.dir, RunDir: w.run, Host: services{}, Catalogue: w.catalogue, Logger: zerolog.New(w.log)})
		if err != nil {
			t.Fatal(err)
		}
		return h, h.Start(t.Context())
	}
	t.Run("used by another", func(t *testing.T) {
		w := newWorld(t, "good").start(nil)
		if _, err := start(w); err == nil || !strings.Contains(err.Error(), "another server") {
			t.Errorf("got %v, want that it is in use", err)
		}
		w.wantResult("good", "{}", "{}")
	})
	t.Run("open to others", func(t *testing.T) {
		w := newWorld(t)
		if err := os.Mkdir(w.run, 0o755); err != nil { // that is the test
			t.Fatal(err)
		}
		if _, err := start(w); err == nil || !strings.Contains(err.Error(), "want 0700") {
			t.Errorf("got %v, want the mode refused", err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		w := newWorld(t)
		if err := os.WriteFile(w.run, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := start(w); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("there before", func(t *testing.T) {
		w := newWorld(t, "good")
		if err := os.Mkdir(w.run, 0o700); err != nil {
			t.Fatal(err)
		}
		h, err := start(w)
		if err != nil {
			t.Fatal(err)
		}
		<-h.Ready()
		if err := h.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(w.run); err != nil || len(left) != 0 {
			t.Errorf("got %v, %v, want it empty and still there", left, err)
		}
	})
	t.Run("too long for a socket", func(t *testing.T) {
		w := newWorld(t, "good")
		w.run = filepath.Join(filepath.Dir(w.run), strings.Repeat("d", 100))
		w.start(nil)
		if got := w.state("good"); got.State != pluginhost.StateFailed || !strings.Contains(got.Error, "at most 107") || !strings.Contains(got.Error, w.run) {
			t.Errorf("got %+v, want path and limit told", got)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := pluginhost.New(pluginhost.Options{
		MaxConcurrent: -1, DrainTimeout: -1,
		Settings: map[string][]byte{"a": []byte("[]")}, Grants: map[string][]string{"b": {"root"}},
	})
	for _, part := range []string{"no plugins directory", "no run directory", "no host services", "no catalogue", "negative time", "max concurrent is -1", `settings of "a"`, `"b" is granted "root"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to say %q", err, part)
		}
	}
}
