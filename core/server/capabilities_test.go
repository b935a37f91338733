package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	goclient "github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// notePlugins builds a directory with one plugin under two names.
var notePlugins = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(plugins), "capabilities")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"notes", "memos"} {
		build := exec.Command("go", "build", "-ldflags", "-X main.name="+name, "-o", filepath.Join(dir, name), "./testdata/notes")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

// newNotesServer runs both plugins with all that they ask for.
func newNotesServer(t testing.TB, env ...string) *host {
	t.Helper()
	dir, err := notePlugins()
	if err != nil {
		t.Fatal(err)
	}
	return newServer(t, append([]string{
		"PLUGBOARD_PLUGINS__DIR=" + dir, "PLUGBOARD_PLUGINS__GRANTS__NOTES=kv, send, broadcast", "PLUGBOARD_PLUGINS__GRANTS__MEMOS=kv, send",
	}, env...)...)
}

// noteParams tells the plugin what to ask for.
type noteParams struct {
	Op         string  `json:"op"`
	Key        string  `json:"key,omitempty"`
	Text       string  `json:"text,omitempty"`
	Repeat     int     `json:"repeat,omitempty"`
	User       string  `json:"user,omitempty"`
	IfRevision *uint64 `json:"if_revision,omitempty"`
	TTL        int     `json:"ttl,omitempty"`
	Times      int     `json:"times,omitempty"`
}

// noteResult is what the server answered the plugin.
type noteResult struct {
	Code       string   `json:"code"`
	Message    string   `json:"message"`
	RetryAfter int64    `json:"retry_after"`
	Done       int      `json:"done"`
	Revision   uint64   `json:"revision"`
	Value      string   `json:"value"`
	Keys       []string `json:"keys"`
	PID        int      `json:"pid"`
}

// ask has a plugin ask the server something.
func (p *person) ask(plugin string, params noteParams) noteResult {
	p.t.Helper()
	body, err := json.Marshal(params)
	if err != nil {
		p.t.Fatal(err)
	}
	status, answer := p.h.do(http.MethodPost, "/commands/"+plugin, p.token, body)
	var out struct {
		Result noteResult `json:"result"`
	}
	if err := json.Unmarshal(answer, &out); err != nil || status != http.StatusOK {
		p.t.Fatalf("%s of %+v: got %d %s (%v)", plugin, params, status, answer, err)
	}
	return out.Result
}

// wantCode has a plugin ask for something that the server answers with a code.
func (p *person) wantCode(plugin string, params noteParams, code string) noteResult {
	p.t.Helper()
	r := p.ask(plugin, params)
	if r.Code != code {
		p.t.Fatalf("%s of %s %q: got %q %s, want %q", plugin, params.Op, params.Key, r.Code, r.Message, code)
	}
	return r
}

func (p *person) wantNote(plugin, key, value string) uint64 {
	p.t.Helper()
	r := p.wantCode(plugin, noteParams{Op: "get", Key: key}, "")
	if r.Value != value || r.Revision == 0 {
		p.t.Fatalf("%s %q: got %q under revision %d, want %q", plugin, key, r.Value, r.Revision, value)
	}
	return r.Revision
}

// kill ends a plugin's process the hard way, and waits for the next one.
func (p *person) kill(plugin string) {
	p.t.Helper()
	pid := p.wantCode(plugin, noteParams{Op: "pid"}, "").PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(waitLimit); ; {
		status, answer := p.h.do(http.MethodPost, "/commands/"+plugin, p.token, `{"op":"pid"}`)
		if status == http.StatusOK && !strings.Contains(string(answer), fmt.Sprintf(`"pid":%d`, pid)) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s after it was killed: got %d %s", plugin, status, answer)
		}
	}
}

func TestWhatPluginsKeep(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice := h.person("alice")
	put := func(plugin, key, text string) uint64 {
		t.Helper()
		return alice.wantCode(plugin, noteParams{Op: "put", Key: key, Text: text}, "").Revision
	}
	alice.wantCode("notes", noteParams{Op: "get", Key: "a"}, "not_found")
	first := put("notes", "a", "one")
	put("memos", "a", "of another plugin")
	alice.wantNote("notes", "a", "one")
	second := alice.wantCode("notes", noteParams{Op: "put", Key: "a", Text: "two", IfRevision: &first}, "").Revision
	if second <= first {
		t.Errorf("revision of the second write: got %d after %d", second, first)
	}
	zero := uint64(0)
	for _, stale := range []*uint64{&first, &zero} {
		alice.wantCode("notes", noteParams{Op: "put", Key: "a", Text: "x", IfRevision: stale}, "revision_conflict")
	}
	alice.wantCode("notes", noteParams{Op: "delete", Key: "a", IfRevision: &first}, "revision_conflict")
	for i := range 3 {
		put("notes", fmt.Sprintf("list/%d", i), "x")
	}
	put("notes", "lisu", "x")
	if got := alice.wantCode("notes", noteParams{Op: "list", Key: "list/"}, "").Keys; cmp.Diff([]string{"list/0", "list/1", "list/2"}, got) != "" {
		t.Errorf("list: got %q", got)
	}
	if got := alice.wantCode("memos", noteParams{Op: "list"}, "").Keys; cmp.Diff([]string{"a"}, got) != "" {
		t.Errorf("list of the other plugin: got %q, want its own key alone", got)
	}

	alice.wantCode("notes", noteParams{Op: "put", Key: "short", Text: "x", TTL: 1}, "")
	alice.wantCode("notes", noteParams{Op: "put", Key: "long", Text: "stays a while", TTL: 3_600_000}, "")
	for deadline := time.Now().Add(waitLimit); alice.ask("notes", noteParams{Op: "get", Key: "short"}).Code != "not_found"; {
		if time.Now().After(deadline) {
			t.Fatal("entry with a TTL of 1 ms: got it still")
		}
	}

	alice.kill("notes")
	alice.wantNote("notes", "a", "two")
	alice.wantNote("notes", "long", "stays a while")
	alice.wantCode("notes", noteParams{Op: "delete", Key: "a"}, "")
	alice.wantCode("notes", noteParams{Op: "delete", Key: "a"}, "")

	h.stop()
	h.start()
	alice.signIn() // to the address that it has now
	alice.wantCode("notes", noteParams{Op: "get", Key: "a"}, "not_found")
	alice.wantNote("memos", "a", "of another plugin")
	alice.wantNote("notes", "long", "stays a while")
	alice.wantCode("notes", noteParams{Op: "put", Key: "a", Text: "x", IfRevision: &second}, "revision_conflict")
	if third := put("notes", "a", "three"); third <= second {
		t.Errorf("revision after delete and restart: got %d, want one above %d", third, second)
	}
}

func TestWhatPluginsKeepIsBounded(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice := h.person("alice")
	const mebi = 1 << 20
	alice.wantCode("notes", noteParams{Op: "put", Key: "a", Text: "x", Repeat: mebi + 1}, "too_large")
	alice.wantCode("notes", noteParams{Op: "put", Key: "", Text: "x"}, "invalid_request")
	alice.wantCode("notes", noteParams{Op: "put", Key: strings.Repeat("k", 513), Text: "x"}, "invalid_request")
	for i := range 15 {
		alice.wantCode("notes", noteParams{Op: "put", Key: fmt.Sprintf("%02d", i), Text: "x", Repeat: mebi}, "")
	}
	r := alice.wantCode("notes", noteParams{Op: "put", Key: "15", Text: "x", Repeat: mebi}, "too_large")
	if !strings.Contains(r.Message, "16777216 bytes") {
		t.Errorf("refusal: got %q, want the quota told", r.Message)
	}
	if got := alice.wantCode("notes", noteParams{Op: "list"}, "").Keys; len(got) != 15 {
		t.Errorf("list of large values: got %d keys, want 15", len(got))
	}
	alice.wantCode("memos", noteParams{Op: "put", Key: "a", Text: "x", Repeat: mebi}, "") // has a quota of its own
	alice.wantCode("notes", noteParams{Op: "delete", Key: "07"}, "")
	alice.wantCode("notes", noteParams{Op: "put", Key: "15", Text: "x", Repeat: mebi}, "")
}

// wantFromPlugin reads a plugin's message and checks all of it.
func (l *line) wantFromPlugin(plugin, to, text string, seq uint64) *wire.Direct {
	l.t.Helper()
	d := want[*wire.Direct](l)
	id, at := d.ID, d.Timestamp
	if !wire.ValidID(id) {
		l.t.Errorf("message of a plugin: got id %q", id)
	}
	if _, err := wire.ParseTime(at); err != nil || d.ServerTime != at {
		l.t.Errorf("message of a plugin: got timestamp %q, server time %q, want the same time twice", at, d.ServerTime)
	}
	wantFrame := &wire.Direct{ID: id, From: "plugin:" + plugin, To: to, Seq: seq, Timestamp: at, ServerTime: at, Content: text}
	if diff := cmp.Diff(wantFrame, d); diff != "" {
		l.t.Errorf("message of a plugin (-want +got):\n%s", diff)
	}
	return d
}

// A plugin's message is stored like any other, though the server insists that users
// seal theirs.
func TestPluginsSendToThePresentAndTheAbsent(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	text := "rain <&> \u2028 \x00 \" ☔"
	alice.wantCode("notes", noteParams{Op: "send", User: "bob", Text: text}, "")
	b := bob.connect()
	if b.welcome.LastSeq != 1 {
		t.Errorf("welcome: got last seq %d, want 1", b.welcome.LastSeq)
	}
	first := b.wantFromPlugin("notes", "bob", text, 1)
	a := alice.connect()
	a.send(alice.seal("m", alice.keys("bob"), "between"))
	a.wantStored("m", 2)
	if d := want[*wire.Direct](b); d.Seq != 2 || d.From != "alice" {
		t.Errorf("got %s, want alice's message", d.Append(nil))
	}
	alice.wantCode("memos", noteParams{Op: "send", User: "bob", Text: text}, "") // the same again, of another plugin
	second := b.wantFromPlugin("memos", "bob", text, 3)
	if first.ID == second.ID {
		t.Errorf("two messages: got the id %q twice", first.ID)
	}
	b.send(&wire.MailboxAck{Seq: 3})
	want[*wire.Receipt](a) // for alice's; a plugin has nowhere to get one

	alice.kill("notes")
	alice.wantCode("notes", noteParams{Op: "send", User: "bob", Text: "after the kill"}, "")
	b.wantFromPlugin("notes", "bob", "after the kill", 4)
	h.stop()
	h.start()
	alice.signIn()
	bob.signIn()
	b = bob.connect()
	if b.welcome.AckedSeq != 3 {
		t.Errorf("welcome after the restart: got acked %d, want 3", b.welcome.AckedSeq)
	}
	b.wantFromPlugin("notes", "bob", "after the kill", 4)
	status, body := h.do(http.MethodGet, "/messages?after=3", bob.token, nil)
	if status != http.StatusOK || !strings.Contains(string(body), `"from":"plugin:notes"`) {
		t.Errorf("mailbox over HTTP: got %d %s", status, body)
	}
	if strings.Contains(h.log.String(), "rain <") || strings.Contains(h.log.String(), "after the kill") {
		t.Error("the log tells what a plugin wrote")
	}
}

func TestWhatPluginsSendIsBounded(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t, "PLUGBOARD_MESSAGES__MAILBOX_LIMIT=2")
	alice, bob := h.person("alice"), h.person("bob")
	send := func(user, text string, repeat int) noteParams {
		return noteParams{Op: "send", User: user, Text: text, Repeat: repeat}
	}
	for _, user := range []string{"nobody", "", "Bob", "plugin:memos", "server"} {
		alice.wantCode("notes", send(user, "x", 1), "unknown_user")
	}
	alice.wantCode("notes", send("bob", "", 1), "invalid_request")
	for _, bytes := range []int{64 << 10, 1 << 20} {
		if r := alice.wantCode("notes", send("bob", "x", bytes), "too_large"); !strings.Contains(r.Message, fmt.Sprint(bytes)) {
			t.Errorf("refusal of %d bytes: got %q", bytes, r.Message)
		}
		alice.wantCode("notes", noteParams{Op: "broadcast", Text: "x", Repeat: bytes}, "too_large")
	}
	alice.wantCode("notes", send("bob", "\x01", 20<<10), "too_large") // six bytes each in a frame
	alice.wantCode("notes", send("bob", "x", 65_000), "")
	alice.wantCode("notes", send("bob", "second", 1), "")
	r := alice.wantCode("notes", send("bob", "third", 1), "mailbox_full")
	if !strings.Contains(r.Message, "2 messages waiting") {
		t.Errorf("refusal of a full mailbox: got %q", r.Message)
	}
	alice.wantCode("notes", send("alice", "another mailbox", 1), "")
	b := bob.connect()
	if d := want[*wire.Direct](b); len(d.Content) != 65_000 || len(d.Append(nil)) > int(b.welcome.Limits.MaxFrameBytes) {
		t.Errorf("long message: got %d bytes in a frame of %d", len(d.Content), len(d.Append(nil)))
	}
	b.send(&wire.MailboxAck{Seq: 1})
	for deadline := time.Now().Add(waitLimit); alice.ask("notes", send("bob", "third", 1)).Code != ""; {
		if time.Now().After(deadline) {
			t.Fatal("send after the mailbox had room: got it refused still")
		}
	}
	b.wantFromPlugin("notes", "bob", "second", 2)
	b.wantFromPlugin("notes", "bob", "third", 3)
}

func TestPluginsBroadcast(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	lines := []*line{alice.connect(), bob.connect(), bob.connect()}
	alice.wantCode("notes", noteParams{Op: "broadcast", Text: "storm"}, "")
	for _, l := range lines {
		f := want[*wire.Broadcast](l)
		id, at := f.ID, f.Timestamp
		if diff := cmp.Diff(&wire.Broadcast{ID: id, From: "plugin:notes", ServerTime: at, Timestamp: at, Content: "storm"}, f); diff != "" || !wire.ValidID(id) {
			t.Errorf("broadcast of a plugin (-want +got):\n%s", diff)
		}
	}
	if w := bob.connect().welcome; w.LastSeq != 0 {
		t.Errorf("mailbox after a broadcast: got last seq %d, want 0", w.LastSeq)
	}
	alice.wantCode("memos", noteParams{Op: "broadcast", Text: "x"}, "forbidden") // asks for it, and was not granted it
}

// What was not granted is refused by the server, whatever the plugin's own library
// thinks of it: the test plugin does without one.
func TestUngrantedCapabilitiesAreRefused(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t)
	alice := h.person("alice")
	for _, ask := range []string{"users", "kv"} {
		status, body := h.do(http.MethodPost, "/commands/test.host", alice.token, `{"ask":"`+ask+`"}`)
		if status != http.StatusOK || !strings.Contains(string(body), `"code":"forbidden"`) {
			t.Errorf("ask for %s: got %d %s, want it forbidden", ask, status, body)
		}
	}
}

func TestPluginsAreHeldToTheirRate(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	b := bob.connect()
	r := alice.wantCode("notes", noteParams{Op: "broadcast", Text: "x", Times: 30}, "rate_limited")
	if r.Done < 10 || r.Done > 20 || r.RetryAfter < 1 || r.RetryAfter > 500 {
		t.Errorf("broadcasts in a row: got %d and then to wait for %d ms, want 10 or a few more and at most 500 ms", r.Done, r.RetryAfter)
	}
	for range r.Done {
		want[*wire.Broadcast](b)
	}
	alice.wantCode("notes", noteParams{Op: "send", User: "bob", Text: "x"}, "") // has a rate apart from that
	b.wantFromPlugin("notes", "bob", "x", 1)
}

// A plugin that ends, or is made to, gets no new allowance by that.
func TestRatesOutliveAPluginsProcess(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice := h.person("alice")
	began := time.Now()
	total := alice.wantCode("notes", noteParams{Op: "broadcast", Text: "x", Times: 30}, "rate_limited").Done
	alice.kill("notes")
	total += alice.wantCode("notes", noteParams{Op: "broadcast", Text: "x", Times: 30}, "rate_limited").Done
	if most := 10 + int(2*time.Since(began).Seconds()) + 1; total > most {
		t.Errorf("broadcasts of two processes: got %d, want at most %d", total, most)
	}
}

// Nobody can pass for a plugin, nor write to one.
func TestUsersAreNoPlugins(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext)
	alice := h.person("alice")
	h.person("bob")
	a := alice.connect()
	as := func(f *wire.Direct) *wire.Direct { f.From = "plugin:notes"; return f }
	for id, f := range map[string]wire.Frame{
		"d": as(plain("d", "bob", "x")), "s": as(alice.seal("s", alice.keys("bob"), "x")),
		"b": &wire.Broadcast{ID: "b", From: "plugin:notes", Content: "x", Timestamp: now(0)},
	} {
		a.send(f)
		e := want[*wire.ErrorFrame](a)
		if e.ID != id || e.Fault.Code != fault.InvalidRequest && e.Fault.Code != fault.Forbidden {
			t.Errorf("frame as a plugin: got %s", e.Append(nil))
		}
	}
	a.send(plain("to", "plugin:notes", "thanks"))
	if e := a.wantError("to", fault.InvalidRequest); !strings.Contains(e.Fault.Message, `"to" must match`) {
		t.Errorf("message to a plugin: got %q, want it said what is wrong", e.Fault.Message)
	}
	eve := h.stranger("plugin:notes")
	status, body := h.do(http.MethodPost, "/auth/register", "", eve.registration())
	h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest)
}

// The Go client, which insists on sealed messages, takes a plugin's as what they are.
func TestTheClientTakesPluginsMessages(t *testing.T) {
	t.Parallel()
	h := newNotesServer(t)
	alice := h.person("alice")
	identity, err := goclient.CreateIdentity(filepath.Join(t.TempDir(), "carol"), "carol", "Carol")
	if err != nil {
		t.Fatal(err)
	}
	c, err := goclient.New(goclient.Options{Server: h.base, Identity: identity, OnRefused: func(r goclient.Refused) { t.Errorf("refused %+v", r) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // never fails
	if err := c.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.wantCode("notes", noteParams{Op: "send", User: "carol", Text: "while you were away"}, "")
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.connect().send(alice.seal("m", alice.keys("carol"), "sealed"))
	var got []string
	for e, err := range c.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		switch e := e.(type) {
		case *goclient.Message:
			got = append(got, fmt.Sprintf("%d %s %q %v %s", e.Seq, e.From, e.Plugin, e.Sealed, e.Text))
			if e.Seq == 2 {
				alice.wantCode("notes", noteParams{Op: "broadcast", Text: "to all"}, "")
			}
		case *goclient.Broadcast:
			got = append(got, fmt.Sprintf("%s %q %v %s", e.From, e.Plugin, e.Verified, e.Text))
		}
		if len(got) == 3 {
			break
		}
	}
	wantSeen := []string{`1 plugin:notes "notes" false while you were away`, `2 alice "" true sealed`, `plugin:notes "notes" false to all`}
	if diff := cmp.Diff(wantSeen, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if _, err := c.Send(t.Context(), "plugin:notes", []byte("thanks")); fault.CodeOf(err) != fault.InvalidRequest {
		t.Errorf("answer to a plugin: got %v, want %s", err, fault.InvalidRequest)
	}
}
