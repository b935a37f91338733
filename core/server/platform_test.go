package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// rounds is how often something happens: a few times in the suite, as often as
// CHAOS_ROUNDS says where figures are wanted (make chaos).
func rounds(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("CHAOS_ROUNDS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CHAOS_ROUNDS is %q, want a number", text)
	}
	return n
}

// platform is a server with plugins of its own and clients that never pause.
type platform struct {
	*host
	t      *testing.T
	dir    string // the plugins directory
	admin  *admin.Client
	people int
}

func newPlatform(t *testing.T, plugins map[string]string) *platform {
	t.Helper()
	p := &platform{t: t, dir: filepath.Join(t.TempDir(), "plugins")}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, from := range plugins {
		p.install(name, from)
	}
	p.host = newServer(t, "PLUGBOARD_PLUGINS__DIR="+p.dir, "PLUGBOARD_LOG__LEVEL=info", "PLUGBOARD_LIMITS__CONNECTIONS_PER_USER=1000",
		"PLUGBOARD_PLUGINS__MAX_CONCURRENT=128", "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=1000000", "PLUGBOARD_LIMITS__BURST=1000000")
	var err error
	if p.admin, err = admin.Dial(p.data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.admin.Close()
		p.stop()
		p.nothingLeft()
	})
	return p
}

// install puts a file into the plugins directory in one step.
func (p *platform) install(name, from string) {
	p.t.Helper()
	raw, err := os.ReadFile(from)
	part := filepath.Join(p.dir, ".part-"+name)
	if err == nil {
		err = os.WriteFile(part, raw, 0o700)
	}
	if err == nil {
		err = os.Rename(part, filepath.Join(p.dir, name))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// nothingLeft finds processes that still run in the server's run directory.
func (p *platform) nothingLeft() {
	links, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, link := range links {
		environ, err := os.ReadFile(link)
		if err == nil && strings.Contains(string(environ), "PLUGBOARD_RUNTIME_DIR=") && strings.Contains(string(environ), p.runDir()) {
			p.t.Errorf("a plugin process is left: %s", filepath.Dir(link))
		}
	}
	if left, err := os.ReadDir(p.runDir()); err == nil && len(left) > 0 {
		p.t.Errorf("the run directory holds %v", left)
	}
}

func (p *platform) detail(name string) admin.Plugin {
	p.t.Helper()
	d, err := p.admin.Plugin(p.t.Context(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *platform) eventually(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(waitLimit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("in vain: %s\n%s", what, p.log.String())
		}
	}
}

func buildPlugin(t testing.TB, source, name, version string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-ldflags", "-s -w -X main.version="+version, "-o", out, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", source, err, text)
	}
	return out
}

// caller calls one command without pause.
type caller struct {
	command string
	mu      sync.Mutex
	times   []time.Duration
	failed  map[fault.Code]int
}

func (c *caller) count() (calls, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.failed {
		failed += n
	}
	return len(c.times), failed
}

// load runs one connection per caller until stop is called.
func (p *platform) load(callers ...*caller) (stop func()) {
	p.t.Helper()
	p.people++
	alice := p.person(fmt.Sprintf("user%d", p.people))
	var over atomic.Bool
	var running sync.WaitGroup
	for _, c := range callers {
		c.failed = make(map[fault.Code]int)
		l := alice.connect()
		running.Go(func() {
			for n := 0; !over.Load(); n++ {
				begin := time.Now()
				code, err := l.try(strconv.Itoa(n), c.command, fmt.Sprintf(`{"n":%d}`, n))
				took := time.Since(begin)
				if err != nil {
					p.t.Errorf("the connection ended: %v", err)
					return
				}
				c.mu.Lock()
				c.times = append(c.times, took)
				if code != "" {
					c.failed[code]++
				}
				c.mu.Unlock()
			}
		})
	}
	return sync.OnceFunc(func() {
		over.Store(true)
		running.Wait()
	})
}

// try makes one call and tells the code of its failure.
func (l *line) try(id, command, params string) (fault.Code, error) {
	if err := l.ws.WriteMessage(websocket.TextMessage, (&wire.Command{ID: id, Command: command, Params: []byte(params)}).Append(nil)); err != nil {
		return "", err
	}
	for {
		if err := l.ws.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
			return "", err
		}
		_, data, err := l.ws.ReadMessage()
		if err != nil {
			return "", err
		}
		f, err := wire.DecodeServer(data)
		if err != nil {
			return "", err
		}
		switch f := f.(type) {
		case *wire.Response:
			if f.ID == id {
				return "", nil
			}
			return "", fmt.Errorf("response to %s, want %s", f.ID, id)
		case *wire.ErrorFrame:
			if f.ID == id {
				return f.Fault.Code, nil
			}
			return "", fmt.Errorf("error of %s, want %s", f.ID, id)
		}
	}
}

func callersOf(n int, command string) []*caller {
	all := make([]*caller, n)
	for i := range all {
		all[i] = &caller{command: command}
	}
	return all
}

// sum are all calls of some callers: how many, how many failed, and how long they took.
func sum(callers []*caller) (calls, failed int, times []time.Duration) {
	for _, c := range callers {
		n, f := c.count()
		calls, failed = calls+n, failed+f
		times = append(times, c.times...)
	}
	slices.Sort(times)
	return calls, failed, times
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(10 * time.Microsecond)
}

// TestReplacementsLoseNoCall replaces a plugin's binary again and again under clients
// that call without pause. Every other version has a command more.
func TestReplacementsLoseNoCall(t *testing.T) {
	versions := []string{buildPlugin(t, "./testdata/worker", "worker", "1.0.0"), buildPlugin(t, "./testdata/worker", "worker", "2.0.0")}
	p := newPlatform(t, map[string]string{"worker": versions[0], "echo": filepath.Join(plugins, "echo")})
	goroutines := runtime.NumGoroutine()
	callers, others := callersOf(60, "worker"), callersOf(4, "echo")
	stop := p.load(append(callers, others...)...)
	defer stop()
	n := rounds(t, 6)
	var swaps []time.Duration
	for i := range n {
		next := (i + 1) % 2
		begin := time.Now()
		p.install("worker", versions[next])
		want := []string{"1.0.0", "2.0.0"}[next]
		p.eventually("version "+want+" serves", func() bool { return p.detail("worker").Version == want })
		swaps = append(swaps, time.Since(begin))
	}
	stop()
	calls, failed, times := sum(callers)
	slices.Sort(swaps)
	t.Logf("%d replacements under 64 clients: %d calls, %d failed; p50 %v p99 %v, longest %v; from rename to the new version p50 %v longest %v",
		n, calls, failed, quantile(times, 0.5), quantile(times, 0.99), quantile(times, 1), quantile(swaps, 0.5), quantile(swaps, 1))
	_, otherFailed, otherTimes := sum(others)
	t.Logf("another plugin meanwhile: %d failed, p50 %v p99 %v longest %v", otherFailed, quantile(otherTimes, 0.5), quantile(otherTimes, 0.99), quantile(otherTimes, 1))
	if failed+otherFailed > 0 {
		t.Errorf("%d and %d calls failed: %v", failed, otherFailed, callers[0].failed)
	}
	if got := p.detail("worker"); got.Starts != n+1 || got.Crashes != 0 {
		t.Errorf("got %d starts and %d crashes, want %d and none", got.Starts, got.Crashes, n+1)
	}
	p.eventually("the goroutines of former versions have ended", func() bool { return runtime.NumGoroutine() <= goroutines+200 })
}

// TestKilledPluginIsBack kills a plugin's process again and again under the same load.
func TestKilledPluginIsBack(t *testing.T) {
	p := newPlatform(t, map[string]string{"worker": buildPlugin(t, "./testdata/worker", "worker", "1.0.0"), "echo": filepath.Join(plugins, "echo")})
	once, again, others := callersOf(30, "worker"), callersOf(30, "worker.again"), callersOf(4, "echo")
	stop := p.load(slices.Concat(once, again, others)...)
	defer stop()
	alice := p.person("watcher")
	l := alice.connect()
	n := rounds(t, 4)
	life := 150 * time.Millisecond
	if n > 4 {
		life = 900 * time.Millisecond
	}
	var back []time.Duration
	for i := range n {
		time.Sleep(life) // longer than the backoff, so that the start is what is measured
		if i%4 == 3 {
			// Five crashes within two minutes are a quarantine, by contract.
			starts := p.detail("worker").Starts
			if err := p.admin.Reset(t.Context(), "worker"); err != nil {
				t.Fatal(err)
			}
			p.eventually("a fresh process serves", func() bool { d := p.detail("worker"); return d.State == "ready" && d.Starts > starts })
			time.Sleep(life)
		}
		pid := p.detail("worker").PID
		begin := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.eventually("it is dead", func() bool { return p.detail("worker").PID != pid })
		if code, err := l.try(fmt.Sprintf("k%d", i), "worker.again", `{"n":1}`); err != nil || code != "" {
			t.Fatalf("after kill %d: %v %v", i, code, err)
		}
		back = append(back, time.Since(begin))
	}
	stop()
	slices.Sort(back)
	calls, failed, _ := sum(once)
	againCalls, againFailed, _ := sum(again)
	otherCalls, otherFailed, otherTimes := sum(others)
	t.Logf("%d kills under 64 clients: serves again after p50 %v p99 %v longest %v", n, quantile(back, 0.5), quantile(back, 0.99), quantile(back, 1))
	t.Logf("not idempotent: %d calls, %d failed (at most %d were in flight); idempotent: %d calls, %d failed; another plugin: %d calls, %d failed, p99 %v",
		calls, failed, n*len(once), againCalls, againFailed, otherCalls, otherFailed, quantile(otherTimes, 0.99))
	if againFailed+otherFailed > 0 {
		t.Errorf("%d idempotent calls and %d of another plugin failed", againFailed, otherFailed)
	}
	for _, c := range once {
		for code, count := range c.failed {
			if code != fault.PluginUnavailable || count > n {
				t.Errorf("%d calls of one client failed with %s, want at most one per kill, plugin_unavailable", count, code)
			}
		}
	}
}

// resident is the memory of a process that is resident, in MiB.
func resident(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) < 2 {
		return -1
	}
	pages, _ := strconv.Atoi(fields[1]) // the kernel writes numbers
	return pages * os.Getpagesize() >> 20
}

// TestHostilePluginsHurtThemselvesOnly has one plugin do everything wrong while
// another is called without pause.
func TestHostilePluginsHurtThemselvesOnly(t *testing.T) {
	p := newPlatform(t, map[string]string{
		"bad": buildPlugin(t, "../pluginhost/testplugin", "bad", "1.0.0"), "worker": buildPlugin(t, "./testdata/worker", "worker", "1.0.0"),
	})
	alice := p.person("alice")
	l := alice.connect()
	measure := func() ([]time.Duration, int) {
		callers := callersOf(8, "worker")
		stop := p.load(callers...)
		time.Sleep(300 * time.Millisecond)
		stop()
		_, failed, times := sum(callers)
		return times, failed
	}
	quiet, _ := measure()
	t.Logf("nothing wrong: p50 %v p99 %v, %d MiB resident", quantile(quiet, 0.5), quantile(quiet, 0.99), resident(os.Getpid()))
	large := 20_000 // lines of 1 KiB
	if os.Getenv("CHAOS_ROUNDS") != "" {
		large = 100_000
	}
	for _, act := range []struct {
		what, command, params string
		want                  []fault.Code // "" is a result
	}{
		{"floods stderr", "bad.flood", fmt.Sprintf(`{"n":%d}`, large), []fault.Code{""}},
		{"answers rubbish", "bad.nojson", `{}`, []fault.Code{fault.Internal}},
		{"answers 1 MiB", "bad.big", `{"n":1048576}`, []fault.Code{fault.TooLarge}},
		{"answers 5 MB", "bad.big", `{"n":5000000}`, []fault.Code{fault.PluginUnavailable}},
		{"answers twice", "bad.twice", `{}`, []fault.Code{""}},
		{"answers what nobody asked", "bad.stray", `{}`, []fault.Code{""}},
		{"asks the server without end", "bad.asks", `{"n":5000}`, []fault.Code{""}},
		{"leaves a child behind", "bad.child", `{}`, []fault.Code{""}},
		{"allocates without end", "bad.alloc", `{}`, []fault.Code{fault.PluginUnavailable}},
		{"stops answering", "bad.freeze", `{}`, []fault.Code{"", fault.PluginUnavailable}},
	} {
		before := resident(os.Getpid())
		callers := callersOf(8, "worker")
		stop := p.load(callers...)
		code, err := l.try("hostile", act.command, act.params)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", act.what, err)
		}
		_, failed, times := sum(callers)
		state := p.detail("bad").State
		t.Logf("%-28s its call: %-20s plugin: %-10s others: %d failed, p50 %v p99 %v; server %+d MiB", act.what,
			string(code)+map[bool]string{true: "result"}[code == ""], state, failed, quantile(times, 0.5), quantile(times, 0.99), resident(os.Getpid())-before)
		if !slices.Contains(act.want, code) {
			t.Errorf("%s: got %q, want one of %q", act.what, code, act.want)
		}
		if failed > 0 {
			t.Errorf("%s: %d calls of another plugin failed", act.what, failed)
		}
		p.eventually("bad is back", func() bool { return p.detail("bad").State == "ready" })
		if err := p.admin.Reset(context.Background(), "bad"); err != nil {
			t.Fatal(err)
		}
		p.eventually("bad is fresh", func() bool { _, err := p.admin.Reload(context.Background()); return err == nil })
	}
	if p.detail("worker").Crashes != 0 {
		t.Error("the other plugin crashed")
	}
	if _, err := p.admin.Plugin(t.Context(), "absent"); err == nil || !strings.Contains(err.Error(), "no such plugin") {
		t.Errorf("got %v", errors.Unwrap(err))
	}
}
