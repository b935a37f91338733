package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	// dumpGrace is how long a hung plugin has to write its goroutines to stderr.
	dumpGrace = 500 * time.Millisecond
	// breathGrace is how long a process may outlive its stream.
	breathGrace = 200 * time.Millisecond
	// drainedGrace is how long a plugin without calls has to close its stream, and
	// exitGrace how long it then has to exit.
	drainedGrace = time.Second
	exitGrace    = 2 * time.Second
)

// launch is everything that one start of a plugin needs. It does not change.
type launch struct {
	plugin        string
	binary        *binary // nil for one that is attached
	dir           string  // of this generation, not yet made
	how           sandbox.Command
	sandbox       sandbox.Support
	settings      []byte // one JSON object, or nil
	granted       []string
	version       string // the one it must be, or "" for any
	host          core.HostServices
	usage         *hostsvc.Usage
	maxConcurrent int
	timeout       time.Duration
	only          bool // up to the description: no session
	log           zerolog.Logger
	metrics       *metrics
}

// same reports whether another start would lead to what this one led to.
func (l *launch) same(other *launch) bool {
	return l.binary != nil && other.binary != nil && l.binary.SHA256 == other.binary.SHA256 &&
		bytes.Equal(l.settings, other.settings) && slices.Equal(l.granted, other.granted)
}

// refusal is the error of a start that would end in the same way each time.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// generation is one life of a plugin: a process, the connection to it, the session
// on that, and what it said of itself. It is immutable once started, used once, and
// closed by its supervisor.
type generation struct {
	launch      launch
	began       time.Time
	description *description
	grants      []string
	attached    bool
	session     *session
	places      *semaphore.Weighted
	offer       *offer // set by the supervisor before any call comes

	// open ends when no call may enter any more; shut ends it.
	open context.Context
	shut context.CancelFunc

	client  *plugin.Client   // nil for one that is attached
	conn    *grpc.ClientConn // nil for one that is not
	process *process         // never started for one that is attached
	pid     int
	out     *output

	killOnce sync.Once
	killed   chan struct{} // closed when go-plugin has cleaned up
}

func newGeneration(l launch) *generation {
	dropped := l.metrics.outputDropped.WithLabelValues(l.plugin)
	g := &generation{
		launch: l, began: time.Now(), killed: make(chan struct{}), places: semaphore.NewWeighted(int64(l.maxConcurrent)),
		out: &output{log: l.log, dropped: func(n int) { dropped.Add(float64(n)) }},
	}
	g.open, g.shut = context.WithCancel(context.Background())
	return g
}

// startGeneration starts the plugin's process and takes it through handshake,
// description and settings to its session. It returns when the plugin is ready, or
// with the reason why not and nothing left behind; at the latest soon after ctx has
// ended or l.timeout has passed.
func startGeneration(ctx context.Context, l launch) (*generation, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	g := newGeneration(l)
	g.process = newProcess(l.plugin, l.how, l.dir, g.out)
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	err := g.connect(ctx, l)
	if err == nil {
		g.pid = pidOf(g.process.ID())
		return g, nil
	}
	g.close(err)
	return nil, g.explain(ctx, l, err)
}

// connect is startGeneration without its cleaning up.
func (g *generation) connect(ctx context.Context, l launch) error {
	g.client = plugin.NewClient(g.config(l))
	// go-plugin's calls carry no deadline. The death of the process ends them all.
	stop := context.AfterFunc(ctx, g.process.kill)
	defer stop()
	protocol, err := g.client.Client()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	raw, err := protocol.Dispense(pluginpb.PluginName)
	if err != nil {
		return fmt.Errorf("dispense: %w", err)
	}
	client, ok := raw.(pluginpb.PluginClient)
	if !ok {
		return fmt.Errorf("dispense: got %T", raw)
	}
	return g.introduce(ctx, client, l)
}

// introduce asks who it is and opens the session.
func (g *generation) introduce(ctx context.Context, client pluginpb.PluginClient, l launch) error {
	said, err := client.Describe(ctx, &pluginpb.DescribeRequest{Server: core.ServerName})
	if err != nil {
		return fmt.Errorf("ask for the description: %w", err)
	}
	if g.description, err = describe(l.plugin, said); err != nil {
		return &refusal{err}
	}
	if l.version != "" && l.version != g.description.version {
		return &refusal{fmt.Errorf("plugins.trust is locked, and %s wants version %s, but it calls itself %s", lockfile.Name, l.version, g.description.version)}
	}
	if l.only {
		return nil
	}
	return g.converse(client, l)
}

// converse opens the session. Its stream outlives the start.
func (g *generation) converse(client pluginpb.PluginClient, l launch) error {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := client.Session(ctx)
	if err != nil {
		cancel()
		return fmt.Errorf("open session: %w", err)
	}
	g.grants = grantsFor(g.description.needs, l.granted)
	service := hostsvc.New(hostsvc.Options{
		Plugin: l.plugin, Grants: g.grants, Host: l.host, Usage: l.usage, Observe: slices.Contains(l.granted, grantObserve), Logger: l.log,
	})
	told := g.grants
	if slices.Contains(l.granted, grantObserve) {
		told = g.description.needs // what it was not told of, it would not ask for
	}
	if err := configure(s, l.settings, told); err != nil {
		cancel()
		return err
	}
	g.session = newSession(ctx, cancel, l.plugin, s, service, g.out, l.metrics, l.maxConcurrent)
	context.AfterFunc(ctx, g.shut)
	g.session.start()
	return nil
}

// configure hands over the settings and waits until the plugin is ready.
func configure(s stream, settings []byte, grants []string) error {
	if err := s.Send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{
		Configure: &pluginpb.Configure{Settings: settings, Grants: grants},
	}}); err != nil {
		return fmt.Errorf("send settings: %w", err)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return fmt.Errorf("wait for ready: %w", err)
		}
		switch m := m.GetMessage().(type) {
		case *pluginpb.PluginMessage_Ready:
			return nil
		case *pluginpb.PluginMessage_Failure:
			return &refusal{fmt.Errorf("settings refused: %s", clip(clean(m.Failure.GetMessage()), maxMessageText))}
		case *pluginpb.PluginMessage_Log:
			continue // a plugin may log while it starts
		}
		return &refusal{fmt.Errorf("the first message was %T, want Ready", m.GetMessage())}
	}
}

func (g *generation) config(l launch) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig: pluginpb.Handshake(),
		Plugins:         pluginpb.ClientPlugins(),
		RunnerFunc: func(_ hclog.Logger, prepared *exec.Cmd, _ string) (runner.Runner, error) {
			return g.process.prepare(prepared.Env), nil
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: l.dir},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		GRPCDialOptions:  pluginpb.DialOptions(),
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     l.timeout,
		Logger:           quietLogger(l.log),
		SyncStdout:       &writer{out: g.out, stream: streamStdout},
		SyncStderr:       &writer{out: g.out, stream: streamStderr},
	}
}

// quietLogger is what go-plugin says of itself. What matters of it is in the
// errors; the rest is for debugging.
func quietLogger(log zerolog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, DisableTime: true, Output: &debugWriter{log}})
}

type debugWriter struct{ log zerolog.Logger }

func (w *debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Str("text", clean(strings.TrimSpace(string(p)))).Msg("Plugin library")
	return len(p), nil
}

// ended is closed when the generation is of no more use: its stream is over, which
// the death of the process brings about, too.
func (g *generation) ended() <-chan struct{} { return g.session.ended }

// dump has a hung plugin write down what it is doing, which Go programs do on
// SIGQUIT, before it is killed. It returns when the process has exited or has had
// its time.
func (g *generation) dump() {
	g.out.startDump()
	g.process.signal(syscall.SIGQUIT)
	timer := time.NewTimer(dumpGrace)
	defer timer.Stop()
	select {
	case <-g.process.exited:
	case <-timer.C:
	}
}

// lastBreath lets a process whose stream is over exit by itself for a moment, so
// that its own exit status is what is told of it.
func (g *generation) lastBreath() {
	timer := time.NewTimer(breathGrace)
	defer timer.Stop()
	select {
	case <-g.process.exited:
	case <-timer.C:
	}
}

// drain lets the calls in flight come to their end and then tells the plugin that
// no other follows, which the slot has seen to before. It returns when the plugin
// has closed its stream, or with the reason why it did not before ctx ended.
func (g *generation) drain(ctx context.Context) error {
	if err := g.places.Acquire(ctx, int64(g.launch.maxConcurrent)); err != nil {
		return fmt.Errorf("wait for %d calls: %w", g.session.inFlight(), err)
	}
	g.session.drain()
	ctx, cancel := context.WithTimeout(ctx, drainedGrace)
	defer cancel()
	select {
	case <-g.session.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the plugin to close its stream: %w", ctx.Err())
	}
}

// stop asks the process to end and reports whether it did before ctx ended. Close
// must follow. One that is attached is not ours to end.
func (g *generation) stop(ctx context.Context) bool {
	if g.attached {
		return true
	}
	g.cleanUp()
	select {
	case <-g.process.exited:
		return true
	case <-ctx.Done():
		return false
	}
}

// cleanUp starts go-plugin's Kill, which has no deadline of its own and ends at the
// latest soon after the process.
func (g *generation) cleanUp() {
	g.killOnce.Do(func() {
		go func() {
			defer close(g.killed)
			if g.client != nil {
				g.client.Kill()
			}
			if g.conn != nil {
				_ = g.conn.Close() // the calls on it have ended
			}
		}()
	})
}

// close ends everything that belongs to the generation and waits for it: calls in
// flight fail with err, the process group is killed, its directory removed.
func (g *generation) close(err error) {
	g.shut()
	if g.session != nil {
		g.session.end(err)
	}
	g.process.end()
	g.cleanUp()
	<-g.killed
	if g.session != nil {
		g.session.wait()
	}
	if g.attached {
		return
	}
	if err := os.RemoveAll(g.launch.dir); err != nil {
		g.out.log.Warn().Err(err).Msg("Run directory of a plugin stays behind")
	}
}

// explain makes of a failed start what an operator can use. The process is gone.
func (g *generation) explain(ctx context.Context, l launch, err error) error {
	if _, ok := errors.AsType[*refusal](err); ok {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("start given up: %w", ctx.Err())
	}
	ran, found, skipped, first := g.process.handshook()
	if !ran {
		return err
	}
	var story []string
	switch late := ctx.Err() != nil; {
	case !found && late:
		story = append(story, fmt.Sprintf("no handshake within %v", l.timeout))
	case !found:
		story = append(story, "no handshake")
	case late:
		story = append(story, fmt.Sprintf("not ready within %v", l.timeout))
	default:
		story = append(story, err.Error())
	}
	if !found && skipped > 0 {
		story = append(story, fmt.Sprintf("it printed %d lines to stdout instead, first %q", skipped, first))
	}
	story = append(story, "process: "+g.process.status)
	if tail := g.out.last(); len(tail) > 0 {
		story = append(story, fmt.Sprintf("last of stderr: %q", tail[max(0, len(tail)-3):]))
	}
	return errors.New(strings.Join(story, "; "))
}

// obituary is the story of a generation that had been ready since then. It is over.
func (g *generation) obituary(how string, since time.Time) core.PluginCrash {
	calls, _ := g.session.cause()
	now := time.Now()
	return core.PluginCrash{
		At: now.UTC(), Version: g.description.version, How: how, Status: g.process.status, Uptime: now.Sub(since),
		Stderr: g.out.last(), Calls: calls, Dump: g.out.dumped(),
	}
}

// tell notes what an operator may know of the generation.
func (g *generation) tell(d *core.PluginDetail) {
	said := g.description
	d.Version, d.Summary, d.Homepage, d.License = said.version, said.summary, said.homepage, said.license
	d.Needs, d.Grants, d.Commands = said.needs, g.grants, said.commands
	d.PID, d.Attached = g.pid, g.attached
	d.File, d.SHA256 = "", ""
	d.Sandbox, d.SandboxMissing = g.launch.sandbox.Level, g.launch.sandbox.Missing
	if g.launch.binary != nil {
		d.SHA256 = g.launch.binary.SHA256
	}
}
