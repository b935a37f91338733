package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// now is a timestamp some time from now.
func now(d time.Duration) string { return wire.FormatTime(time.Now().Add(d)) }

// plain is a direct message that is not sealed, for servers that take those.
func plain(id, to, content string) *wire.Direct {
	return &wire.Direct{ID: id, To: to, Content: content, Timestamp: now(0)}
}

const plaintext = "PLUGBOARD_MESSAGES__REQUIRE_ENCRYPTION=false"

func TestWelcomeIsComplete(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=10", "PLUGBOARD_LIMITS__BURST=20")
	alice := h.person("alice")
	ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(h.base, "http")+"/ws", http.Header{"Authorization": {"Bearer " + alice.token}})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	defer ws.Close()
	kind, data, err := ws.ReadMessage()
	if err != nil || kind != websocket.TextMessage {
		t.Fatalf("got kind %d, %v", kind, err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	limits, _ := got["limits"].(map[string]any)
	for what, ok := range map[string]bool{
		"type": got["type"] == "welcome", "protocol": got["protocol"] == "plugboard.v1", "user_id": got["user_id"] == "alice",
		"session_id": got["session_id"] == alice.sid, "server": regexp.MustCompile(`^plugboard/\S+$`).MatchString(fmt.Sprint(got["server"])),
		"node": got["node"] != "" && got["node"] != nil, "last_seq": got["last_seq"] == 0.0, "acked_seq": got["acked_seq"] == 0.0, "heartbeat_ms": got["heartbeat_ms"] == 30000.0,
		"limits": len(limits) == 3 && limits["max_frame_bytes"] == 65536.0 && limits["rate"] == 10.0 && limits["burst"] == 20.0,
	} {
		if !ok {
			t.Errorf("%s is not as docs/protocol.md §3 says: %s", what, data)
		}
	}
	for _, name := range []string{"server_time", "token_expires_at"} {
		if _, err := wire.ParseTime(fmt.Sprint(got[name])); err != nil {
			t.Errorf("%s: %v in %s", name, err, data)
		}
	}
}

func TestConnectionCaps(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_LIMITS__CONNECTIONS_PER_USER=2", "PLUGBOARD_LIMITS__CONNECTIONS_PER_ADDRESS=3")
	alice, bob := h.person("alice"), h.person("bob")
	a := alice.connect()
	alice.connect()
	dial := func(p *person) answer {
		return h.request("GET", "/ws", h.name(), append([]string{"Authorization: Bearer " + p.token}, upgrade...)...)
	}
	h.wantRefused("a third of one user", dial(alice), http.StatusTooManyRequests, fault.RateLimited)
	bob.connect()
	h.wantRefused("a fourth of one address", dial(bob), http.StatusTooManyRequests, fault.RateLimited)
	// A place that is given up can be taken.
	_ = a.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
	a.wantClosed(1000)
	for deadline := time.Now().Add(waitLimit); ; {
		ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(h.base, "http")+"/ws", http.Header{"Authorization": {"Bearer " + bob.token}})
		if err == nil {
			_ = res.Body.Close()
			_ = ws.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the place was not given back: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFramesThatCloseTheConnection(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	for name, c := range map[string]struct {
		send func(*websocket.Conn) error
		code int
	}{
		"binary": {func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.BinaryMessage, []byte("{}")) }, 1003},
		"not UTF-8": {func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.TextMessage, []byte("{\"type\":\"\xff\"}"))
		}, 1007},
		"surrogate as UTF-8": {func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.TextMessage, []byte("{\"type\":\"\xed\xa0\x80\"}"))
		}, 1007},
		"one byte too many": {func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.TextMessage, []byte(strings.Repeat(" ", 65537)))
		}, 1009},
		"huge": {func(ws *websocket.Conn) error {
			_ = ws.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 4<<20)))
			return nil // it may be cut off in the middle
		}, 1009},
		"unmasked":                {func(ws *websocket.Conn) error { return raw(ws, 0x81, 2, '{', '}') }, 1002},
		"reserved bit":            {func(ws *websocket.Conn) error { return raw(ws, 0xc1, 0x82, 0, 0, 0, 0, '{', '}') }, 1002},
		"unknown frame":           {func(ws *websocket.Conn) error { return raw(ws, 0x83, 0x80, 0, 0, 0, 0) }, 1002},
		"long control":            {func(ws *websocket.Conn) error { return raw(ws, 0x89, 0xfe, 0, 200, 0, 0, 0, 0) }, 1002},
		"continuation of nothing": {func(ws *websocket.Conn) error { return raw(ws, 0x80, 0x80, 0, 0, 0, 0) }, 1002},
	} {
		a := alice.connect()
		if err := c.send(a.ws); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = a.ws.SetReadDeadline(time.Now().Add(waitLimit))
		_, _, err := a.ws.ReadMessage()
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != c.code {
			t.Errorf("%s: got %v, want %d", name, err, c.code)
		}
		_ = a.ws.Close()
	}
	// The limit itself fits; fragments are put together.
	a := alice.connect()
	a.sendText(`{"type":"x"` + strings.Repeat(" ", 65536-12) + "}")
	a.wantError("", fault.UnknownType)
	w, err := a.ws.NextWriter(websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`{"ty`, `pe":"y","i`, `d":"1"}`} {
		_, _ = w.Write([]byte(part))
	}
	_ = w.Close()
	a.wantError("1", fault.UnknownType)
}

// raw writes bytes that no client library would.
func raw(ws *websocket.Conn, b ...byte) error {
	_, err := ws.NetConn().Write(b)
	return err
}

// Compression is not offered, whatever the client says.
func TestNoCompression(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	d := websocket.Dialer{EnableCompression: true, Subprotocols: []string{wire.Protocol}}
	ws, res, err := d.Dial("ws"+strings.TrimPrefix(h.base, "http")+"/ws", http.Header{"Authorization": {"Bearer " + alice.token}})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	defer ws.Close()
	if got := res.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("got extensions %q, want none", got)
	}
}

// Each odd frame has one answer, under its id where that could be read, and the
// connection goes on.
func TestOddFramesGetOneAnswer(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	h.person("bob")
	a := alice.connect()
	good := string(alice.seal("g", alice.keys("bob"), "text").Append(nil))
	var members map[string]any
	if err := json.Unmarshal([]byte(good), &members); err != nil {
		t.Fatal(err)
	}
	type frame struct {
		text, id string
		code     fault.Code
	}
	frames := []frame{
		{"", "", fault.BadJSON}, {" ", "", fault.BadJSON}, {"null", "", fault.BadJSON}, {"true", "", fault.BadJSON}, {"{} {}", "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping",}`, "", fault.BadJSON}, {`{'type':'server'}`, "", fault.BadJSON}, {"\ufeff{}", "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","params":{"a":1,"a":2}}`, "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","params":{"a":"\ud800"}}`, "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","x":01}`, "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","x":NaN}`, "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","\u0069d":"2"}`, "", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","ID":"2"}`, "1", fault.BadJSON},
		{`{"type":"server","id":"1","command":"ping","paramſ":{}}`, "1", fault.BadJSON}, // ſ folds to s
		{`{"x":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`, "", fault.BadJSON},
		{`{"x":` + strings.Repeat(`{"a":`, 9000), "", fault.BadJSON},
		{`{"x":[` + strings.Repeat("0,", 20000) + `0]}`, "", fault.BadJSON},
		{`{"type":7,"id":"1"}`, "1", fault.InvalidRequest}, {`{"type":null,"id":"1"}`, "1", fault.InvalidRequest},
		{`{"type":"welcome","id":"1"}`, "1", fault.UnknownType}, {`{"type":"Direct","id":"1"}`, "1", fault.UnknownType}, {`{"type":"","id":"1"}`, "1", fault.UnknownType},
		{`{"type":"server","id":7,"command":"ping"}`, "", fault.InvalidRequest}, {`{"type":"server","command":"ping"}`, "", fault.InvalidRequest},
		{`{"type":"server","id":"","command":"ping"}`, "", fault.InvalidRequest}, {`{"type":"server","id":"a b","command":"ping"}`, "", fault.InvalidRequest},
		{`{"type":"server","id":"` + strings.Repeat("a", 65) + `","command":"ping"}`, "", fault.InvalidRequest},
		{`{"type":"server","id":"1","command":"Ping"}`, "1", fault.InvalidRequest}, {`{"type":"server","id":"1","command":"a.b.c"}`, "1", fault.InvalidRequest},
		{`{"type":"server","id":"1","command":""}`, "1", fault.InvalidRequest}, {`{"type":"server","id":"1"}`, "1", fault.InvalidRequest},
		{`{"type":"server","id":"1","command":"ping","params":"x"}`, "1", fault.InvalidRequest},
		{`{"type":"server","id":"1","command":"ping","timestamp":"yesterday"}`, "1", fault.InvalidRequest},
		{`{"type":"server","id":"1","command":"ping","signature":"AAAA"}`, "1", fault.InvalidRequest},
		{`{"type":"broadcast","id":"1","timestamp":"` + now(0) + `"}`, "1", fault.InvalidRequest},
		{`{"type":"broadcast","id":"1","content":7,"timestamp":"` + now(0) + `"}`, "1", fault.InvalidRequest},
		{`{"type":"broadcast","id":"1","content":"x"}`, "1", fault.InvalidRequest},
		{`{"type":"broadcast","id":"1","content":"x","from":"bob","timestamp":"` + now(0) + `"}`, "1", fault.Forbidden},
		{`{"type":"broadcast","id":"1","content":"x","timestamp":"` + now(0) + `","signature":"` + wire.EncodeBase64(make([]byte, 64)) + `"}`, "1", fault.InvalidSignature},
		{`{"type":"cancel"}`, "", fault.InvalidRequest}, {`{"type":"cancel","id":"?"}`, "", fault.InvalidRequest},
		{`{"type":"ack"}`, "", fault.InvalidRequest}, {`{"type":"ack","seq":-1}`, "", fault.InvalidRequest}, {`{"type":"ack","seq":1.0}`, "", fault.InvalidRequest},
		{`{"type":"ack","seq":"1"}`, "", fault.InvalidRequest}, {`{"type":"ack","seq":9007199254740992}`, "", fault.InvalidRequest}, {`{"type":"ack","seq":1}`, "", fault.InvalidRequest},
		{`{"type":"ack","seq":0,"receipts":{}}`, "", fault.InvalidRequest}, {`{"type":"ack","seq":0,"receipts":[7]}`, "", fault.InvalidRequest},
		{`{"type":"auth"}`, "", fault.InvalidRequest}, {`{"type":"auth","token":7}`, "", fault.InvalidRequest}, {`{"type":"auth","id":"1","token":""}`, "1", fault.InvalidRequest},
		{strings.Replace(good, `"to":"bob"`, `"to":"Bob"`, 1), "g", fault.InvalidRequest}, {strings.Replace(good, `"to":"bob"`, `"to":"server"`, 1), "g", fault.UnknownUser},
		{strings.Replace(good, `"to":"bob"`, `"to":"alice"`, 1), "g", fault.InvalidSignature}, {strings.Replace(good, `"key_version":1`, `"key_version":1.0`, 1), "g", fault.InvalidRequest},
		{strings.Replace(good, `{`, `{"from":"bob",`, 1), "g", fault.Forbidden}, {strings.Replace(good, `{`, `{"from":"",`, 1), "g", ""},
	}
	for _, name := range []string{"to", "content", "timestamp", "key_version", "encrypted_key", "encryption_nonce", "signature"} {
		one := map[string]any{}
		for k, v := range members {
			if k != name {
				one[k] = v
			}
		}
		text, _ := json.Marshal(one)
		frames = append(frames, frame{string(text), "g", fault.InvalidRequest})
		if s, ok := members[name].(string); ok && name != "to" && name != "timestamp" {
			for _, odd := range []string{s + "=", " " + s, strings.TrimRight(s, "="), s[:len(s)/2] + `\n` + s[len(s)/2:], "AAAA", strings.NewReplacer("+", "-", "/", "_").Replace(s[:8]) + "-_-_" + s[12:]} {
				if odd != s {
					frames = append(frames, frame{strings.Replace(good, s, odd, 1), "g", fault.InvalidRequest})
				}
			}
		}
	}
	for _, f := range frames {
		a.sendText(f.text)
		if f.code == "" {
			a.wantStored(f.id, 1)
			continue
		}
		if a.wantError(f.id, f.code); t.Failed() {
			t.Fatalf("%.200s", f.text)
		}
	}
	a.sendText(`{"type":"cancel","id":"nothing-runs"}`) // has no answer
	a.sendText(`{"type":"server","id":"last","command":"none","x-unknown":[1],"extra":null}`)
	a.wantError("last", fault.UnknownCommand)
}

// The numbers of the default configuration: twenty at once, ten a second, and
// they belong to the user.
func TestDefaultRateLimit(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=10", "PLUGBOARD_LIMITS__BURST=20")
	alice, bob := h.person("alice"), h.person("bob")
	one, two := alice.connect(), alice.connect()
	began := time.Now()
	limited := 0
	for i := range 40 {
		l := []*line{one, two}[i%2]
		id := fmt.Sprint("r", i)
		l.send(&wire.Command{ID: id, Command: "none"})
		e := want[*wire.ErrorFrame](l)
		switch {
		case e.ID != id:
			t.Fatalf("got %s for %s", e.Append(nil), id)
		case e.Fault.Code == fault.RateLimited:
			if limited++; e.Fault.RetryAfter <= 0 || e.Fault.RetryAfter > 200*time.Millisecond {
				t.Errorf("got a wait of %v, want up to a tenth of a second", e.Fault.RetryAfter)
			}
		case e.Fault.Code != fault.UnknownCommand:
			t.Fatalf("got %s", e.Append(nil))
		}
	}
	allowed := 40 - limited
	if most := 20 + int(10*time.Since(began).Seconds()) + 1; allowed < 20 || allowed > most {
		t.Errorf("%d frames passed, want 20 to %d", allowed, most)
	}
	// Coming back makes nothing good (lesson: reconnecting reset the limit), and
	// others are not held up.
	_ = one.ws.Close()
	again, b := alice.connect(), bob.connect()
	passed := 0
	for i := range 20 {
		again.send(&wire.Command{ID: fmt.Sprint("s", i), Command: "none"})
		if e := want[*wire.ErrorFrame](again); e.Fault.Code == fault.UnknownCommand {
			passed++
		}
	}
	if most := 2 + int(10*time.Since(began).Seconds()); passed > most {
		t.Errorf("%d frames passed after a reconnect, want at most %d", passed, most)
	}
	b.send(&wire.Command{ID: "b", Command: "none"})
	b.wantError("b", fault.UnknownCommand)
	status, body := h.do("POST", "/commands/none", bob.token, nil)
	h.wantProblem(status, body, http.StatusNotFound, fault.UnknownCommand)
	for range 30 { // the same bucket over HTTP
		if status, body = h.do("POST", "/commands/none", bob.token, nil); status == http.StatusTooManyRequests {
			break
		}
	}
	h.wantProblem(status, body, http.StatusTooManyRequests, fault.RateLimited)
	// Waiting as long as was said is enough.
	var e *wire.ErrorFrame
	for e == nil || e.Fault.Code != fault.RateLimited {
		again.send(&wire.Command{ID: "w", Command: "none"})
		e = want[*wire.ErrorFrame](again)
	}
	time.Sleep(e.Fault.RetryAfter)
	again.send(&wire.Command{ID: "w2", Command: "none"})
	again.wantError("w2", fault.UnknownCommand)
}

// Who keeps on is closed, and only he.
func TestFloodIsClosedWith1008(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=10", "PLUGBOARD_LIMITS__BURST=20")
	alice, bob := h.person("alice"), h.person("bob")
	a, b := alice.connect(), bob.connect()
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 5000 {
			if a.ws.WriteMessage(websocket.TextMessage, []byte("{")) != nil {
				return
			}
		}
	})
	a.wantClosed(1008)
	_ = a.ws.Close()
	writer.Wait()
	b.send(&wire.Command{ID: "b", Command: "none"})
	b.wantError("b", fault.UnknownCommand)
}
