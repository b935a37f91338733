package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	// outputGrace is how long after the exit what a process printed is still read.
	outputGrace = 500 * time.Millisecond
	// maxSocketPath is the shortest limit that a system sets to the path of a Unix
	// socket, and socketName is longer than the names that go-plugin chooses.
	maxSocketPath = 103
	socketName    = "/plugin0123456789"
)

// handshakeLine is go-plugin's one line on standard output.
var handshakeLine = regexp.MustCompile(`^[0-9]{1,4}\|[0-9]{1,9}\|[a-z]{1,10}\|[^|]+\|[a-z]+(\||$)`)

// process is one child, started as a server starts it: go-plugin's view of it
// (runner.Runner) and ours. What it prints is read here, so that neither its flood nor
// a grandchild can hold go-plugin up.
type process struct {
	// Fixed after construction.
	home   string // the directory above its own
	dir    string // its runtime directory
	cmd    *exec.Cmd
	out    *transcript
	client *plugin.Client

	handshakeRead  *io.PipeReader
	handshakeWrite *io.PipeWriter
	exited         chan struct{} // closed when the child is gone and reaped, or never came
	done           chan struct{} // closed when its output has been read, too
	readers        sync.WaitGroup

	// Written before exited is closed.
	status string
	orphan bool // it left a process in its group

	mu        sync.Mutex
	pid       int // 0 before the start
	gone      bool
	forced    bool // go-plugin lost its patience
	lifeline  *os.File
	handshake string // the line, or empty
	early     int    // lines before it
}

// launch starts a process and takes it through the handshake to the client of its
// service. The process is there even if that failed, unless it could not be tried.
func (s *suite) launch(ctx context.Context) (*process, pluginpb.PluginClient, error) {
	p, err := s.newProcess()
	if err != nil {
		return nil, nil, err
	}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: pluginpb.Handshake(),
		Plugins:         pluginpb.ClientPlugins(),
		RunnerFunc: func(_ hclog.Logger, prepared *exec.Cmd, _ string) (runner.Runner, error) {
			p.cmd.Env = append(p.cmd.Env, s.environment(p, prepared.Env)...)
			return p, nil
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		GRPCDialOptions:  pluginpb.DialOptions(),
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     startLimit,
		Logger:           hclog.NewNullLogger(),
		SyncStdout:       &printer{p.out, "stdout"},
		SyncStderr:       &printer{p.out, "stderr"},
	})
	s.processes = append(s.processes, p)
	// go-plugin's calls carry no deadline. The death of the process ends them all.
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	protocol, err := p.client.Client()
	if err != nil {
		return p, nil, fmt.Errorf("connect: %w", err)
	}
	raw, err := protocol.Dispense(pluginpb.PluginName)
	if err != nil {
		return p, nil, fmt.Errorf("dispense: %w", err)
	}
	client, ok := raw.(pluginpb.PluginClient)
	if !ok {
		return p, nil, fmt.Errorf("dispense: got %T", raw)
	}
	return p, client, nil
}

// newProcess makes the directories of a process, and the command that starts it.
func (s *suite) newProcess() (*process, error) {
	s.started++
	p := &process{
		home: filepath.Join(s.root, strconv.Itoa(s.started)), status: "not started",
		out: &transcript{w: s.log}, exited: make(chan struct{}), done: make(chan struct{}),
	}
	p.dir = filepath.Join(p.home, "run")
	if n := len(p.dir) + len(socketName); n > maxSocketPath {
		return nil, fmt.Errorf("the path of a socket in %s has %d bytes, want at most %d; set TMPDIR to a shorter directory", p.dir, n, maxSocketPath)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	p.handshakeRead, p.handshakeWrite = io.Pipe()
	var err error
	if p.cmd, err = s.command(p.dir); err != nil {
		return nil, err
	}
	return p, nil
}

// command is what starts the executable, in a process group of its own.
func (s *suite) command(dir string) (*exec.Cmd, error) {
	cmd := &exec.Cmd{Path: s.o.Path, Args: []string{s.o.Name}}
	if s.o.Command != nil {
		var err error
		if cmd, err = s.o.Command(s.o.Path, dir); err != nil {
			return nil, fmt.Errorf("make the command that starts the plugin: %w", err)
		}
	}
	cmd.Dir = dir
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithUs(cmd.SysProcAttr)
	return cmd, nil
}

// environment is what a server gives a plugin: go-plugin's variables and an
// allow-list (docs/plugin.md §1).
func (s *suite) environment(p *process, prepared []string) []string {
	env := append(bareEnvironment(p.dir),
		plugin.EnvUnixSocketDir+"="+p.dir,
		pluginpb.EnvRuntimeDir+"="+p.dir,
		pluginpb.EnvLifelineFD+"="+strconv.Itoa(3+len(p.cmd.ExtraFiles)),
	)
	for _, v := range prepared {
		switch name, _, _ := strings.Cut(v, "="); name {
		case pluginpb.MagicCookieKey, "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT":
			env = append(env, v)
		}
	}
	return env
}

func bareEnvironment(dir string) []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TMPDIR=" + dir, "GOMAXPROCS=1"}
}

// printer is where go-plugin copies to what a Go plugin prints to os.Stdout.
type printer struct {
	out    *transcript
	stream string
}

func (w *printer) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w.out.print(w.stream, strings.TrimRight(line, "\r\n"))
	}
	return len(b), nil
}

// Start starts the child.
func (p *process) Start(context.Context) error {
	var opened []*os.File
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			opened = append(opened, r, w)
		}
		return r, w, err
	}
	stdout, childStdout, err1 := pipe()
	stderr, childStderr, err2 := pipe()
	childLifeline, lifeline, err3 := pipe()
	err := errors.Join(err1, err2, err3)
	if err == nil {
		p.cmd.Stdout, p.cmd.Stderr = childStdout, childStderr
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, childLifeline)
		started := make(chan error)
		go p.own(started, []*os.File{childStdout, childStderr, childLifeline}, stdout, stderr)
		err = <-started
	}
	if err != nil {
		for _, f := range opened {
			_ = f.Close() // the error that matters is the first
		}
		_ = p.handshakeWrite.Close() // never fails
		close(p.exited)
		close(p.done)
		return fmt.Errorf("start process: %w", err)
	}
	p.mu.Lock()
	p.lifeline = lifeline
	p.mu.Unlock()
	return nil
}

// own starts the child and stays with it until it is reaped, on one OS thread: the
// parent-death signal is sent when the thread that forked ends.
func (p *process) own(started chan<- error, child []*os.File, stdout, stderr *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	for _, f := range child {
		_ = f.Close() // the child has its own
	}
	p.mu.Lock()
	p.pid = p.cmd.Process.Pid
	p.mu.Unlock()
	p.readers.Go(func() { readLines(stdout, p.takeStdout) })
	p.readers.Go(func() { readLines(stderr, func(line string) { p.out.print("stderr", line) }) })
	started <- nil

	_ = p.cmd.Wait() // the exit status is read from ProcessState
	p.mu.Lock()
	p.gone = true
	p.status = p.cmd.ProcessState.String()
	p.orphan = syscall.Kill(-p.pid, 0) == nil
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // nobody left is no error
	p.mu.Unlock()
	p.cutLifeline()
	_ = p.handshakeWrite.Close() // never fails
	close(p.exited)

	end := time.Now().Add(outputGrace)
	_ = stdout.SetReadDeadline(end) // a pipe takes deadlines
	_ = stderr.SetReadDeadline(end)
	p.readers.Wait()
	_ = stdout.Close() // read to its end, or given up
	_ = stderr.Close()
	close(p.done)
}

func (p *process) takeStdout(line string) {
	p.mu.Lock()
	found := p.handshake != ""
	is := !found && handshakeLine.MatchString(line)
	switch {
	case is:
		p.handshake = line
	case !found:
		p.early++
	}
	p.mu.Unlock()
	if is {
		_, _ = p.handshakeWrite.Write([]byte(line + "\n")) // fails only when go-plugin has given up
		return
	}
	p.out.print("stdout", line)
}

// said is the handshake line, or empty, and how many lines came before it.
func (p *process) said() (line string, early int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handshake, p.early
}

// signal sends sig to the child alone.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && !p.gone {
		_ = syscall.Kill(p.pid, sig) // it may have exited just now
	}
}

// kill ends the child and its group at once. It does not wait.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && !p.gone {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}

// cutLifeline does to the child what the death of its server does.
func (p *process) cutLifeline() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lifeline != nil {
		_ = p.lifeline.Close() // the end of file is the point
		p.lifeline = nil
	}
}

// exits reports whether the child is gone within d.
func (p *process) exits(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

// stop ends the process as a server does, by go-plugin's Kill, and reports whether it
// went by itself. It returns when nothing of it is left, at the latest soon after d.
func (p *process) stop(d time.Duration) (byItself bool) {
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		p.client.Kill()
	}()
	byItself = p.exits(d)
	p.kill()
	<-killed
	if p.ID() != "" {
		<-p.done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return byItself && !p.forced
}

// discard ends the process by force and removes its directories.
func (p *process) discard() {
	p.kill()
	p.stop(0)
	_ = os.RemoveAll(p.home) // the suite's own directory goes at the end
}

// story says how the process ended, if it did.
func (p *process) story() string {
	if !p.exits(outputGrace) {
		return "the process goes on" + p.out.last()
	}
	<-p.done
	return "the process ended: " + p.status + p.out.last()
}

// Wait returns when the child has exited.
func (p *process) Wait(context.Context) error {
	<-p.exited
	return nil
}

// Kill is what go-plugin does when a plugin does not go by itself.
func (p *process) Kill(context.Context) error {
	p.mu.Lock()
	p.forced = !p.gone
	p.mu.Unlock()
	p.kill()
	return nil
}

// Stdout is the handshake line alone.
func (p *process) Stdout() io.ReadCloser { return p.handshakeRead }

// Stderr is empty: ours is the only reader of the real one.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is for go-plugin's log, which nobody reads.
func (p *process) Name() string { return p.cmd.Path }

// ID is the process id, empty before the start.
func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return ""
	}
	return strconv.Itoa(p.pid)
}

// Diagnose adds nothing.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost accepts only a socket in the directory that the plugin was given.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(address)) != p.dir {
		return "", "", fmt.Errorf("it listens on %s %q, want a unix socket in the directory that %s names", network, quote(address), pluginpb.EnvRuntimeDir)
	}
	return network, address, nil
}

// HostToPlugin changes nothing: both see the same file system.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

var _ runner.Runner = (*process)(nil)
