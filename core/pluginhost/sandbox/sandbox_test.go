//go:build linux

package sandbox_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

// hostile is the program that tries what it must not.
var hostile string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	hostile = filepath.Join(dir, "hostile")
	build := exec.Command("go", "build", "-o", hostile, "./hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build hostile: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// scene is a server with secrets, as a plugin meets it.
type scene struct {
	t      *testing.T
	data   string // the server's data
	own    string // the plugin's run directory
	binary string
	env    []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	base, err := os.MkdirTemp("", "sb") //nolint:usetesting // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	s := &scene{t: t, data: filepath.Join(base, "data"), own: filepath.Join(base, "run", "own"), binary: filepath.Join(base, "bin")}
	raw, err := os.ReadFile(hostile)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(s.data, 0o700), os.MkdirAll(s.own, 0o700), os.MkdirAll(filepath.Join(base, "run", "neighbour"), 0o700),
		os.WriteFile(filepath.Join(base, "run", "neighbour", "file"), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(s.data, "secret.key"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(s.data, "victim"), []byte("x"), 0o600),
		os.WriteFile(s.binary, raw, 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	listen := func(network, address string) net.Listener {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	listen("unix", filepath.Join(s.data, "admin.sock"))
	abstract := "plugboard-test-" + filepath.Base(base)
	listen("unix", "@"+abstract)
	tcp := listen("tcp", "127.0.0.1:0")
	s.env = []string{
		"PATH=/usr/bin:/bin", "HOSTILE_DIR=" + s.data, "HOSTILE_OWN=" + s.own, "HOSTILE_BINARY=" + s.binary,
		"HOSTILE_TCP=" + tcp.Addr().String(), "HOSTILE_ABSTRACT=" + abstract,
	}
	return s
}

// run runs a command to its end and returns what it said.
func (s *scene) run(c sandbox.Command, env ...string) (string, error) {
	s.t.Helper()
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: c.Path, Args: c.Args, Env: append(append(s.env, c.Env...), env...), Dir: s.own, Stdout: &out, Stderr: &out,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	return out.String(), err
}

func (s *scene) confined(grants ...string) sandbox.Command {
	s.t.Helper()
	p, err := sandbox.PolicyFor(s.binary, s.own, grants)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := sandbox.Launch(p, "hostile")
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// acts are what the hostile program found, by act.
func acts(out string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(parts) == 3 {
			found[parts[0]] = parts[1]
		}
	}
	return found
}

func needFull(t *testing.T) {
	t.Helper()
	if s := sandbox.Detect(); s.Level != sandbox.Full {
		t.Skipf("*** SKIPPED: this kernel cannot confine a plugin in full, it lacks %v ***", s.Missing)
	}
}

func TestHostileActs(t *testing.T) {
	needFull(t)
	s := newScene(t)
	out, err := s.run(s.confined())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	confined := acts(out)
	s = newScene(t)
	out, err = s.run(sandbox.Plain(s.binary, "hostile"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	free := acts(out)
	possible := 0
	for act, got := range confined {
		want := "refused"
		if strings.HasPrefix(act, "+") {
			want = "possible"
		}
		if got != want {
			t.Errorf("%s: %s in the sandbox, want it %s", act, got, want)
		}
		if free[act] == "possible" && want == "refused" {
			possible++
		}
		if free[act] != "possible" {
			t.Logf("%s: %s without the sandbox, too", act, free[act])
		}
	}
	t.Logf("%d hostile acts, of which %d are possible without the sandbox", len(confined)-5, possible)
	if len(confined) < 40 || possible < 20 {
		t.Errorf("got %d acts and %d that the sandbox makes the difference for: this test proves too little", len(confined), possible)
	}
}

func TestGrants(t *testing.T) {
	needFull(t)
	s := newScene(t)
	for _, c := range []struct {
		grants []string
		act    string
	}{
		{[]string{"net"}, "connect over TCP"},
		{[]string{"net"}, "listen on TCP"},
		{[]string{"net"}, "send over UDP"},
		{[]string{"read:" + s.data}, "read the server's key"},
		{[]string{"read:" + filepath.Join(s.data, "secret.key")}, "read the server's key"},
		{[]string{"write:" + s.data, "kv"}, "write beside the server's data"},
	} {
		out, err := s.run(s.confined(c.grants...))
		if err != nil {
			t.Fatalf("%v: %v\n%s", c.grants, err, out)
		}
		got := acts(out)
		if got[c.act] != "possible" {
			t.Errorf("%v: %s is %s", c.grants, c.act, got[c.act])
		}
		for _, never := range []string{"MPTCP socket", "netlink socket", "packet socket", "open the server's memory", "signal the server", "capabilities"} {
			if got[never] != "refused" {
				t.Errorf("%v: %s is %s", c.grants, never, got[never])
			}
		}
	}
	for _, bad := range []string{"read:relative", "run:/bin", "exec:/a/../b"} {
		if _, err := sandbox.PolicyFor("/b", "/d", []string{bad}); err == nil {
			t.Errorf("grant %q was taken", bad)
		}
	}
}

func TestMemoryBombDiesAlone(t *testing.T) {
	if sandbox.Detect().Level == sandbox.None {
		t.Skip("*** SKIPPED: this system has no limits ***")
	}
	s := newScene(t)
	out, err := s.run(s.confined(), "HOSTILE_ACT=memory")
	if err == nil || !strings.Contains(out, "out of memory") {
		t.Errorf("got %v, %.200s, want it to die of its own limit", err, out)
	}
}

func TestInterpretersRun(t *testing.T) {
	needFull(t)
	s := newScene(t)
	out, err := s.run(s.confined(), "HOSTILE_ACT=interpreter")
	if err != nil || strings.TrimSpace(out) != "from the shell" {
		t.Errorf("a shell: got %v, %s", err, out)
	}
	script := "#!/usr/bin/env node\nconsole.log('from node', process.argv[0].length > 0)\n"
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("*** SKIPPED: there is no node here ***")
	}
	if err := os.WriteFile(s.binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err = s.run(s.confined())
	if err != nil || strings.TrimSpace(out) != "from node true" {
		t.Errorf("node: got %v, %s", err, out)
	}
}

func TestWhatCannotBeExecutedSaysWhy(t *testing.T) {
	needFull(t)
	s := newScene(t)
	interpreter := filepath.Join(s.data, "interpreter")
	if err := os.Link(s.binary, interpreter); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.binary); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.binary, []byte("#!"+interpreter+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := s.run(s.confined())
	if err == nil || !strings.Contains(out, "needs a grant such as exec:") {
		t.Errorf("got %v, %s, want it said what is to be granted", err, out)
	}
	if out, err = s.run(s.confined("exec:" + interpreter)); err != nil {
		t.Errorf("with the grant: %v, %s", err, out)
	}
}

func TestPlain(t *testing.T) {
	if c := sandbox.Plain("/x", "y"); c.Path != "/x" || len(c.Env) != 0 {
		t.Errorf("got %+v", c)
	}
}

// BenchmarkStart is the cost of the launcher: from fork to the end of a program that
// does nothing, with and without it.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	p, err := sandbox.PolicyFor("/bin/true", dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	confined, err := sandbox.Launch(p, "true")
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]sandbox.Command{"plain": sandbox.Plain("/bin/true", "true"), "confined": confined} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := (&exec.Cmd{Path: c.Path, Args: c.Args, Env: append(os.Environ(), c.Env...)}).Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
