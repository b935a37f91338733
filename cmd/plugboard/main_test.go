package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// envRunMain makes the test binary be plugboard itself, for tests that need a
// process of their own. The name must not begin with PLUGBOARD_.
const envRunMain = "TEST_RUN_PLUGBOARD"

// envPlugins tells tests where TestMain built the plugins.
const envPlugins = "TEST_PLUGINS"

func TestMain(m *testing.M) {
	if os.Getenv(envRunMain) != "" {
		os.Exit(run())
	}
	testscript.Main(withPlugins{m}, map[string]func(){"plugboard": func() { os.Exit(run()) }})
}

// withPlugins builds the five plugins around a run of the tests.
type withPlugins struct{ *testing.M }

func (m withPlugins) Run() int {
	dir, err := os.MkdirTemp("", "plugboard-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	plugins := filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.Command("go", "build", "-o", plugins, "../../plugins/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build plugins: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(envPlugins, plugins); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.M.Run()
}

// freePort is a port that nobody listened on a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// TestScript runs the whole-system scenarios in testdata/script: real processes,
// real sockets, real plugins.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			port, err := freePort()
			if err != nil {
				return err
			}
			address := "127.0.0.1:" + strconv.Itoa(port)
			for name, value := range map[string]string{
				"GORACE": "atexit_sleep_ms=0", "HOME": env.WorkDir + "/home", "ADDRESS": address, "PLUGINS": os.Getenv(envPlugins),
				"PLUGBOARD_SERVER": "http://" + address, "PLUGBOARD_SERVER__LISTEN": address,
				"PLUGBOARD_SERVER__ADMIN_LISTEN": "", "PLUGBOARD_PLUGINS__DIR": os.Getenv(envPlugins),
			} {
				env.Setenv(name, value)
			}
			return os.Mkdir(env.WorkDir+"/home", 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":     cmdReady,
			"connected": cmdConnected,
			"http":      cmdHTTP,
			"noplugins": cmdNoPlugins,
			"terminate": cmdTerminate,
		},
	})
}

const patience = 20 * time.Second

// cmdReady waits until the server and its plugins are ready.
func cmdReady(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("unsupported: ! ready")
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + ts.Getenv("ADDRESS") + "/readyz")
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return
		}
	}
	ts.Fatalf("the server was not ready in time")
}

// cmdConnected waits until a user is connected: connected USER. It asks as the
// script's PLUGBOARD_USER.
func cmdConnected(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: connected USER")
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec("plugboard", "users", "--json"))
		if strings.Contains(ts.ReadFile("stdout"), `"user_id":"`+args[0]+`"`) {
			return
		}
	}
	ts.Fatalf("%s was not connected in time", args[0])
}

// cmdHTTP sends a request and compares its status: http STATUS METHOD PATH [BODY].
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD PATH [BODY]")
	}
	req, err := http.NewRequest(args[1], "http://"+ts.Getenv("ADDRESS")+args[2], strings.NewReader(strings.Join(args[3:], " ")))
	ts.Check(err)
	res, err := http.DefaultClient.Do(req)
	ts.Check(err)
	_ = res.Body.Close()
	if got := strconv.Itoa(res.StatusCode); got != args[0] {
		ts.Fatalf("got status %s, want %s", got, args[0])
	}
}

// cmdTerminate sends SIGTERM, which the built-in kill does not know, to what runs
// in the background.
func cmdTerminate(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("unsupported: ! terminate")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

// cmdNoPlugins waits until no plugin process of this script's server is left.
func cmdNoPlugins(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("unsupported: ! noplugins")
	}
	if left := pluginsLeft(ts.Getenv("WORK") + "/data"); len(left) > 0 {
		ts.Fatalf("plugin processes left: %v", left)
	}
}

// pluginsLeft waits until no plugin of the server with this data directory runs
// any more, and returns those that do all the same. Plugins are known by the
// runtime directory in their environment.
func pluginsLeft(dataDir string) []string {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = pluginsOf(dataDir); len(left) == 0 {
			return nil
		}
	}
	return left
}

func pluginsOf(dataDir string) []string {
	sum := sha256.Sum256([]byte(dataDir))
	inData := pluginpb.EnvRuntimeDir + "=" + dataDir + "/"
	inTemp := pluginpb.EnvRuntimeDir + "=" + filepath.Join(os.TempDir(), "plugboard-"+hex.EncodeToString(sum[:6])) + "/"
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is good
	for _, environ := range all {
		data, err := os.ReadFile(environ)
		if err != nil {
			continue // it has ended meanwhile
		}
		if bytes.Contains(data, []byte(inData)) || bytes.Contains(data, []byte(inTemp)) {
			found = append(found, filepath.Dir(environ))
		}
	}
	return found
}
