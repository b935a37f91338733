package pluginhost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// childEnv makes the test binary a host that is going to be killed.
const childEnv = "PLUGBOARD_TEST_HOST"

// testBinary is the misbehaving plugin, built once.
var testBinary string

func TestMain(m *testing.M) {
	if dirs := os.Getenv(childEnv); dirs != "" {
		runHostUntilKilled(dirs)
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "testplugin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	testBinary = filepath.Join(dir, "testplugin")
	if out, err := exec.Command("go", "build", "-o", testBinary, "./testplugin").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build testplugin: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// catalogue keeps what is published and refuses references to the outside.
type catalogue struct {
	mu       sync.Mutex
	commands map[string][]core.Command
	invokers map[string]core.Invoker
}

func (c *catalogue) Publish(plugin string, commands []core.Command, invoker core.Invoker) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range commands {
		if bytes.Contains(cmd.ParamsSchema, []byte("https://")) {
			return errors.New("schema leaves the plugin")
		}
	}
	if c.commands == nil {
		c.commands, c.invokers = map[string][]core.Command{}, map[string]core.Invoker{}
	}
	c.commands[plugin], c.invokers[plugin] = commands, invoker
	return nil
}

func (c *catalogue) Withdraw(plugin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.commands, plugin)
	delete(c.invokers, plugin)
}

// services is a server with nobody in it, and nothing but what follows.
type services struct{ core.HostServices }

func (services) ServerInfo(context.Context) (core.ServerInfo, error) {
	return core.ServerInfo{Version: "9.9.9", StartedAt: time.Now()}, nil
}
func (services) CountUsers(context.Context) (core.UserCount, error) { return core.UserCount{}, nil }
func (services) ListUsers(context.Context, string, int) ([]core.User, error) {
	return nil, nil
}
func (services) ListCommands(_ context.Context, caller core.Caller) ([]wire.CommandInfo, error) {
	return []wire.CommandInfo{{Name: "for_" + caller.UserID}}, nil
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// lines are the log's lines that contain all parts.
func (b *logBuffer) lines(parts ...string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
next:
	for line := range strings.SplitSeq(b.buf.String(), "\n") {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// world is a host with its directories, and what it says.
type world struct {
	t         testing.TB
	dir, run  string
	host      *pluginhost.Host
	catalogue *catalogue
	log       *logBuffer
	registry  *prometheus.Registry
	keepsRun  bool // the run directory stays, empty
}

// newWorld prepares a plugins directory with copies of the test plugin.
func newWorld(t testing.TB, plugins ...string) *world {
	t.Helper()
	base := t.TempDir()
	w := &world{t: t, dir: filepath.Join(base, "plugins"), run: filepath.Join(base, "run"), catalogue: &catalogue{}, log: &logBuffer{}, registry: prometheus.NewRegistry()}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range plugins {
		w.install(name)
	}
	return w
}

func (w *world) install(name string) {
	w.t.Helper()
	raw, err := os.ReadFile(testBinary)
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, name), raw, 0o755)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// replace puts a file in the place of a plugin, in one step.
func (w *world) replace(name, with string) {
	w.t.Helper()
	raw, err := os.ReadFile(with)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(name, string(raw))
}

// write puts a program in the place of a plugin, in one step.
func (w *world) write(name, program string) {
	w.t.Helper()
	part := filepath.Join(w.dir, ".part-"+name)
	err := os.WriteFile(part, []byte(program), 0o755)
	if err == nil {
		err = os.Rename(part, filepath.Join(w.dir, name))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) detail(plugin string) core.PluginDetail {
	d, _ := w.host.Plugin(plugin) // none is the zero one
	return d
}

// start starts the host and waits until it is ready. At the end of the test it is
// stopped, and nothing of it may be left.
func (w *world) start(change func(*pluginhost.Options)) *world {
	w.t.Helper()
	o := pluginhost.Options{
		Dir: w.dir, RunDir: w.run, Host: services{}, Catalogue: w.catalogue, Logger: zerolog.New(w.log), Registerer: w.registry,
		Sandbox: sandbox.Auto, StartTimeout: 5 * time.Second, DrainTimeout: 2 * time.Second, HealthInterval: time.Minute,
	}
	if change != nil {
		change(&o)
	}
	h, err := pluginhost.New(o)
	if err != nil {
		w.t.Fatalf("new host: %v", err)
	}
	w.host = h
	w.t.Cleanup(func() { w.stop() })
	if err := h.Start(context.Background()); err != nil {
		w.t.Fatalf("start: %v", err)
	}
	select {
	case <-h.Ready():
	case <-time.After(20 * time.Second):
		w.t.Fatalf("not ready after 20 s: %+v", h.States())
	}
	return w
}

func (w *world) stop() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.host.Stop(ctx); err != nil {
		w.t.Errorf("stop: %v", err)
	}
	left, err := os.ReadDir(w.run)
	if !w.keepsRun && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		w.t.Errorf("the run directory is still there with %v (%v)", left, err)
	}
	if left := processesIn(w.t, w.run); len(left) > 0 {
		w.t.Errorf("processes are left: %v", left)
	}
	if w.t.Failed() {
		w.t.Logf("log:\n%s", strings.Join(w.log.lines(), "\n"))
	}
}

// processesIn are the processes whose working directory is in dir.
func processesIn(t testing.TB, dir string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, link := range links {
		// A process that ends meanwhile has no link; it does not count.
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) state(plugin string) core.PluginState {
	for _, s := range w.host.States() {
		if s.Name == plugin {
			return s
		}
	}
	return core.PluginState{}
}

func (w *world) wantState(plugin, want string) core.PluginState {
	w.t.Helper()
	var got core.PluginState
	w.eventually(fmt.Sprintf("%s is %s", plugin, want), func() bool { got = w.state(plugin); return got.State == want })
	return got
}

// eventually waits for a condition that other processes bring about.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("after 10 s still not: %s; states %+v", what, w.host.States())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) invoke(ctx context.Context, command, params string) ([]byte, error) {
	return w.invokeWith(ctx, command, params, func(core.Progress) {})
}

func (w *world) invokeWith(ctx context.Context, command, params string, progress func(core.Progress)) ([]byte, error) {
	plugin, _, _ := strings.Cut(command, ".")
	w.catalogue.mu.Lock()
	invoker := w.catalogue.invokers[plugin]
	w.catalogue.mu.Unlock()
	if invoker == nil {
		return nil, fmt.Errorf("plugin %q published nothing", plugin)
	}
	return invoker.Invoke(ctx, &core.Call{ID: "call-1", Command: command, Params: []byte(params), Caller: core.Caller{UserID: "alice"}}, progress)
}

func (w *world) wantResult(command, params, want string) {
	w.t.Helper()
	got, err := w.invoke(context.Background(), command, params)
	if err != nil || string(got) != want {
		w.t.Fatalf("%s %s: got %s, %v, want %s", command, params, got, err, want)
	}
}

func (w *world) wantCode(err error, want fault.Code) *fault.Error {
	w.t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != want {
		w.t.Fatalf("got error %v, want code %s", err, want)
	}
	return f
}

// runHostUntilKilled is a host in a process of its own; it says "ready" on stdout.
func runHostUntilKilled(dirs string) {
	dir, runDir, _ := strings.Cut(dirs, ":")
	h, err := pluginhost.New(pluginhost.Options{Dir: dir, RunDir: runDir, Host: services{}, Catalogue: &catalogue{}, Logger: zerolog.New(io.Discard)})
	if err == nil {
		err = h.Start(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-h.Ready()
	fmt.Println("ready")
	select {}
}
