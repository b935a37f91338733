package admin_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/admin"
)

// operator is a plugin host with one plugin that remembers its orders.
type operator struct{ orders []string }

func (o *operator) Overview() core.PluginsOverview {
	d, _ := o.Plugin("weather") // it is there
	return core.PluginsOverview{Dir: "/p", LockFile: "/p/plugins.lock", Trust: "owned", Sandbox: "auto", Plugins: []core.PluginDetail{d}}
}

func (o *operator) Plugin(name string) (core.PluginDetail, error) {
	if name != "weather" {
		return core.PluginDetail{}, core.ErrNoPlugin
	}
	return core.PluginDetail{
		PluginState: core.PluginState{Name: name, Version: "1.0.0", State: "ready"}, PID: 7, Since: time.Unix(1000, 0), Needs: []string{"kv"},
		Commands: []core.Command{{Name: "weather", Summary: "Tells", ParamsSchema: []byte(`{"type":"object"}`), ResultSchema: []byte(`{}`)}},
		Former:   &core.PluginVersion{Version: "0.9.0"},
		History:  []core.PluginCrash{{How: "crashed", Status: "signal: killed", Uptime: time.Second, Stderr: []string{"oh"}}},
	}, nil
}

func (o *operator) Reload(context.Context) error { o.orders = append(o.orders, "reload"); return nil }
func (o *operator) Reset(name string) error      { o.orders = append(o.orders, "reset "+name); return nil }
func (o *operator) Rollback(_ context.Context, name string) (core.PluginVersion, error) {
	if name == "broken" {
		return core.PluginVersion{}, errors.New("the former version does not start")
	}
	return core.PluginVersion{}, core.ErrNoFormer
}
func (o *operator) Attach(_ context.Context, name string, at core.PluginAttachment) error {
	o.orders = append(o.orders, "attach "+name+" "+at.Address)
	return nil
}
func (o *operator) Detach(context.Context, string) error { return core.ErrNotAttached }

func start(t *testing.T, dir string) *operator {
	t.Helper()
	o := &operator{}
	p := admin.NewOperator(admin.OperatorOptions{DataDir: dir, Plugins: o, Logger: zerolog.Nop()})
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return o
}

func TestOperators(t *testing.T) {
	for name, dir := range map[string]string{"short path": t.TempDir(), "long path": filepath.Join(t.TempDir(), strings.Repeat("d", 120))} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			o := start(t, dir)
			for _, file := range []string{admin.SocketName, admin.KeyName} {
				if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: got %v, %v, want mode 0600", file, info, err)
				}
			}
			c, err := admin.Dial(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			overview, err := c.Overview(t.Context())
			if err != nil || len(overview.Plugins) != 1 || overview.Trust != "owned" {
				t.Fatalf("got %+v, %v", overview, err)
			}
			one, err := c.Plugin(t.Context(), "weather")
			if diff := cmp.Diff(overview.Plugins[0], one); diff != "" || err != nil || one.Former.Version != "0.9.0" || one.History[0].UptimeMS != 1000 {
				t.Errorf("%v (-overview +one):\n%s", err, diff)
			}
			_, err = c.Reload(t.Context())
			err = errors.Join(err, c.Reset(t.Context(), "weather"), c.Attach(t.Context(), "weather", admin.Attachment{Network: "unix", Address: "/s"}))
			if diff := cmp.Diff([]string{"reload", "reset weather", "attach weather /s"}, o.orders); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			_, absent := c.Plugin(t.Context(), "absent")
			_, former := c.Rollback(t.Context(), "weather")
			_, broken := c.Rollback(t.Context(), "broken")
			for code, err := range map[string]error{"not_found": absent, "conflict": former, "failed": broken} {
				if p, ok := errors.AsType[*admin.Problem](err); !ok || p.Code != code || p.Detail == "" {
					t.Errorf("got %v, want the code %s", err, code)
				}
			}
			if p, ok := errors.AsType[*admin.Problem](c.Detach(t.Context(), "weather")); !ok || p.Code != "conflict" {
				t.Errorf("got %v, want a conflict", p)
			}
		})
	}
}

func TestOperatorsKeyIsAsked(t *testing.T) {
	dir := t.TempDir()
	o := start(t, dir)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, admin.SocketName))
	}}}
	for _, shown := range []string{"", "Bearer ", "Bearer " + strings.Repeat("0", 64)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/plugins/weather/reset", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", shown)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized || len(o.orders) != 0 {
			t.Errorf("%q: got %d and orders %v, want it refused", shown, res.StatusCode, o.orders)
		}
	}
}

func TestNoServer(t *testing.T) {
	dir := t.TempDir()
	if _, err := admin.Dial(dir); !errors.Is(err, admin.ErrNoServer) {
		t.Errorf("got %v, want that none runs", err)
	}
	// What a killed server left.
	if err := os.WriteFile(filepath.Join(dir, admin.KeyName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := admin.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Overview(t.Context()); !errors.Is(err, admin.ErrNoServer) {
		t.Errorf("got %v, want that none runs", err)
	}
	start(t, dir) // takes over
}
