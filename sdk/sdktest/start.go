package sdktest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// patience bounds every wait of this package that no caller's context bounds.
const patience = 10 * time.Second

// Option refines [Start] and [StartProcess].
type Option func(*options)

type options struct {
	settings any
	grants   []sdk.Capability
	limited  bool
	refused  bool
	err      *error
	stderr   io.Writer
}

func optionsOf(opts []Option) (o options) {
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Settings are the operator's settings, any value that JSON can hold. Without it
// they are empty.
func Settings(v any) Option { return func(o *options) { o.settings = v } }

// Grants are the capabilities the operator grants. Without it all that the plugin
// asks for.
func Grants(c ...sdk.Capability) Option {
	return func(o *options) { o.grants, o.limited = c, true }
}

// Refused expects the plugin to refuse its settings and stores the refusal, a
// [*fault.Error], in err. Calls on the instance then fail.
func Refused(err *error) Option { return func(o *options) { o.refused, o.err = true, err } }

// Stderr writes what a process prints to standard error to w as well, which is used
// by one goroutine at a time. All of it is there when the test that started the
// process has ended. It means nothing to [Start].
func Stderr(w io.Writer) Option { return func(o *options) { o.stderr = w } }

// Start runs a plugin inside the test. It fails the test when the plugin describes
// itself wrongly or refuses its settings. At the end of the test it drains the
// plugin, and fails the test if a handler is still running ten seconds later.
//
// Inside a bubble of testing/synctest everything it starts belongs to the bubble, so
// that the test commands the time that the plugin and the [Host] see.
func Start(t testing.TB, p sdk.Plugin, opts ...Option) *Instance {
	t.Helper()
	service, err := sdk.NewServer(p)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(pluginpb.ServerOptions()...)
	pluginpb.RegisterPluginServer(server, service)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve the plugin: %v", err)
		}
		service.Wait()
	})
	conn, err := grpc.NewClient("passthrough:///plugin", append(pluginpb.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
	)...)
	if err != nil {
		t.Fatalf("connect to the plugin: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // fails only when closed already
	return open(t, pluginpb.NewPluginClient(conn), optionsOf(opts))
}

// Build builds the Go main package in dir, relative to the test, into a directory of
// the test and returns the executable, named name.
func Build(t testing.TB, dir, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, ".")
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, text)
	}
	return out
}

// StartProcess starts an executable as a server would. Its standard error goes to
// the test's log.
func StartProcess(t testing.TB, path string, opts ...Option) *Instance {
	t.Helper()
	o := optionsOf(opts)
	dir, err := os.MkdirTemp("", "pb") //nolint:usetesting // short: it holds the path of a Unix socket
	if err != nil {
		t.Fatalf("make the runtime directory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover of a test hurts nobody
	lifeline, held, err := os.Pipe()
	if err != nil {
		t.Fatalf("make the lifeline: %v", err)
	}
	t.Cleanup(func() { _ = held.Close() })
	cmd := exec.Command(path) //nolint:noctx // stopProcess ends it
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir,
		plugin.EnvUnixSocketDir + "=" + dir,
		pluginpb.EnvRuntimeDir + "=" + dir,
		pluginpb.EnvLifelineFD + "=" + strconv.Itoa(3),
	}
	cmd.ExtraFiles = []*os.File{lifeline}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output := &testLog{t: t}
	var stderr io.Writer = output
	if o.stderr != nil {
		stderr = io.MultiWriter(output, o.stderr)
	}
	t.Cleanup(output.close)
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  pluginpb.Handshake(),
		Plugins:          pluginpb.ClientPlugins(),
		Cmd:              cmd,
		SkipHostEnv:      true,
		AutoMTLS:         true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     patience,
		Stderr:           stderr, SyncStdout: output, SyncStderr: output,
		Logger:          hclog.NewNullLogger(),
		GRPCDialOptions: pluginpb.DialOptions(),
	})
	t.Cleanup(func() { stopProcess(t, client, cmd) })
	protocol, err := client.Client()
	_ = lifeline.Close() // the child has its own copy
	if err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	raw, err := protocol.Dispense(pluginpb.PluginName)
	if err != nil {
		t.Fatalf("dispense the plugin: %v", err)
	}
	in := open(t, raw.(pluginpb.PluginClient), o)
	in.Process = cmd.Process
	in.lifeline = held
	return in
}

// stopProcess ends what is left of the process, by force after some patience: none
// of go-plugin's own calls has a deadline.
func stopProcess(t testing.TB, client *plugin.Client, cmd *exec.Cmd) {
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		client.Kill()
	}()
	select {
	case <-killed:
	case <-time.After(patience):
		t.Errorf("the plugin did not stop within %s", patience)
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
		}
		<-killed
	}
}

// encodeOptions writes a duration as package sdk reads it.
var encodeOptions = json.WithMarshalers(json.MarshalToFunc(func(e *jsontext.Encoder, d time.Duration) error {
	return e.WriteToken(jsontext.String(d.String()))
}))

// encode is any value as JSON; raw JSON stays as it is.
func encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return []byte("{}"), nil
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	}
	return json.Marshal(v, encodeOptions)
}

// testLog writes a process's output into the test's log, until the test ends.
type testLog struct {
	t testing.TB

	mu   sync.Mutex
	over bool
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Logf("plugin: %s", p)
	}
	return len(p), nil
}

func (l *testLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}
