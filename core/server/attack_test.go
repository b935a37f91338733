package server_test

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// One answered challenge sent many times at once makes one session.
func TestReplayedChallengeMakesOneSession(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	for range 5 {
		_, body := h.do("POST", "/auth/login", "", &wire.LoginRequest{UserID: "alice"})
		var c wire.Challenge
		if err := wire.Unmarshal(body, &c); err != nil {
			t.Fatal(err)
		}
		answer := &wire.LoginRequest{UserID: "alice", Challenge: c.Challenge, Signature: ed25519.Sign(alice.sign, e2ee.LoginTranscript(h.name(), "alice", c.Challenge, c.ExpiresAt))}
		var tokens atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if status, _ := h.do("POST", "/auth/login?verify=true", "", answer); status == http.StatusOK {
					tokens.Add(1)
				}
			})
		}
		all.Wait()
		if got := tokens.Load(); got > 1 {
			t.Fatalf("one challenge made %d sessions", got)
		}
	}
}

// A signature made for one purpose, user or server opens nothing else.
func TestSignaturesDoNotTravel(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a := alice.connect()
	sealed := bob.seal("b1", bob.keys("alice"), "from bob")
	a.send(sealed) // what bob signed, sent by alice, to herself
	a.wantError("b1", fault.InvalidSignature)
	at := now(0)
	b := &wire.Broadcast{ID: "x", Content: "c", Timestamp: at, Signature: wire.EncodeBase64(ed25519.Sign(bob.sign, e2ee.BroadcastTranscript("bob", "x", at, "c")))}
	a.send(b)
	a.wantError("x", fault.InvalidSignature)
	b.Signature = wire.EncodeBase64(ed25519.Sign(alice.sign, e2ee.BroadcastTranscript("alice", "x", at, "other")))
	a.send(b)
	a.wantError("x", fault.InvalidSignature)
	b.Signature = wire.EncodeBase64(ed25519.Sign(alice.sign, e2ee.BroadcastTranscript("alice", "x", at, "c")))
	a.send(b)
	if f := want[*wire.Broadcast](a); f.Signature != b.Signature || f.From != "alice" {
		t.Errorf("got %s, want the signature carried", f.Append(nil))
	}
	want[*wire.Ack](a)
	// A sign-in's answer is no registration, and a registration for one name none for another.
	r := h.stranger("carol").apply(nil)
	r.UserID = "dave"
	status, body := h.do("POST", "/auth/register", "", r)
	h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidSignature)
}

// The first implementation lost a user when his second device left.
func TestASecondDeviceThatLeavesTakesNobodyAlong(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext)
	alice, bob := h.person("alice"), h.person("bob")
	a, first := alice.connect(), bob.connect()
	for i := 1; i <= 10; i++ {
		second := bob.connect()
		for range i - 1 {
			want[*wire.Direct](second) // nothing was acknowledged yet
		}
		if i%2 == 0 {
			_ = second.ws.NetConn().Close()
		} else {
			_ = second.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
			second.wantClosed(1000)
		}
		a.send(plain(fmt.Sprint("m", i), "bob", "x"))
		a.wantStored(fmt.Sprint("m", i), uint64(i))
		if d := want[*wire.Direct](first); d.Seq != uint64(i) {
			t.Fatalf("got seq %d, want %d", d.Seq, i)
		}
	}
}

// The first implementation's process ended when a command's client left.
func TestClientsThatLeaveTheirCommands(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t)
	alice := h.person("alice")
	for i := range 30 {
		a := alice.connect()
		for k := range 10 {
			a.send(&wire.Command{ID: fmt.Sprint("c", k), Command: []string{"ping", "test.hang", "test.slow", "test.progress"}[k%4], Params: []byte([]string{"{}", `{"ms":5}`}[k%2])})
		}
		if i%2 == 0 {
			_ = a.ws.NetConn().Close()
		} else {
			_ = a.ws.Close()
		}
	}
	a := alice.connect()
	var pong map[string]any
	a.call("still", "ping", "", &pong)
	// Nothing of theirs runs on: the plugin has all its places.
	for k := range 40 {
		a.send(&wire.Command{ID: fmt.Sprint("h", k), Command: "test.hang"})
	}
	a.send(&wire.Command{ID: "free", Command: "test", Params: []byte(`{}`)})
	if r := want[*wire.Response](a); r.ID != "free" {
		t.Errorf("got %s", r.Append(nil))
	}
}

// More commands than a connection may run are refused, not queued for ever.
func TestTooManyCommandsAtOnce(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t, "PLUGBOARD_PLUGINS__MAX_CONCURRENT=200")
	a := h.person("alice").connect()
	for k := range 64 {
		a.send(&wire.Command{ID: fmt.Sprint("h", k), Command: "test.hang"})
	}
	a.send(&wire.Command{ID: "more", Command: "ping"})
	a.wantError("more", fault.Overloaded)
	for k := range 64 {
		a.send(&wire.Cancel{ID: fmt.Sprint("h", k)})
	}
	for range 64 {
		if e := want[*wire.ErrorFrame](a); e.Fault.Code != fault.CommandCancelled {
			t.Fatalf("got %s", e.Append(nil))
		}
	}
	a.send(&wire.Command{ID: "again", Command: "ping"})
	if r := want[*wire.Response](a); r.ID != "again" {
		t.Errorf("got %s", r.Append(nil))
	}
}

// Stopping while handlers run: each is told or finished, the client sees 1001,
// and the store is closed under nobody.
func TestStopWithRunningCommands(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t, "PLUGBOARD_SERVER__SHUTDOWN_GRACE=5s")
	alice := h.person("alice")
	a := alice.connect()
	a.send(&wire.Command{ID: "soon", Command: "test.slow", Params: []byte(`{"ms":300}`)})
	a.send(&wire.Command{ID: "never", Command: "test.hang"})
	a.send(&wire.Command{ID: "x", Command: "ping"})
	want[*wire.Response](a)
	var stopping sync.WaitGroup
	stopping.Go(h.stop)
	got := map[string]string{}
	_ = a.ws.SetReadDeadline(time.Now().Add(waitLimit))
	for {
		_, data, err := a.ws.ReadMessage()
		if err != nil {
			if !websocket.IsCloseError(err, 1001) {
				t.Errorf("got %v, want 1001", err)
			}
			break
		}
		switch f, _ := wire.DecodeServer(data); f := f.(type) {
		case *wire.Notice:
			got["notice"] += f.Code
			a.send(&wire.Command{ID: "late", Command: "ping"})
		case *wire.Response:
			got[f.ID] += "response"
		case *wire.ErrorFrame:
			got[f.ID] += string(f.Fault.Code)
		}
	}
	stopping.Wait()
	if got["notice"] != wire.NoticeDraining || got["soon"] != "response" || got["late"] != string(fault.ShuttingDown) {
		t.Errorf("got %v", got)
	}
	if c := got["never"]; c != string(fault.CommandCancelled) && c != string(fault.ShuttingDown) && c != string(fault.PluginUnavailable) {
		t.Errorf("the command that never ends: got %q, want one final answer", c)
	}
	if log := h.log.String(); strings.Contains(log, "database is closed") || strings.Contains(log, "panic") {
		t.Errorf("the log: %s", log)
	}
}

// A peer that never reads costs nobody else anything, nor much memory, and finds
// its stored messages on its return.
func TestPeersThatNeverRead(t *testing.T) { // not parallel: it looks at the heap of the process
	h := newBareServer(t, plaintext)
	alice, bob, carol := h.person("alice"), h.person("bob"), h.person("carol")
	a, c := alice.connect(), carol.connect()
	stuck := make([]*line, 4)
	for i := range stuck {
		stuck[i] = bob.connect()
		_ = stuck[i].ws.NetConn().(interface{ SetReadBuffer(int) error }).SetReadBuffer(4096)
	}
	before := memory()
	const n = 160
	content := strings.Repeat("x", 60<<10)
	slowest := time.Duration(0)
	for i := 1; i <= n; i++ {
		id := fmt.Sprint("m", i)
		a.send(plain(id, "bob", content))
		a.wantStored(id, uint64(i))
		if i%20 == 0 {
			began := time.Now()
			a.send(plain(id+"c", "carol", "x"))
			a.wantStored(id+"c", uint64(i/20))
			want[*wire.Direct](c)
			slowest = max(slowest, time.Since(began))
		}
	}
	if slowest > 3*time.Second {
		t.Errorf("somebody else's message took %v", slowest)
	}
	if grown := int64(memory()) - int64(before); grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB while %d MiB went to peers that do not read", grown>>20, n*len(content)*len(stuck)>>20)
	}
	for _, l := range stuck {
		_ = l.ws.Close()
	}
	b := bob.connect()
	for i := 1; i <= n; i++ {
		if d := want[*wire.Direct](b); d.Seq != uint64(i) {
			t.Fatalf("got seq %d, want %d", d.Seq, i)
		}
	}
}

// X-Forwarded-For of a stranger is worth nothing: the failures still add up.
func TestForwardedForIsNotBelieved(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	for i := range 12 {
		body := `{"user_id":"alice","challenge":"AAAA","signature":"AAAA"}`
		a := h.request("POST", "/auth/login?verify=true", h.name(), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i), fmt.Sprintf("Content-Length: %d", len(body)), "", body)
		wanted := http.StatusUnauthorized
		if i >= 10 {
			wanted = http.StatusTooManyRequests
		}
		if a.status != wanted {
			t.Errorf("attempt %d: got %d %s, want %d", i, a.status, a.body, wanted)
		}
	}
}

// An id that was read from a frame goes into logs: nothing that a client chose
// can make a line of its own there.
func TestLogLinesCannotBeForged(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	a := h.person("alice").connect()
	a.sendText(`{"type":"server","id":"1","command":"ping\nFORGED"}`)
	a.wantError("1", fault.InvalidRequest)
	h.request("GET", "/%0aFORGED", h.name(), "User-Agent: x\x00\x1b[31mFORGED", "Origin: http://x")
	for l := range strings.SplitSeq(h.log.String(), "\n") {
		if strings.HasPrefix(l, "FORGED") || strings.Contains(l, "\x1b") {
			t.Errorf("forged: %q", l)
		}
	}
}

// BenchmarkSignInOfKnownAndUnknown measures POST /auth/login?verify=true that
// fails for a user who exists and for one who does not. The medians must not
// tell them apart.
func BenchmarkSignInOfKnownAndUnknown(b *testing.B) {
	h := newServer(b, "PLUGBOARD_PLUGINS__DIR="+b.TempDir(), "PLUGBOARD_SERVER__TRUSTED_PROXIES=127.0.0.0/8", "PLUGBOARD_LOG__LEVEL=error")
	alice := h.person("alice")
	keep := &http.Client{Timeout: waitLimit}
	defer keep.CloseIdleConnections()
	users := []string{"alice", "nobody"}
	took := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		for _, user := range users {
			_, body := h.do("POST", "/auth/login", "", &wire.LoginRequest{UserID: user})
			var c wire.Challenge
			if err := wire.Unmarshal(body, &c); err != nil {
				b.Fatal(err)
			}
			wrong := ed25519.Sign(alice.sign, e2ee.LoginTranscript("other.example", user, c.Challenge, c.ExpiresAt))
			data, err := wire.Marshal(&wire.LoginRequest{UserID: user, Challenge: c.Challenge, Signature: wrong})
			if err != nil {
				b.Fatal(err)
			}
			req := httptest.NewRequest(http.MethodPost, h.base+"/auth/login?verify=true", strings.NewReader(string(data)))
			req.RequestURI = ""
			n++
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("198.%d.%d.%d", n>>16&255, n>>8&255, n&255)) // failures are limited by address
			began := time.Now()
			res, err := keep.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			took[user] = append(took[user], time.Since(began))
			_ = res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized {
				b.Fatalf("got %d, want 401", res.StatusCode)
			}
		}
		slices.Reverse(users)
	}
	for user, d := range took {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds()), map[string]string{"alice": "µs-known", "nobody": "µs-unknown"}[user])
	}
}
