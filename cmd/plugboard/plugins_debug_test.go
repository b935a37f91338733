package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/admin"
)

// shortTemp is a directory for sockets, whose paths are bounded.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pb") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// operate takes operators' orders for these plugins and returns the data directory
// that finds them.
func operate(t *testing.T, plugins core.PluginOperator) (dataDir string) {
	t.Helper()
	dataDir = shortTemp(t)
	o := admin.NewOperator(admin.OperatorOptions{DataDir: dataDir, Plugins: plugins, Logger: zerolog.Nop()})
	if err := o.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return dataDir
}

// scratch is a scratch server whose plugins directory is empty.
func scratch(t *testing.T) *scratchServer {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	l := &editLoop{o: runOptions{listen: "127.0.0.1:0"}, dir: shortTemp(t), console: &console{out: new(bytes.Buffer), errOut: new(bytes.Buffer)}}
	if err := os.Mkdir(l.pluginsDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := startScratch(t.Context(), l, &artifact{name: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// debugged starts a plugin as a debugger would, and returns the command line that it
// prints.
func debugged(t *testing.T, name string) (plugin *exec.Cmd, line []string) {
	t.Helper()
	t.Setenv("TMPDIR", shortTemp(t))
	plugin = exec.Command(filepath.Join(os.Getenv(envPlugins), name), "debug")
	printed, err := plugin.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = plugin.Process.Signal(syscall.SIGTERM)
		_ = plugin.Wait()
	})
	wanted := regexp.MustCompile(`plugboard plugins (debug .*)`)
	for lines := bufio.NewScanner(printed); lines.Scan(); {
		if found := wanted.FindStringSubmatch(lines.Text()); found != nil {
			return plugin, strings.Fields(found[1])
		}
	}
	t.Fatal("the plugin prints no command line")
	return nil, nil
}

// background runs an author's command until cancel, or its end.
func background(t *testing.T, args ...string) (said func() string, cancel func(), code chan int) {
	t.Helper()
	var mu sync.Mutex
	var text bytes.Buffer
	root := &cobra.Command{Use: "plugins", SilenceErrors: true, SilenceUsage: true}
	addAuthorCommands(root)
	root.SetArgs(args)
	root.SetOut(lockedWriter{&mu, &text})
	root.SetErr(lockedWriter{&mu, &text})
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	code = make(chan int, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		if err != nil {
			report(lockedWriter{&mu, &text}, err)
		}
		if err == nil {
			code <- exitOK
		} else {
			code <- exitCode(err)
		}
	}()
	return func() string { mu.Lock(); defer mu.Unlock(); return text.String() }, stop, code
}

// The command line that the plugin prints attaches it; Ctrl-C detaches it, and so
// does its end.
func TestPluginsDebug(t *testing.T) {
	s := scratch(t)
	dataDir := operate(t, s.plugins)
	plugin, line := debugged(t, "echo")
	for round, end := range []string{"Ctrl-C", "the plugin's end"} {
		said, cancel, code := background(t, append(line, "--data_dir", dataDir)...)
		for deadline := time.Now().Add(patience); !strings.Contains(said(), "echo is attached"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not attached in time: %q", end, said())
			}
		}
		got, err := s.client.Call(t.Context(), "echo", map[string]int{"n": round})
		if want := `{"n":` + string(rune('0'+round)) + `}`; err != nil || string(got) != want {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
		want := "echo is detached"
		if round == 0 {
			cancel()
		} else {
			want = "echo has ended"
			if err := plugin.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case code := <-code:
			if code != exitOK || !strings.Contains(said(), want) {
				t.Errorf("%s: got %d %s, want %q", end, code, said(), want)
			}
		case <-time.After(patience):
			t.Fatalf("%s does not end it: %s", end, said())
		}
		if _, err := s.client.Call(t.Context(), "echo", nil); err == nil {
			t.Errorf("after %s echo still answers", end)
		}
		// Without a file the plugin's place goes, too, a moment later.
		wait(t, func() bool { _, err := s.plugins.Plugin("echo"); return errors.Is(err, core.ErrNoPlugin) })
	}
}

func TestPluginsDebugRefuses(t *testing.T) {
	dir := shortTemp(t)
	socket := filepath.Join(dir, "plugin1")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, exitUsage, "takes one argument"},
		{[]string{"rain"}, exitUsage, "dlv debug . -- debug"},
		{[]string{"Rain", "--address", socket}, exitUsage, "cannot be the name"},
		{[]string{"rain", "--address", socket, "--network", "tcp"}, exitUsage, "--network must be unix"},
		{[]string{"rain", "--address", filepath.Join(dir, "none")}, exitUsage, "no plugin listens on"},
		{[]string{"rain", "--address", socket, "--pid", "2147483646"}, exitUsage, "no plugin listens on"},
		{[]string{"rain", "--address", socket, "--data_dir", dir}, exitUnreachable, "no server runs over this data directory"},
		{[]string{"rain", "--address", socket, "--config", filepath.Join(dir, "none.yaml")}, exitUsage, "none.yaml"},
	} {
		code, _, errOut := author(t.Context(), append([]string{"debug"}, c.args...)...)
		if code != c.code || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: got %d %s, want %d and %q", c.args, code, errOut, c.code, c.want)
		}
	}
	// The server refuses: it is another plugin.
	s := scratch(t)
	plugin, line := debugged(t, "echo")
	line[1] = "ping"
	code, _, errOut := author(t.Context(), append(line, "--data_dir", operate(t, s.plugins))...)
	if code != exitFailed || !strings.Contains(errOut, `it calls itself "echo"`) {
		t.Errorf("got %d %s, want the server's reason (process %d)", code, errOut, plugin.Process.Pid)
	}
}
