package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/plugboard/plugboard/config"
)

var update = flag.Bool("update", false, "write plugboard.example.yaml anew")

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	set.String("config", "", "")
	config.AddFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestPrecedence(t *testing.T) {
	file := write(t, "p.yaml", "limits:\n  burst: 30\n  send_queue: 64\n  connections: 5\n")
	l, err := config.Load(config.Options{
		File: file, Flags: flags(t, "--limits.burst=50", "--config=x"),
		Environ: []string{"PLUGBOARD_LIMITS__BURST=40", "PLUGBOARD_LIMITS__SEND_QUEUE=128", "PLUGBOARD_USER=a", "PLUGBOARD_SERVER=b",
			"PLUGBOARD_PLUGINS__GRANTS__WEATHER=server, users", "PLUGBOARD_PLUGINS__ACCESS__PING__RATE=2.5", "HOME=/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range l.Values() {
		got[v.Key] = v.Value + " " + v.Origin.String()
	}
	for key, want := range map[string]string{
		"limits.burst": "50 flag --limits.burst", "limits.send_queue": "128 environment PLUGBOARD_LIMITS__SEND_QUEUE",
		"limits.connections": "5 " + file + ":4", "auth.token_ttl": "1h default", "storage.dsn": "******** default",
		"plugins.grants.weather":   "[server, users] environment PLUGBOARD_PLUGINS__GRANTS__WEATHER",
		"plugins.access.ping.rate": "2.5 environment PLUGBOARD_PLUGINS__ACCESS__PING__RATE",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
}

func TestFormats(t *testing.T) {
	for name, text := range map[string]string{
		"a.yaml": "limits: {max_frame_bytes: 32KiB}\nplugins: {access: {weather.today: {roles: [admin], enabled: false}}}\n",
		"a.json": `{"limits":{"max_frame_bytes":32768},"plugins":{"access":{"weather.today":{"roles":["admin"],"enabled":false}}}}`,
		"a.toml": "[limits]\nmax_frame_bytes = \"32KiB\"\n[plugins.access.\"weather.today\"]\nroles = [\"admin\"]\nenabled = false\n",
	} {
		l, err := config.Load(config.Options{File: write(t, name, text)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		off := false
		want := map[string]config.Access{"weather.today": {Roles: []string{"admin"}, Enabled: &off}}
		if d := cmp.Diff(want, l.Config.Plugins.Access); d != "" || l.Config.Limits.MaxFrameBytes != 32*config.KiB {
			t.Errorf("%s: got %v, want 32KiB; access: %s", name, l.Config.Limits.MaxFrameBytes, d)
		}
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	file := write(t, "p.yaml", "server:\n  listn: x\n  listen: 0.0.0.0:80\ntls: {mode: acme}\nlimits: {burst: many, max_frame_bytes: 2MiB}\n"+
		"auth: {challenge_ttl: 61s}\nstorage: {dsn: [hunter2]}\nplugins: {grants: {w: [kv, 'read:here']}, sandbox: maybe}\n")
	_, err := config.Load(config.Options{File: file, Environ: []string{"PLUGBOARD_CLUSTER__X=1"}})
	if _, ok := errors.AsType[*config.Error](err); !ok {
		t.Fatalf("got %v, want *config.Error", err)
	}
	for _, want := range []string{
		"server.listn (" + file + ":2): is no known key; did you mean server.listen?", "server.hosts (default): is not set",
		`tls.mode (` + file + `:4): is "acme"; want off or files`, `limits.burst (` + file + `:5): is "many"; want a whole number`,
		"limits.max_frame_bytes (" + file + ":5): is 2MiB; want 1KiB to 1MiB", "auth.challenge_ttl", "storage.dsn (" + file + ":7): is ********",
		"plugins.grants.w (" + file + `:8): has "read:here"`, `plugins.sandbox (` + file + `:8): is "maybe"; want auto or require or off`, "cluster.x (environment PLUGBOARD_CLUSTER__X): is no known key",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant a line with %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got the secret in %v", err)
	}
}

func TestCombinations(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{"server: {listen: '192.0.2.1:80'}", "without TLS"},
		{"server: {listen: '192.0.2.1:80'}\ntls: {mode: 'off'}", ""},
		{"server: {listen: ':80'}\ntls: {mode: 'off'}", "server.hosts"},
		{"tls: {mode: files, cert_file: a}", "tls.key_file"},
		{"data_dir: " + dir + "\nplugins: {dir: " + dir + "/plugins}", "data_dir"},
		{"data_dir: " + dir + "/link/d/x\nplugins: {dir: " + dir + "/d}", "data_dir"},
		{"storage: {dsn: 'file:" + dir + "/p/db?x=y'}\nplugins: {dir: " + dir + "/p}", "storage.dsn"},
		{"auth: {keys: " + dir + "/p/k}\nplugins: {dir: " + dir + "/p}", "auth.keys"},
		{"data_dir: " + dir + "/d\nplugins: {dir: " + dir + "/p}", ""},
	} {
		err := config.CheckFile(write(t, "c.yaml", c.text))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.text, err, c.want)
		}
	}
}

func TestHosts(t *testing.T) {
	h := config.Hosts{"localhost", "chat.example.org", "[::1]:8080", "10.0.0.1:443"}
	for host, want := range map[string]bool{
		"localhost:1234": true, "LOCALHOST": true, "chat.example.org": true, "Chat.example.org:443": true, "chat.example.org:8080": false,
		"[::1]:8080": true, "[::1]:81": false, "10.0.0.1": true, "evil.example": false, "": false, "a:b:c": false,
	} {
		if got := h.Allowed(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

func TestExampleIsInStep(t *testing.T) {
	const path = "plugboard.example.yaml"
	if *update {
		if err := os.WriteFile(path, config.Example(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(config.Example()), string(file)); d != "" {
		t.Errorf("run go test ./config -update: %s", d)
	}
	if err := config.CheckFile(path); err != nil {
		t.Error(err)
	}
}

func TestEveryKeyIsExplained(t *testing.T) { explained(t, reflect.TypeFor[config.Config](), "") }

func explained(t *testing.T, typ reflect.Type, parent string) {
	t.Helper()
	for f := range typ.Fields() {
		key := parent + f.Tag.Get("koanf")
		if f.Tag.Get("koanf") == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") {
			t.Errorf("%s (%s): got no key or no sentence, want both", key, f.Name)
		}
		if f.Type.Kind() == reflect.Struct {
			explained(t, f.Type, key+".")
		} else if f.Type.Kind() != reflect.Map && f.Type.Kind() != reflect.String && f.Tag.Get("unit") == "" {
			t.Errorf("%s: got no unit, want one", key)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"server: {listen: x}", "a: &a [*a]", "? [1]\n: 2", `{"limits":{"burst":1e99}}`, "1: {2: 3}", "plugins:\n  grants: {a: 1}", "[plugins.settings.x]\ny=1", "<<: {a: b}", ""} {
		for _, ending := range []string{"yaml", "toml", "json"} {
			f.Add(seed, ending)
		}
	}
	f.Fuzz(func(t *testing.T, text, ending string) {
		if ending != "yaml" && ending != "toml" && ending != "json" {
			return
		}
		err := config.CheckFile(write(t, "f."+ending, text))
		var e *config.Error
		if err != nil && (!errors.As(err, &e) || len(e.Problems) == 0) {
			t.Errorf("got %v, want *config.Error with problems", err)
		}
	})
}
