package server_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// testPlugins builds a directory with ping and a plugin that misbehaves when asked.
var testPlugins = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(plugins), "misbehaving")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "test"), "../pluginhost/testplugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test plugin: %w\n%s", err, out)
	}
	for _, name := range []string{"ping", "echo"} {
		data, err := os.ReadFile(filepath.Join(plugins, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o700)
		}
		if err != nil {
			return "", err
		}
	}
	return dir, nil
})

func newMisbehavingServer(t testing.TB, env ...string) *host {
	t.Helper()
	dir, err := testPlugins()
	if err != nil {
		t.Fatal(err)
	}
	return newServer(t, append([]string{"PLUGBOARD_PLUGINS__DIR=" + dir}, env...)...)
}

func TestCommandsThatStreamStopAndCrash(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t, "PLUGBOARD_PLUGINS__CALL_TIMEOUT=3s")
	alice := h.person("alice")
	a := alice.connect()

	a.send(&wire.Command{ID: "p", Command: "test.progress"})
	for i := range 3 {
		if p := want[*wire.Progress](a); p.ID != "p" || string(p.Data) != fmt.Sprintf(`{"part":%d}`, i) || p.Percent == nil || *p.Percent != float64(i*50) {
			t.Errorf("got %s, want part %d", p.Append(nil), i)
		}
	}
	for { // what else it sends is broken and may be dropped, never passed on as it is
		f := a.next()
		if r, ok := f.(*wire.Response); ok {
			if r.ID != "p" || string(r.Result) != `"done"` {
				t.Errorf("got %s", r.Append(nil))
			}
			break
		}
	}

	a.send(&wire.Command{ID: "c", Command: "test.hang"})
	a.send(&wire.Command{ID: "c", Command: "ping"})
	a.wantError("c", fault.IDConflict)
	a.send(&wire.Cancel{ID: "c"})
	a.wantError("c", fault.CommandCancelled)
	a.send(&wire.Cancel{ID: "c"}) // nothing to stop, no answer
	a.send(&wire.Command{ID: "c", Command: "ping"})
	if r := want[*wire.Response](a); r.ID != "c" {
		t.Errorf("got %s", r.Append(nil))
	}

	// Crash: everybody who waits for it is told at once; the next call finds it restarted.
	a.send(&wire.Command{ID: "w1", Command: "test.hang"})
	a.send(&wire.Command{ID: "w2", Command: "test.slow", Params: []byte(`{"ms":60000}`)})
	a.send(&wire.Command{ID: "x", Command: "ping"})
	want[*wire.Response](a)
	began := time.Now()
	a.send(&wire.Command{ID: "k", Command: "test.crash"})
	for range 3 {
		if e := want[*wire.ErrorFrame](a); e.Fault.Code != fault.PluginUnavailable {
			t.Errorf("got %s, want plugin_unavailable", e.Append(nil))
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to tell of the crash", took)
	}
	a.send(&wire.Command{ID: "after", Command: "test", Params: []byte(`{"a":1}`)}) // waits for the restart
	if r := want[*wire.Response](a); r.ID != "after" || string(r.Result) != `{"a":1}` {
		t.Errorf("got %s", r.Append(nil))
	}

	a.send(&wire.Command{ID: "t", Command: "test.hang"}) // nobody cancels: the limit does
	a.wantError("t", fault.CommandTimeout)
	for id, c := range map[string]struct {
		command, params string
		code            fault.Code
	}{
		"f1": {"test.fail", `{"code":"command_failed"}`, fault.CommandFailed},
		"f2": {"test.fail", `{"code":"made_up"}`, fault.Internal},
		"f3": {"test.nojson", ``, fault.Internal},
		"f4": {"test.big", `{"n":70000}`, fault.TooLarge},
	} {
		a.send(&wire.Command{ID: id, Command: c.command, Params: []byte(c.params)})
		e := want[*wire.ErrorFrame](a)
		if e.ID != id || e.Fault.Code != c.code {
			t.Errorf("%s: got %s, want %s", id, e.Append(nil), c.code)
		}
		if strings.Contains(e.Fault.Message, "\x1b") {
			t.Errorf("%s: control characters reach the client: %q", id, e.Fault.Message)
		}
	}
	a.send(&wire.Command{ID: "ip", Command: "ping", Params: []byte(`{"extra":1}`)})
	e := a.wantError("ip", fault.InvalidParams)
	var details []struct{ Pointer, Message string }
	if err := json.Unmarshal(e.Fault.Details, &details); err != nil || len(details) == 0 || details[0].Message == "" {
		t.Errorf("got details %s (%v), want pointers and messages", e.Fault.Details, err)
	}
	a.sendText(`{"type":"server","id":"null","command":"echo","params":null}`)
	if r := want[*wire.Response](a); string(r.Result) != "{}" {
		t.Errorf("params null: got %s, want {}", r.Append(nil))
	}
	a.send(&wire.Command{ID: "last", Command: "ping"})
	if r := want[*wire.Response](a); r.ID != "last" {
		t.Errorf("got %s: somebody was answered twice", r.Append(nil))
	}
}

func TestCommandsOverHTTP(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t)
	alice := h.person("alice")
	status, body := h.do("POST", "/commands/none", alice.token, `{}`)
	h.wantProblem(status, body, http.StatusNotFound, fault.UnknownCommand)
	status, body = h.do("POST", "/commands/ping", alice.token, `{"extra":1}`)
	h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidParams)
	var p struct {
		Details []struct{ Pointer, Message string }
	}
	if err := json.Unmarshal(body, &p); err != nil || len(p.Details) == 0 || p.Details[0].Message == "" {
		t.Errorf("got %s (%v), want details", body, err)
	}
	for _, bad := range []string{`[]`, `{`, `{"a":1,"a":2}`, `7`, "{\"a\":\"\xff\"}", `{} {}`} {
		status, body := h.do("POST", "/commands/echo", alice.token, bad)
		h.wantProblem(status, body, http.StatusBadRequest, fault.BadJSON)
	}
	status, body = h.do("POST", "/commands/Echo", alice.token, `{}`)
	h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest)
	length := func(s string) string { return fmt.Sprintf("Content-Length: %d", len(s)) }
	bearer := "Authorization: Bearer " + alice.token
	a := h.request("POST", "/commands/echo", h.name(), bearer, "Idempotency-Key: my-id", length(`{"a":1}`), "", `{"a":1}`)
	var r wire.CommandResult
	if err := wire.Unmarshal(a.body, &r); err != nil || a.status != http.StatusOK || r.ID != "my-id" || r.Command != "echo" || string(r.Result) != `{"a":1}` {
		t.Errorf("got %d %s (%v)", a.status, a.body, err)
	}
	a = h.request("POST", "/commands/echo", h.name(), bearer, "Idempotency-Key: not an id", "Content-Length: 0")
	h.wantRefused("an odd Idempotency-Key", a, http.StatusBadRequest, fault.InvalidRequest)

	stream := "Accept: text/event-stream"
	a = h.request("POST", "/commands/test.progress", h.name(), bearer, stream, "Idempotency-Key: s", "Content-Length: 0")
	text := string(a.body)
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") || strings.Count(text, "event: progress\n") < 3 ||
		strings.Count(text, "event: response\n") != 1 || !strings.Contains(text[strings.LastIndex(text, "event: "):], `"result":"done"`) {
		t.Errorf("got %d %s %q, want progress and then the response", a.status, a.header.Get("Content-Type"), text)
	}
	// What cannot stream answers as if nobody had asked for events.
	a = h.request("POST", "/commands/echo", h.name(), bearer, stream, length(`{"a":1}`), "", `{"a":1}`)
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s %s, want JSON", a.status, a.header.Get("Content-Type"), a.body)
	}
	h.wantRefused("an unknown command, as events", h.request("POST", "/commands/none", h.name(), bearer, stream, "Content-Length: 0"), http.StatusNotFound, fault.UnknownCommand)
}

// What the operator set for a command holds on every surface, and a signed id is
// spent once, also across a restart.
func TestAccessToCommands(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t, "PLUGBOARD_PLUGINS__ACCESS__ECHO__REQUIRE_SIGNATURE=true",
		"PLUGBOARD_PLUGINS__ACCESS__TEST__ROLES=admin")
	alice := h.person("alice")
	a := alice.connect()
	sign := func(hostName, id, timestamp, params string, sent string) *wire.Command {
		c := &wire.Command{ID: id, Command: "echo", Params: []byte(sent), Timestamp: timestamp}
		if sent == "" {
			c.Params = nil
		}
		var signed []byte
		if params != "" {
			signed = []byte(params)
		}
		c.Signature = wire.EncodeBase64(ed25519.Sign(alice.sign, e2ee.CommandTranscript(hostName, "alice", id, timestamp, "echo", signed)))
		return c
	}
	own := h.name()
	odd := `{ "b" : 1e2, "a":"\u003c&>" }`
	a.send(&wire.Command{ID: "u", Command: "echo"})
	a.wantError("u", fault.SignatureRequired)
	status, body := h.do("POST", "/commands/echo", alice.token, `{}`)
	h.wantProblem(status, body, http.StatusForbidden, fault.SignatureRequired)
	a.send(sign("other.example", "h", now(0), odd, odd))
	a.wantError("h", fault.InvalidSignature)
	a.send(sign(own, "h", now(0), odd, `{"b":100,"a":"<&>"}`))
	a.wantError("h", fault.InvalidSignature)
	a.send(sign(own, "h", now(-6*time.Minute), odd, odd))
	a.wantError("h", fault.StaleTimestamp)
	a.send(sign(own, "h", now(6*time.Minute), odd, odd))
	a.wantError("h", fault.StaleTimestamp)
	a.send(sign(own, "n", now(0), "", ""))
	want[*wire.Response](a)
	a.send(sign(own, "null", now(0), "null", "null"))
	want[*wire.Response](a)
	spent := sign(own, "s", now(0), odd, odd)
	a.send(spent)
	if r := want[*wire.Response](a); r.ID != "s" {
		t.Errorf("got %s", r.Append(nil))
	}
	a.send(spent)
	a.wantError("s", fault.IDConflict)
	alice.connect().send(spent)
	a.send(&wire.Command{ID: "r", Command: "test"})
	a.wantError("r", fault.UnknownCommand)
	a.send(&wire.Command{ID: "r2", Command: "test.slow"})
	a.wantError("r2", fault.UnknownCommand)
	status, body = h.do("POST", "/commands/test", alice.token, `{}`)
	h.wantProblem(status, body, http.StatusNotFound, fault.UnknownCommand)
	status, body = h.do("GET", "/commands", alice.token, nil)
	var list wire.CommandList
	if err := wire.Unmarshal(body, &list); err != nil || status != http.StatusOK {
		t.Fatalf("got %d %s", status, body)
	}
	got := ""
	for _, c := range list.Commands {
		got += fmt.Sprint(c.Name, " ", c.SignatureRequired, "; ")
	}
	if got != "echo true; ping false; " {
		t.Errorf("got %s, want echo, which wants a signature, and ping", got)
	}
	h.stop()
	h.env = append(h.env, "PLUGBOARD_PLUGINS__ACCESS__PING__ENABLED=false", "PLUGBOARD_SERVER__LISTEN="+own)
	h.start()
	a = alice.connect() // with the token of before
	a.send(spent)
	a.wantError("s", fault.IDConflict)
	a.send(&wire.Command{ID: "off", Command: "ping"})
	a.wantError("off", fault.UnknownCommand)
}

// memory is what this process, server and clients, holds after a collection.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
