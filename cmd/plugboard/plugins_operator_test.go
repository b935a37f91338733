package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

// fakePlugins is a plugin host with one plugin, as bad as one can be.
type fakePlugins struct {
	trust  string
	detail core.PluginDetail
	orders []string
}

func (f *fakePlugins) Overview() core.PluginsOverview {
	return core.PluginsOverview{Dir: "/p", LockFile: "/p/plugins.lock", Trust: f.trust, Sandbox: "auto", Plugins: []core.PluginDetail{f.detail}}
}

func (f *fakePlugins) Plugin(name string) (core.PluginDetail, error) {
	if name != f.detail.Name {
		return core.PluginDetail{}, core.ErrNoPlugin
	}
	return f.detail, nil
}

func (f *fakePlugins) Reload(context.Context) error {
	f.orders = append(f.orders, "reload")
	return nil
}

func (f *fakePlugins) Reset(name string) error {
	f.orders = append(f.orders, "reset "+name)
	_, err := f.Plugin(name)
	return err
}

func (f *fakePlugins) Rollback(_ context.Context, name string) (core.PluginVersion, error) {
	f.orders = append(f.orders, "rollback "+name)
	if f.detail.Former == nil {
		return core.PluginVersion{}, core.ErrNoFormer
	}
	f.detail.SHA256 = f.detail.Former.SHA256
	return *f.detail.Former, nil
}

func (*fakePlugins) Attach(context.Context, string, core.PluginAttachment) error { return nil }
func (*fakePlugins) Detach(context.Context, string) error                        { return core.ErrNotAttached }

// operated is a server for operators with a data and a plugins directory.
type operated struct {
	t         *testing.T
	host      *fakePlugins
	data, dir string
}

func newOperated(t *testing.T, host *fakePlugins) *operated {
	t.Helper()
	o := &operated{t: t, host: host, data: t.TempDir(), dir: t.TempDir()}
	server := admin.NewOperator(admin.OperatorOptions{DataDir: o.data, Plugins: host, Logger: zerolog.Nop()})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("PLUGBOARD_PLUGINS__DIR", o.dir)
	t.Setenv("PLUGBOARD_PLUGINS__TRUST", host.trust)
	return o
}

// run is one command of the operator, in this process.
func (o *operated) run(args ...string) (code int, out, errOut string) {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	code = execute(o.t.Context(), append([]string{"plugins"}, append(args, "--data-dir", o.data)...), strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func (o *operated) want(code int, stdout, stderr string, args ...string) {
	o.t.Helper()
	got, out, errOut := o.run(args...)
	if got != code || !strings.Contains(out, stdout) || !strings.Contains(errOut, stderr) {
		o.t.Errorf("%q: got %d\n%s%s want %d with %q and %q", args, got, out, errOut, code, stdout, stderr)
	}
}

// nasty is text by which a plugin would like to steer its operator's terminal.
const nasty = "a\x1b]0;title\x07b\x1b[2Jc\u202ed\ne"

func badPlugin() core.PluginDetail {
	return core.PluginDetail{
		PluginState: core.PluginState{Name: "weather", Version: "1.2.0", State: "ready", Error: nasty},
		Summary:     nasty, Homepage: nasty, License: nasty, SHA256: strings.Repeat("ab", 32), PID: 7, Since: time.Now().Add(-time.Hour),
		Starts: 2, Crashes: 1, Sandbox: "partial", SandboxMissing: []string{"TCP"},
		Needs: []string{"kv", "send"}, Grants: []string{"kv"}, Wanted: []string{"users", nasty},
		Commands:   []core.Command{{Name: "weather", Summary: nasty, ParamsSchema: []byte(`{}`), ReadOnly: true, Idempotent: true}},
		Former:     &core.PluginVersion{Version: "1.1.0"},
		RolledBack: nasty,
		History: []core.PluginCrash{{
			At: time.Now(), Version: "1.1.0", How: "hung", Status: "signal: killed", Uptime: 3 * time.Second,
			Stderr: []string{nasty}, Calls: []string{"weather " + nasty}, Dump: "goroutine 1:\n" + nasty,
		}},
	}
}

func TestWhatPluginsWriteSteersNoTerminal(t *testing.T) {
	o := newOperated(t, &fakePlugins{trust: "owned", detail: badPlugin()})
	for _, args := range [][]string{{"list"}, {"reload"}, {"describe", "weather"}, {"describe", "weather", "--dump"}, {"reset", "weather"}} {
		_, out, errOut := o.run(args...)
		if text := out + errOut; strings.ContainsAny(text, "\x1b\x07\u202e") || !strings.Contains(text, "weather") {
			t.Errorf("%q printed %q", args, text)
		}
	}
	o.want(exitOK, "command weather  a]0;titleb[2Jcd e (idempotent, read-only)", "", "describe", "weather")
	o.want(exitOK, "hung at", "", "describe", "weather")
	o.want(exitOK, "its goroutines are shown with --dump", "", "describe", "weather")
	o.want(exitOK, "  > goroutine 1:\n  > a]0;titleb[2Jcd\n  > e", "", "describe", "weather", "--dump")
	o.want(exitOK, "not confined     TCP", "", "describe", "weather")
}

func TestOperatorsExitCodes(t *testing.T) {
	o := newOperated(t, &fakePlugins{trust: "owned", detail: badPlugin()})
	o.want(exitFailed, "", "no such plugin", "describe", "absent")
	o.want(exitFailed, "", "plugin weather: ", "reset", "weather")
	o.want(exitUsage, "", "takes one argument", "describe")
	if err := os.WriteFile(filepath.Join(o.dir, "weather"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	o.want(exitUsage, "", "nobody to ask", "remove", "weather")
	o.data = t.TempDir()
	o.want(exitUnreachable, "", "no server runs over this data directory", "list")
	o.want(exitUnreachable, "", "hint: plugboard serve", "rollback", "weather")
}

func TestHowToGrant(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	p := admin.Plugin{Name: "weather", Version: "1.2.0", SHA256: sum, Needs: []string{"kv", "send"}, Grants: []string{"kv"}, Wanted: []string{"users"}}
	dir := t.TempDir()
	var lock lockfile.File
	if err := errors.Join(lock.Set(lockfile.Entry{Name: "weather", Version: "1.2.0", SHA256: sum, Grants: []string{"kv", "read:/etc/weather"}}), lock.Save(dir)); err != nil {
		t.Fatal(err)
	}
	none := config.Plugins{Dir: dir}
	named := config.Plugins{Dir: dir, Grants: map[string][]string{"weather": {"kv", "net"}}}
	for _, c := range []struct {
		name    string
		plugins config.Plugins
		trust   string
		want    string
	}{
		{"configuration", none, pluginhost.TrustOwned, "plugins.grants.weather: [kv, send, users]"},
		{"keeps what is no capability", named, pluginhost.TrustOwned, "plugins.grants.weather: [kv, net, send, users]"},
		{"lock", none, pluginhost.TrustLocked, "in plugins.lock: weather 1.2.0 sha256:" + sum + " kv,read:/etc/weather,send,users"},
		{"both", named, pluginhost.TrustLocked, "in plugins.lock: weather 1.2.0 sha256:" + sum +
			" kv,read:/etc/weather,send,users; in the configuration: plugins.grants.weather: [kv, net, send, users]"},
	} {
		if got := howToGrant(p, c.plugins, c.trust); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	p.Needs, p.Wanted = []string{"kv"}, nil
	if got := howToGrant(p, named, pluginhost.TrustOwned); got != "" {
		t.Errorf("nothing is missing: got %q", got)
	}
}

func TestOfferChanges(t *testing.T) {
	former := core.PluginDetail{SHA256: "1", Needs: []string{"kv", "users"}, Commands: []core.Command{{Name: "weather"}, {Name: "weather.old"}}}
	next := core.PluginDetail{SHA256: "2", Needs: []string{"kv", "net"}, Commands: []core.Command{{Name: "weather"}, {Name: "weather.new"}}}
	want := []string{"newly asks for net", "no longer asks for users", "adds command weather.new", "drops command weather.old"}
	if diff := cmp.Diff(want, offerChanges(former, next)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	next.SHA256 = former.SHA256
	if got := offerChanges(former, next); len(got) != 1 || !strings.Contains(got[0], "same file") {
		t.Errorf("got %q, want that it is the same file", got)
	}
}

// TestRollbackChecksTheCopy has a server that names another hash than its copy has.
func TestRollbackChecksTheCopy(t *testing.T) {
	d := badPlugin()
	d.Error, d.RolledBack = "", ""
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, []byte("former"), 0o500); err != nil {
		t.Fatal(err)
	}
	d.Former = &core.PluginVersion{Version: "1.1.0", SHA256: strings.Repeat("00", 32), Path: copied}
	for _, trust := range []string{pluginhost.TrustOwned, pluginhost.TrustLocked} {
		host := &fakePlugins{trust: trust, detail: d}
		o := newOperated(t, host)
		current := filepath.Join(o.dir, "weather")
		if err := os.WriteFile(current, []byte("current"), 0o755); err != nil {
			t.Fatal(err)
		}
		o.want(exitFailed, "", "want "+d.Former.SHA256, "rollback", "weather")
		if raw, err := os.ReadFile(current); err != nil || string(raw) != "current" {
			t.Errorf("%s: the file is %q, %v, want it left alone", trust, raw, err)
		}
		if left, err := os.ReadDir(o.dir); err != nil || len(left) != 1 {
			t.Errorf("%s: left behind: %v, %v", trust, left, err)
		}
		asked := strings.Contains(strings.Join(host.orders, " "), "rollback")
		if asked != (trust == pluginhost.TrustOwned) {
			t.Errorf("%s: orders %q: with locked trust the file and its line come first", trust, host.orders)
		}
	}
	o := newOperated(t, &fakePlugins{trust: pluginhost.TrustLocked, detail: d})
	o.want(exitUsage, "", "--keep-file cannot be", "rollback", "weather", "--keep-file")
}
