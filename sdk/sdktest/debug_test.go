package sdktest_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"

	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// debugged is a plugin that was started by hand for a server to attach.
type debugged struct {
	cmd     *exec.Cmd
	address string
	pid     int
	printed chan string // all it printed after that, once it has ended
}

// startDebug starts it and reads the line that a person would paste.
func startDebug(t *testing.T, path string, args ...string) *debugged {
	t.Helper()
	d := &debugged{cmd: exec.Command(path, append([]string{"debug"}, args...)...), printed: make(chan string, 1)}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.cmd.Process.Kill(); _ = d.cmd.Wait() })
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		f := strings.Fields(lines.Text())
		if len(f) == 8 && strings.Join(f[:4], " ") == "plugboard plugins debug "+filepath.Base(path) && f[4] == "--address" && f[6] == "--pid" {
			d.address = f[5]
			if d.pid, err = strconv.Atoi(f[7]); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if d.address == "" {
		t.Fatalf("got %q, want the line to paste", said)
	}
	go func() {
		var rest strings.Builder
		for lines.Scan() {
			rest.WriteString(lines.Text() + "\n")
		}
		d.printed <- rest.String()
	}()
	return d
}

// attach connects as a server does that did not start the process.
func (d *debugged) attach(t *testing.T) (pluginpb.PluginClient, plugin.ClientProtocol) {
	t.Helper()
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: pluginpb.Handshake(), Plugins: pluginpb.ClientPlugins(), Logger: hclog.NewNullLogger(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, GRPCDialOptions: pluginpb.DialOptions(),
		Reattach: &plugin.ReattachConfig{
			Protocol: plugin.ProtocolGRPC, ProtocolVersion: pluginpb.ProtocolVersion, Test: true,
			Addr: &net.UnixAddr{Net: "unix", Name: d.address}, Pid: d.pid,
		},
	})
	protocol, err := client.Client()
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	raw, err := protocol.Dispense(pluginpb.PluginName)
	if err != nil {
		t.Fatal(err)
	}
	return raw.(pluginpb.PluginClient), protocol
}

func TestDebugServesOneServerAfterAnother(t *testing.T) {
	d := startDebug(t, sdktest.Build(t, "testdata/noisy", "noisy"))
	if d.pid != d.cmd.Process.Pid {
		t.Errorf("got pid %d, want %d", d.pid, d.cmd.Process.Pid)
	}
	if info, err := os.Stat(filepath.Dir(d.address)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: got %v, %v, want mode 0700", info.Mode(), err)
	}
	for _, how := range []string{"drained", "cut off"} {
		t.Run(how, func(t *testing.T) {
			client, protocol := d.attach(t)
			t.Cleanup(func() { _ = protocol.Close() }) // the plugin is told to end, and does not
			in := sdktest.Open(t, client)
			if got, err := in.Call(t.Context(), "noisy", `{"text":"hi"}`); err != nil || string(got) != `{"text":"hi"}` {
				t.Errorf("got %s, %v", got, err)
			}
			if how == "drained" {
				if err := in.Stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
			}
		})
	}
	client, protocol := d.attach(t)
	in := sdktest.Open(t, client)
	if err := in.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case rest := <-d.printed:
		if strings.Contains(rest, "ERROR") {
			t.Errorf("it ended with %q, want no error", rest)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end within 10 s of SIGTERM")
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("got %v, want status 0", err)
	}
	_ = protocol.Close()
	if _, err := os.Stat(filepath.Dir(d.address)); !os.IsNotExist(err) {
		t.Errorf("the socket's directory: got %v, want it gone", err)
	}
}

func TestDebugRefusesWhatItCannotServe(t *testing.T) {
	path := sdktest.Build(t, "testdata/noisy", "noisy")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"debug", "now"}, 2, `"now"`},
		{[]string{"debug", "--port=1"}, 2, "port"},
		{[]string{"debug", "--settings=@/nowhere"}, 2, "read the settings"},
		{[]string{"debug", "--settings", `{"a":1}`}, 1, "takes none"},
	} {
		out, err := exec.Command(path, tt.args...).CombinedOutput()
		var code int
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		if code != tt.code || !strings.Contains(string(out), tt.want) {
			t.Errorf("%q: got status %d, %q, want %d and %q", tt.args, code, out, tt.code, tt.want)
		}
	}
}
