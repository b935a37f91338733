package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
)

// running is a plugins run in this process.
type running struct {
	t           *testing.T
	temp, users string // where it may leave something
	in          *os.File
	cancel      context.CancelFunc
	code        chan int

	mu       sync.Mutex
	out, err bytes.Buffer
}

// runPlugin starts plugins run with these arguments.
func runPlugin(t *testing.T, args ...string) *running {
	t.Helper()
	temp, err := os.MkdirTemp("", "pb") //nolint:usetesting // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	r := &running{t: t, temp: temp, users: t.TempDir(), code: make(chan int, 1)}
	ended := make(chan struct{})
	t.Setenv("TMPDIR", temp)
	t.Setenv("XDG_CONFIG_HOME", r.users)
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.in = typed
	root := &cobra.Command{Use: "plugins", SilenceErrors: true, SilenceUsage: true}
	addAuthorCommands(root)
	root.SetArgs(append([]string{"run"}, args...))
	root.SetIn(in)
	root.SetOut(lockedWriter{&r.mu, &r.out})
	errOut := lockedWriter{&r.mu, &r.err}
	root.SetErr(errOut)
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() {
		defer close(ended)
		err := root.ExecuteContext(ctx)
		if err == nil {
			r.code <- exitOK
			return
		}
		report(errOut, err)
		r.code <- exitCode(err)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = typed.Close()
		_ = in.Close()
	})
	return r
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (r *running) stdout() string { r.mu.Lock(); defer r.mu.Unlock(); return r.out.String() }
func (r *running) stderr() string { r.mu.Lock(); defer r.mu.Unlock(); return r.err.String() }

// told waits until stderr has a text that matches, and returns what stands in the
// first parentheses.
func (r *running) told(pattern string) string {
	r.t.Helper()
	return r.until(r.stderr, pattern)
}

// answers types a line and waits for its result.
func (r *running) answers(line, pattern string) {
	r.t.Helper()
	r.mu.Lock()
	r.out.Reset()
	r.mu.Unlock()
	if _, err := r.in.WriteString(line + "\n"); err != nil {
		r.t.Fatal(err)
	}
	r.until(r.stdout, pattern)
}

func (r *running) until(text func() string, pattern string) string {
	r.t.Helper()
	wanted := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if found := wanted.FindStringSubmatch(text()); found != nil {
			return found[len(found)-1]
		}
		select {
		case code := <-r.code:
			r.t.Fatalf("ended with %d before %q:\n%s%s", code, pattern, r.stdout(), r.stderr())
		default:
		}
	}
	r.t.Fatalf("no %q in time:\n%s%s", pattern, r.stdout(), r.stderr())
	return ""
}

// ends waits for the end, and insists that nothing is left.
func (r *running) ends(want int) {
	r.t.Helper()
	select {
	case code := <-r.code:
		if code != want {
			r.t.Errorf("got exit code %d, want %d\n%s%s", code, want, r.stdout(), r.stderr())
		}
	case <-time.After(time.Minute):
		r.t.Fatalf("it does not end:\n%s%s", r.stdout(), r.stderr())
	}
	for _, dir := range []string{r.temp, r.users} {
		var left []string
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			// The Go tools count their own starts.
			if path != dir && !strings.HasPrefix(path, filepath.Join(r.users, "go")) {
				left = append(left, path)
			}
			return err
		})
		if err != nil || len(left) > 0 {
			r.t.Errorf("left behind: %v (%v)", left, err)
		}
	}
	if left, err := filepath.Glob("/proc/[0-9]*/exe"); err == nil {
		for _, exe := range left {
			if path, err := os.Readlink(exe); err == nil && strings.HasPrefix(path, r.temp) {
				r.t.Errorf("%s still runs", path)
			}
		}
	}
}

// forgetTold makes told wait for something new.
func (r *running) forgetTold() { r.mu.Lock(); defer r.mu.Unlock(); r.err.Reset() }

func edit(t *testing.T, file, old, text string) {
	t.Helper()
	before := fileText(t, file)
	after := strings.ReplaceAll(before, old, text)
	if before == after {
		t.Fatalf("%s has no %q", file, old)
	}
	writeFile(t, file, after)
}

// A plugin is changed, broken, mended and changed again while its server runs.
func TestPluginsRunEditLoop(t *testing.T) {
	dir := writePlugin(t, "rain", "--kv")
	main := filepath.Join(dir, "main.go")
	r := runPlugin(t, dir)
	r.told(`built in \d+\.\d s\n`)
	r.told(`version 0\.1\.0 serves \(started, 2 commands\)`)
	url := r.told(`call --server (http://127\.0\.0\.1:\d+) --as author rain '\{"name":"Ada"\}'`)
	r.answers(`rain {"name":"Ada"}`, `{"text":"Hello Ada, author says hi"}`)
	r.told(`rain \| INFO Greeted somebody`)
	r.answers(`rain.visits`, `{"visits":1}`)

	// The command line that is printed works.
	var out, errOut bytes.Buffer
	if code := execute(t.Context(), []string{"call", "--server", url, "--as", "author", "--compact", "rain", `{"name":"Eve"}`},
		strings.NewReader(""), &out, &errOut); code != exitOK || !strings.Contains(out.String(), "Hello Eve") {
		t.Errorf("call: got %d %s%s", code, &out, &errOut)
	}

	r.forgetTold()
	edit(t, main, `"0.1.0"`, `"0.2.0"`)
	edit(t, main, "says hi", "waves")
	r.told(`version 0\.2\.0 serves \(swapped, 2 commands\)`)
	r.answers(`rain {"name":"Ada"}`, `author waves`)
	r.answers(`rain.visits`, `{"visits":2}`)

	edit(t, main, "return greeting{}, ", "return ")
	r.told(`main\.go:\d+:\d+: .*\n`)
	r.told(`not built, after \d+\.\d s: go build: exit status 1; version 0\.2\.0 goes on`)
	r.answers(`rain {"name":"Ada"}`, `author waves`)

	// It builds, but no server takes it.
	edit(t, main, `return sdk.InvalidParams`, `return greeting{}, sdk.InvalidParams`)
	edit(t, main, `"Greets people"`, `""`)
	r.told(`describes itself wrongly.*\n?.*summary.*version 0\.2\.0 goes on`)
	edit(t, main, `Summary: ""`, `Summary: "Greets"`)
	edit(t, main, `func main() { `, `func main() { panic("no luck"); `)
	r.told(`rain \| panic: no luck(?s:.*)refused by the server: version 0\.2\.0 goes on, because .*no handshake`)
	r.answers(`rain {"name":"Ada"}`, `author waves`)

	edit(t, main, `panic("no luck"); `, ``)
	edit(t, main, `"0.2.0"`, `"0.3.0"`)
	r.told(`version 0\.3\.0 serves \(swapped, 2 commands\)`)

	// Files that the plugin is not made of.
	r.forgetTold()
	writeFile(t, filepath.Join(dir, "README.md"), "changed")
	r.told(`nothing changed by that`)
	r.cancel()
	r.ends(exitOK)
}

// A script's lines, and no compiler: the file is run as it is.
func TestPluginsRunScript(t *testing.T) {
	plugins := os.Getenv(envPlugins)
	r := runPlugin(t, filepath.Join(plugins, "echo"))
	r.answers(`echo {"n":12345678901234567890}`, `{"n":12345678901234567890}`)
	if err := r.in.Close(); err != nil {
		t.Fatal(err)
	}
	r.ends(exitOK)

	r = runPlugin(t, filepath.Join(plugins, "usercount"), "--grant=")
	r.told(`it asks for users, which --grant does not name`)
	for _, line := range []string{"usercount", "nothing", "usercount [1]", ""} {
		if _, err := r.in.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	_ = r.in.Close()
	r.ends(exitFailed)
	for _, want := range []string{`(internal)`, `there is no command "nothing"; the plugin has usercount`, "one JSON object", "3 of 3 calls failed"} {
		if !strings.Contains(r.stderr(), want) {
			t.Errorf("got\n%s\nwant %q", r.stderr(), want)
		}
	}

	r = runPlugin(t, filepath.Join(plugins, "usercount"), "--listen", "localhost:0")
	r.answers("usercount", `{"connected":1,"registered":1}`)
	r.cancel()
	r.ends(exitOK)
}

// Settings reach the plugin: this one refuses them, so nothing serves.
func TestPluginsRunSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "settings.json")
	writeFile(t, file, `{"max_days":3}`)
	r := runPlugin(t, filepath.Join(os.Getenv(envPlugins), "ping"), "--settings", "@"+file)
	r.told(`refused by the server: .*[Ss]ettings refused: this plugin takes none`)
	r.cancel()
	r.ends(exitOK)
}

// A shell command makes the plugin, from what is neither Go nor built here.
func TestPluginsRunBuild(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "which"), "ping")
	r := runPlugin(t, dir, "--build", `cp "`+os.Getenv(envPlugins)+`/$(cat which)" "$PLUGIN_OUT"`)
	r.told(`version 1\.0\.0 serves \(started, 1 command\)`)
	r.answers("ping", `"pong":true`)
	writeFile(t, filepath.Join(dir, "which"), "echo")
	r.told(`calls itself echo now`)
	writeFile(t, filepath.Join(dir, "which"), "nothing")
	r.told(`cannot stat.*\n.*not built, after \d+\.\d s: --build: exit status 1; version 1\.0\.0 goes on`)
	r.cancel()
	r.ends(exitOK)
}

// A script is told at once of what does not build.
func TestPluginsRunNotBuilt(t *testing.T) {
	dir := writePlugin(t, "rain")
	writeFile(t, filepath.Join(dir, "more.go"), "package main\n\nvar x int = `text`\n")
	r := runPlugin(t, dir)
	r.ends(exitFailed)
	if !strings.Contains(r.stderr(), "more.go:3:13: cannot use `text`") {
		t.Errorf("got\n%s\nwant the compiler's words", r.stderr())
	}
	r = runPlugin(t, t.TempDir(), "--build", "true")
	r.ends(exitFailed)
	if !strings.Contains(r.stderr(), "wrote nothing to $PLUGIN_OUT") {
		t.Errorf("got\n%s\nwant to be told of $PLUGIN_OUT", r.stderr())
	}
}

// The end comes in the middle of a build, too.
func TestPluginsRunInterruptedBuild(t *testing.T) {
	dir := t.TempDir()
	r := runPlugin(t, dir, "--build", "touch began; sleep 600 & sleep 600")
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "began")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the build does not begin")
		}
	}
	r.cancel()
	r.ends(exitOK)
}

func TestPluginsRunRefuses(t *testing.T) {
	empty := t.TempDir()
	plugin := filepath.Join(os.Getenv(envPlugins), "ping")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"run"}, "takes one argument, for example: plugboard plugins run ."},
		{[]string{"run", empty}, "neither a Go package nor an executable file"},
		{[]string{"run", filepath.Join(empty, "none")}, "no such file"},
		{[]string{"run", plugin, "--build", "true"}, "is a file"},
		{[]string{"run", plugin, "--listen", "0.0.0.0:0"}, "--listen must be a loopback address"},
		{[]string{"run", plugin, "--listen", "8080"}, "--listen must be a loopback address"},
		{[]string{"run", plugin, "--settings", "[1]"}, "--settings must be one JSON object"},
		{[]string{"run", plugin, "--settings", "{} {}"}, "--settings must be one JSON object"},
		{[]string{"run", plugin, "--settings", "@" + empty + "/none"}, "--settings"},
		{[]string{"run", plugin, "--name", "Ping"}, "cannot be the name"},
		{[]string{"run", plugin, "--grant", "fly"}, "plugins.grants"},
	} {
		code, _, errOut := author(t.Context(), c.args...)
		if code != exitUsage || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: got %d %s, want %d and %q", c.args, code, errOut, exitUsage, c.want)
		}
	}
}

// What an editor, a test or a build writes is not a change.
func TestTreeWatchCounts(t *testing.T) {
	dir := t.TempDir()
	w := &treeWatch{skip: filepath.Join(dir, "scratch")}
	for name, want := range map[string]bool{
		"main.go": true, "go.mod": true, "page.html": true, "main_test.go": false, ".main.go.swp": false, "main.go~": false,
		"4913": false, "#main.go#": false, "x.log": false, "gone.go": true, "rain": false, "run.sh": true,
	} {
		path := filepath.Join(dir, name)
		if name != "gone.go" {
			writeFile(t, path, "text")
		}
		if name == "rain" || name == "run.sh" {
			if err := os.Chmod(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.counts(fsnotify.Event{Name: path, Op: fsnotify.Write}); got != want {
			t.Errorf("%s: got %t, want %t", name, got, want)
		}
		if w.counts(fsnotify.Event{Name: path, Op: fsnotify.Chmod}) {
			t.Errorf("%s: a change of its mode counts", name)
		}
	}
}

// A new directory is watched, too, many changes at once are one, and what lies in
// the directories of others is none.
func TestTreeWatch(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{".git", "node_modules", "inner"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w, err := watchTree(source{dir: dir}, filepath.Join(dir, "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	changes := func(write ...string) {
		t.Helper()
		for _, name := range write {
			writeFile(t, filepath.Join(dir, name), time.Now().String())
		}
		select {
		case <-w.changed:
		case <-time.After(patience):
			t.Errorf("%v: not told", write)
		}
	}
	changes("main.go", "inner/page.html")
	if err := os.MkdirAll(filepath.Join(dir, "fresh", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	changes()
	changes("fresh/deep/x.go")
	for _, name := range []string{".git/index", "node_modules/x.js", "inner/x_test.go"} {
		writeFile(t, filepath.Join(dir, name), "text")
	}
	select {
	case <-w.changed:
		t.Error("told of what is no change")
	case <-time.After(3 * quietTime):
	}
}
