package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	// lifelineFD is the child's number of the first inherited file.
	lifelineFD = 3
	// outputGrace is how long after the exit what a plugin printed is still read. A
	// process that fled its group may hold the pipes open for ever.
	outputGrace = 500 * time.Millisecond
)

// process is one child process: go-plugin's view of it (runner.Runner) and ours.
// go-plugin only ever sees the handshake line; the child's real output is read
// here, so that neither its flood nor a grandchild that keeps a pipe open can hold
// go-plugin up.
type process struct {
	// Fixed after construction.
	plugin string
	dir    string
	cmd    *exec.Cmd
	out    *output
	// launcher is what the sandbox's launcher needs in its environment; the plugin
	// does not see it.
	launcher []string

	handshakeRead  *io.PipeReader
	handshakeWrite *io.PipeWriter

	exited  chan struct{} // closed when the child is gone and reaped
	done    chan struct{} // closed when its output has been read, too
	readers sync.WaitGroup

	// Written before exited is closed.
	status string

	mu       sync.Mutex
	begun    bool // Start was called, or never will be
	doomed   bool // killed, perhaps before it had a pid
	pid      int  // 0 before the start
	reaped   bool // the pid may belong to somebody else
	lifeline *os.File
	filter   handshakeFilter
}

// newProcess makes a process that go-plugin may start once, after prepare.
func newProcess(plugin string, how sandbox.Command, dir string, out *output) *process {
	p := &process{plugin: plugin, dir: dir, out: out, status: "not started", exited: make(chan struct{}), done: make(chan struct{})}
	p.handshakeRead, p.handshakeWrite = io.Pipe()
	p.cmd = &exec.Cmd{Path: how.Path, Args: how.Args, Dir: dir, SysProcAttr: childAttributes()}
	p.launcher = how.Env
	return p
}

// prepare takes the environment that go-plugin wants the child to have.
func (p *process) prepare(env []string) *process {
	p.cmd.Env = append(environment(env, p.dir), p.launcher...)
	return p
}

// environment is the whole of what a plugin gets: go-plugin's variables and an
// allow-list, nothing of the server's own (docs/plugin.md §1).
//
// GOMAXPROCS=1 makes a Go plugin's scheduler cheaper: 22–29 % more calls with the
// core count of a small server. It is a default for the many plugins that wait
// rather than compute; runtime.GOMAXPROCS in the plugin's main overrides it.
func environment(prepared []string, dir string) []string {
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LANG=C.UTF-8",
		"TMPDIR=" + dir,
		"GOMAXPROCS=1",
		"PLUGIN_UNIX_SOCKET_DIR=" + dir,
		pluginpb.EnvRuntimeDir + "=" + dir,
		pluginpb.EnvLifelineFD + "=" + strconv.Itoa(lifelineFD),
	}
	for _, v := range prepared {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case pluginpb.MagicCookieKey, "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT":
			env = append(env, v)
		}
	}
	return env
}

// Start starts the child. Its goroutines end soon after it does.
func (p *process) Start(context.Context) error {
	if !p.begin() {
		return errors.New("start process: it was given up")
	}
	var opened []*os.File
	fail := func(err error) error {
		for _, f := range opened {
			_ = f.Close() // the error that matters is the first
		}
		p.finish()
		return err
	}
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			opened = append(opened, r, w)
		}
		return r, w, err
	}
	stdout, childStdout, err1 := pipe()
	stderr, childStderr, err2 := pipe()
	childLifeline, lifeline, err3 := pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		return fail(fmt.Errorf("make pipes: %w", err))
	}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = childStdout, childStderr, []*os.File{childLifeline}
	started := make(chan error)
	go p.own(started, []*os.File{childStdout, childStderr, childLifeline}, stdout, stderr)
	if err := <-started; err != nil {
		return fail(fmt.Errorf("start process: %w", err))
	}
	p.mu.Lock()
	p.lifeline = lifeline
	p.mu.Unlock()
	return nil
}

// begin reports whether the process may be started: once, and not when it was
// given up before.
func (p *process) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun {
		return false
	}
	p.begun = true
	return true
}

// finish marks a process without a child as over.
func (p *process) finish() {
	_ = p.handshakeWrite.Close() // never fails
	close(p.exited)
	close(p.done)
}

// end kills the process, or sees to it that it is never started, and returns when
// nothing of it is left.
func (p *process) end() {
	if p.begin() {
		p.finish()
	}
	p.kill()
	<-p.done
}

// own starts the child and stays with it until it is reaped, on one OS thread: the
// parent-death signal is sent when the thread that forked ends, and Go ends
// threads as it likes.
func (p *process) own(started chan<- error, child []*os.File, stdout, stderr *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	pid := p.cmd.Process.Pid
	for _, f := range child {
		_ = f.Close() // the child has its own; a failure to close costs a descriptor
	}
	p.mu.Lock()
	p.pid = pid
	if p.doomed {
		_ = syscall.Kill(-pid, syscall.SIGKILL) // it may have exited just now
	}
	p.mu.Unlock()
	p.readers.Go(func() { readLines(stdout, p.takeStdout) })
	p.readers.Go(func() { readLines(stderr, func(line []byte) { p.out.print(streamStderr, line) }) })
	started <- nil

	p.reap(pid)
	p.mu.Lock()
	p.status = p.cmd.ProcessState.String()
	lifeline := p.lifeline
	p.lifeline = nil
	p.mu.Unlock()
	if lifeline != nil {
		_ = lifeline.Close() // nobody reads it any more
	}
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

// takeStdout passes the handshake on to go-plugin and logs everything else. What
// came before the handshake is logged as one line.
func (p *process) takeStdout(line []byte) {
	p.mu.Lock()
	before := !p.filter.found
	handshake := p.filter.take(string(line))
	skipped, first := p.filter.skipped, p.filter.first
	p.mu.Unlock()
	switch {
	case handshake:
		if skipped > 0 {
			p.out.log.Warn().Int("lines", skipped).Strs("first", first).Msg("Plugin printed to stdout before its handshake, skipped")
		}
		_, _ = p.handshakeWrite.Write(append(line, '\n')) // fails only when go-plugin has given up
	case !before:
		p.out.print(streamStdout, line)
	}
}

// handshook reports whether the child ran, whether it gave its handshake, and how
// much it printed in its place.
func (p *process) handshook() (ran, found bool, skipped int, first []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid != 0, p.filter.found, p.filter.skipped, p.filter.first
}

// signal sends sig to the child alone, or does nothing once it is gone.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && !p.reaped {
		_ = syscall.Kill(p.pid, sig) // it may have exited just now
	}
}

// kill ends the child and its group at once. It does not wait.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doomed = true
	if p.pid != 0 && !p.reaped {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may have exited just now
	}
}

// Wait returns when the child has exited.
func (p *process) Wait(context.Context) error {
	<-p.exited
	return nil
}

// Kill is kill, for go-plugin.
func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

// Stdout is the handshake line alone.
func (p *process) Stdout() io.ReadCloser { return p.handshakeRead }

// Stderr is empty: ours is the only reader of the real one.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is the plugin's.
func (p *process) Name() string { return p.plugin }

// ID is the process id, empty before the start.
func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return ""
	}
	return strconv.Itoa(p.pid)
}

// Diagnose adds nothing: the generation tells the story of a failed start.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost accepts only a socket in the directory that the plugin was given.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(address)) != p.dir {
		return "", "", fmt.Errorf("plugin listens on %s %q, want a unix socket in the directory that %s names", network, clip(clean(address), 200), pluginpb.EnvRuntimeDir)
	}
	return network, address, nil
}

// HostToPlugin changes nothing: both see the same file system.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

var _ runner.Runner = (*process)(nil)
