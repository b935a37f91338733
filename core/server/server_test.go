package server_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Two exchange sealed messages while a third is away and gets its own later, in
// order and once.
func TestSealedMessagesReachThePresentAndTheAbsent(t *testing.T) {
	h := newServer(t)
	alice, bob, carol := h.person("alice"), h.person("bob"), h.person("carol")
	a, b := alice.connect(), bob.connect()
	toBob, toAlice, toCarol := alice.keys("bob"), bob.keys("alice"), alice.keys("carol")

	a.send(alice.seal("a1", toBob, "hello bob"))
	a.wantStored("a1", 1)
	d := want[*wire.Direct](b)
	if text := bob.unseal(d, toAlice); text != "hello bob" || d.Seq != 1 || d.From != "alice" {
		t.Errorf("got %q, seq %d from %s, want hello bob, seq 1 from alice", text, d.Seq, d.From)
	}
	b.send(&wire.MailboxAck{Seq: 1})
	if r := want[*wire.Receipt](a); r.ID != "a1" || r.To != "bob" || r.Status != wire.StatusDelivered {
		t.Errorf("got %s, want the receipt of a1", r.Append(nil))
	}
	b.send(bob.seal("b1", toAlice, "hello alice"))
	b.wantStored("b1", 1)
	if text := alice.unseal(want[*wire.Direct](a), toBob); text != "hello alice" {
		t.Errorf("got %q, want hello alice", text)
	}

	const waiting = 700 // more than any queue or page holds
	for i := 1; i <= waiting; i++ {
		id := fmt.Sprintf("c%d", i)
		a.send(alice.seal(id, toCarol, id))
		a.wantStored(id, uint64(i))
	}
	c := carol.connect()
	if c.welcome.LastSeq != waiting || c.welcome.AckedSeq != 0 {
		t.Errorf("got last %d, acked %d, want %d and 0", c.welcome.LastSeq, c.welcome.AckedSeq, waiting)
	}
	for i := 1; i <= waiting; i++ {
		d := want[*wire.Direct](c)
		if text := carol.unseal(d, toAlice); d.Seq != uint64(i) || text != fmt.Sprintf("c%d", i) {
			t.Fatalf("place %d: got seq %d, %q", i, d.Seq, text)
		}
	}
	c.send(&wire.MailboxAck{Seq: waiting})
	c.send(&wire.Command{ID: "after", Command: "ping"})
	want[*wire.Response](c)
	if again := carol.connect(); again.welcome.AckedSeq != waiting {
		t.Errorf("got acked %d, want %d", again.welcome.AckedSeq, waiting)
	}
}

func TestBuiltInCommands(t *testing.T) {
	h := newServer(t)
	alice := h.person("alice")
	h.person("bob")
	a := alice.connect()

	var ping struct {
		Pong bool   `json:"pong"`
		Time string `json:"time"`
	}
	a.call("1", "ping", "", &ping)
	if _, err := wire.ParseTime(ping.Time); err != nil || !ping.Pong {
		t.Errorf("ping: got %+v (%v), want pong and the time", ping, err)
	}
	var echo map[string]any
	a.call("2", "echo", `{"text":"hi","n":[1,null]}`, &echo)
	if fmt.Sprint(echo) != "map[n:[1 <nil>] text:hi]" {
		t.Errorf("echo: got %v, want its params", echo)
	}
	var info struct {
		Name, Version, Protocol string
		StartedAt               string  `json:"started_at"`
		UptimeSeconds           float64 `json:"uptime_seconds"`
		GoVersion               string  `json:"go_version"`
		Connections             int
		Plugins                 []struct{ Name, Version, State string }
	}
	a.call("3", "serverinfo", "{}", &info)
	if info.Name != "plugboard" || info.Version != "test" || info.Protocol != wire.Protocol || info.Connections != 1 ||
		info.UptimeSeconds <= 0 || !strings.HasPrefix(info.GoVersion, "go") || len(info.Plugins) != 5 {
		t.Errorf("serverinfo: got %+v", info)
	}
	if _, err := wire.ParseTime(info.StartedAt); err != nil {
		t.Errorf("started_at %q: %v", info.StartedAt, err)
	}
	for _, p := range info.Plugins {
		if p.State != "ready" || p.Version == "" {
			t.Errorf("plugin %s: got state %q, version %q, want ready", p.Name, p.State, p.Version)
		}
	}
	var count struct{ Connected, Registered int }
	a.call("4", "usercount", "", &count)
	if count.Connected != 1 || count.Registered != 2 {
		t.Errorf("usercount: got %+v, want 1 connected of 2", count)
	}
	var list, overHTTP wire.CommandList
	a.call("5", "listcommands", "", &list)
	status, body := h.do(http.MethodGet, "/commands", alice.token, nil)
	if err := wire.Unmarshal(body, &overHTTP); err != nil || status != http.StatusOK || len(overHTTP.Commands) != 5 || len(list.Commands) != 5 {
		t.Fatalf("got %d %s and %d commands, want five each", status, body, len(list.Commands))
	}
	for i, c := range overHTTP.Commands {
		if list.Commands[i].Name != c.Name || len(c.Params) == 0 || c.Summary == "" {
			t.Errorf("got %+v and %+v, want the same, described", list.Commands[i], c)
		}
	}
	status, body = h.do(http.MethodPost, "/commands/echo", alice.token, `{"over":"http"}`)
	if status != http.StatusOK || !bytes.Contains(body, []byte(`{"over":"http"}`)) {
		t.Errorf("got %d %s, want the echo over HTTP", status, body)
	}
}

func TestBroadcastReachesEverybodyOnce(t *testing.T) {
	h := newServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a, b1, b2 := alice.connect(), bob.connect(), bob.connect()
	a.send(&wire.Broadcast{ID: "x", Content: "hello all", Timestamp: "2026-01-31T12:00:00.000Z"})
	for _, l := range []*line{b1, b2, a} {
		if f := want[*wire.Broadcast](l); f.From != "alice" || f.Content != "hello all" || f.ID != "x" {
			t.Errorf("got %s, want alice's broadcast", f.Append(nil))
		}
	}
	if ack := want[*wire.Ack](a); ack.Status != wire.StatusSent || ack.Recipients == nil || *ack.Recipients != 3 {
		t.Errorf("got %s, want sent to 3", ack.Append(nil))
	}
}

func TestARepeatedMessageIsStoredOnceAlsoAfterARestart(t *testing.T) {
	h := newServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a := alice.connect()
	toBob := alice.keys("bob")
	first := alice.seal("m", toBob, "once")
	for range 3 {
		a.send(first)
		a.wantStored("m", 1)
	}
	a.send(alice.seal("m", toBob, "other contents"))
	a.wantError("m", fault.IDConflict)
	h.stop()
	h.start()
	alice.signIn()
	bob.signIn()
	a = alice.connect()
	a.send(first)
	a.wantStored("m", 1)
	a.send(alice.seal("m2", toBob, "next"))
	a.wantStored("m2", 2)
	b := bob.connect()
	for i, wanted := range []string{"once", "next"} {
		d := want[*wire.Direct](b)
		if text := bob.unseal(d, bob.keys("alice")); text != wanted || d.Seq != uint64(i+1) {
			t.Errorf("got seq %d %q, want %d %q", d.Seq, text, i+1, wanted)
		}
	}
}

func TestBadFramesGetTheirErrorAndTheConnectionStays(t *testing.T) {
	h := newServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a := alice.connect()
	toBob := alice.keys("bob")
	tampered := alice.seal("tampered", toBob, "text")
	tampered.To = "bob"
	tampered.Timestamp = "2099-01-01T00:00:00.000Z"
	forged := bob.seal("forged", bob.keys("bob"), "as somebody else")
	forged.From = "bob"
	stranger := alice.seal("stranger", toBob, "x")
	stranger.To = "nobody"
	version := alice.seal("version", toBob, "x")
	version.KeyVersion = 9
	for _, c := range []struct {
		frame string
		id    string
		code  fault.Code
	}{
		{`{"type":"direct"`, "", fault.BadJSON},
		{`{"type":"server","id":"d","id":"d","command":"ping"}`, "", fault.BadJSON},
		{`{"type":"server","id":"c","Command":"ping","command":"ping"}`, "c", fault.BadJSON},
		{`{"type":"server","id":"deep","command":"echo","params":{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}}`, "", fault.BadJSON},
		{`[1]`, "", fault.BadJSON},
		{`{"type":"nonsense","id":"n"}`, "n", fault.UnknownType},
		{`{"id":"n"}`, "n", fault.InvalidRequest},
		{`{"type":"server","id":"p","command":"echo","params":[1]}`, "p", fault.InvalidRequest},
		{`{"type":"server","id":"u","command":"no_such"}`, "u", fault.UnknownCommand},
		{`{"type":"direct","id":"plain","to":"bob","content":"hi","timestamp":"2026-01-31T12:00:00.000Z"}`, "plain", fault.EncryptionRequired},
		{`{"type":"ack","seq":5}`, "", fault.InvalidRequest},
		{`{"type":"auth","token":"rubbish"}`, "", fault.AuthenticationFailed},
		{string(tampered.Append(nil)), "tampered", fault.InvalidSignature},
		{string(forged.Append(nil)), "forged", fault.Forbidden},
		{string(stranger.Append(nil)), "stranger", fault.UnknownUser},
		{string(version.Append(nil)), "version", fault.KeyVersion},
	} {
		a.sendText(c.frame)
		if e := a.wantError(c.id, c.code); e.Fault.Message == "" {
			t.Errorf("%s: no sentence for people", c.frame)
		}
	}
	var pong map[string]any
	a.call("still", "ping", "", &pong)
	if status, body := h.do(http.MethodGet, "/messages", bob.token, nil); status != http.StatusOK || !bytes.Contains(body, []byte(`"messages":[]`)) {
		t.Errorf("got %d %s, want an empty mailbox", status, body)
	}
}

func TestLogoutClosesAndSurvivesARestart(t *testing.T) {
	h := newServer(t)
	alice := h.person("alice")
	old := alice.token
	a := alice.connect()
	alice.signIn()
	b := alice.connect()
	if status, body := h.do(http.MethodPost, "/auth/logout", old, nil); status != http.StatusNoContent {
		t.Fatalf("got %d %s, want 204", status, body)
	}
	a.wantClosed(4002)
	var pong map[string]any
	b.call("still", "ping", "", &pong)
	check := func(when string) {
		t.Helper()
		status, body := h.do(http.MethodGet, "/commands", old, nil)
		h.wantProblem(status, body, http.StatusUnauthorized, fault.TokenRevoked)
		if status, body := h.do(http.MethodGet, "/commands", alice.token, nil); status != http.StatusOK {
			t.Errorf("%s: got %d %s for the other session, want 200", when, status, body)
		}
	}
	check("at once")
	h.stop()
	h.start()
	check("after a restart")
}

func TestStopTellsClientsAndCloses1001(t *testing.T) {
	h := newServer(t)
	alice := h.person("alice")
	a := alice.connect()
	go h.stop()
	if n := want[*wire.Notice](a); n.Code != wire.NoticeDraining || n.ReconnectAfter <= 0 {
		t.Errorf("got %s, want the draining notice", n.Append(nil))
	}
	a.wantClosed(1001)
	h.stop()
}

// The server never has the text: whatever it wrote to disk or log does not hold
// it, nor any token or challenge.
func TestNothingSecretIsWritten(t *testing.T) {
	h := newServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a := alice.connect()
	const marker = "PLAINTEXT-MARKER-7391"
	a.send(alice.seal("m", alice.keys("bob"), marker))
	a.wantStored("m", 1)
	a.send(&wire.Command{ID: "e", Command: "echo", Params: []byte(`{"text":"` + marker + `"}`)})
	want[*wire.Response](a)
	want[*wire.Direct](bob.connect())
	h.stop()
	secrets := []string{marker, alice.token, "eyJ"}
	data := strings.TrimPrefix(h.env[2], "PLUGBOARD_DATA_DIR=")
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(content, []byte(s)) {
				t.Errorf("%s holds %q", path, s)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	log := h.log.String()
	for _, s := range secrets {
		if strings.Contains(log, s) {
			t.Errorf("the log holds %q: %s", s, regexp.MustCompile(`(?m)^.*`+regexp.QuoteMeta(s)+`.*$`).FindString(log))
		}
	}
}
