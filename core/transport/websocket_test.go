package transport_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/transport"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// inBubble runs a test in synthetic time and stops its house at the end.
func inBubble(t *testing.T, test func(h *house), change ...func(*transport.Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, change...)
		defer h.close()
		test(h)
	})
}

func TestWelcomeIsFirst(t *testing.T) {
	inBubble(t, func(h *house) {
		gate := make(chan struct{})
		h.mailbox = func() (core.Mailbox, error) { <-gate; return core.Mailbox{LastSeq: 41, AckedSeq: 39}, nil }
		// A token near its end: its notice is due before the store has answered.
		p := h.tokens[token]
		p.IssuedAt = time.Now().Add(-59 * time.Minute)
		p.ExpiresAt = time.Now().Add(time.Minute)
		h.tokens[token] = p
		c, _, err := h.tryDial("/ws", bearer(token), wire.Protocol)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		close(gate)
		got := c.read()
		f, err := wire.DecodeServer([]byte(got))
		if err != nil {
			t.Fatal(err)
		}
		w, ok := f.(*wire.Welcome)
		if !ok {
			t.Fatalf("got %s first, want the welcome", got)
		}
		if w.Protocol != wire.Protocol || w.UserID != "alice" || w.SessionID != "sid-a" || w.Server != "plugboard/1.0.0" || w.Node != "n1" ||
			w.LastSeq != 41 || w.AckedSeq != 39 || w.HeartbeatMS != 30000 || w.TokenExpiresAt != wire.FormatTime(p.ExpiresAt) ||
			w.Limits != (wire.Limits{MaxFrameBytes: 65536, Rate: 10, Burst: 20}) {
			t.Errorf("got %s", got)
		}
		if got := c.read(); !strings.Contains(got, `"token_expiring"`) {
			t.Errorf("got %s, want the notice behind the welcome", got)
		}
		if s := h.session("alice"); s.Delivered != 39 || s.Acked != 39 || <-h.woken != "alice" {
			t.Errorf("got delivered %d and acked %d, want 39 and delivery told", s.Delivered, s.Acked)
		}
		c.send(websocket.TextMessage, "x")
		if got := c.read(); got != "echo x" {
			t.Errorf("got %q", got)
		}
		_ = c.ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
		c.wantClosed(1000)
		synctest.Wait()
		if sessions, _ := h.hub.Count(); sessions != 0 || len(h.rows) != 2 || h.rows[1].EndedAt.IsZero() {
			t.Errorf("got %d sessions and rows %+v after the end", sessions, h.rows)
		}
	})
}

func TestTokenWays(t *testing.T) {
	inBubble(t, func(h *house) {
		for name, c := range map[string]struct {
			path      string
			header    http.Header
			protocols []string
		}{
			"header":      {"/ws", bearer(token), []string{wire.Protocol}},
			"subprotocol": {"/ws", nil, []string{wire.Protocol, "bearer." + token}},
			"query":       {"/ws?token=" + token, nil, []string{wire.Protocol}},
			"preference":  {"/ws?token=bad", bearer(token), []string{wire.Protocol, "bearer.bad"}},
			"own origin":  {"/ws", http.Header{"Authorization": {"Bearer " + token}, "Origin": {"http://chat.example"}}, []string{wire.Protocol}},
			"app origin":  {"/ws", http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://app.example"}}, []string{wire.Protocol}},
		} {
			p, res, err := h.tryDial(c.path, c.header, c.protocols...)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := res.Header.Values("Sec-Websocket-Protocol"); len(got) != 1 || got[0] != wire.Protocol {
				t.Errorf("%s: got subprotocol %q, want %s alone", name, got, wire.Protocol)
			}
			if ext := res.Header.Get("Sec-Websocket-Extensions"); ext != "" {
				t.Errorf("%s: got extensions %q, want none", name, ext)
			}
			_ = p.ws.Close()
		}
	})
}

func TestHandshakeRefusals(t *testing.T) {
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for name, c := range map[string]struct {
		path   string
		header []string
		status int
		code   fault.Code
		change func(*transport.Options)
		before func(*house)
	}{
		"no token":          {path: "/ws", status: 401, code: fault.AuthenticationFailed},
		"bad token":         {path: "/ws", header: []string{"Authorization", "Bearer bad"}, status: 401, code: fault.AuthenticationFailed},
		"other scheme":      {path: "/ws", header: []string{"Authorization", "Basic " + token}, status: 401, code: fault.AuthenticationFailed},
		"empty subprotocol": {path: "/ws", header: []string{"Sec-WebSocket-Protocol", "plugboard.v1, bearer."}, status: 401, code: fault.AuthenticationFailed},
		"query off": {path: "/ws?token=" + token, status: 401, code: fault.AuthenticationFailed,
			change: func(o *transport.Options) { o.QueryToken = false }},
		"foreign origin": {path: "/ws", header: []string{"Authorization", "Bearer " + token, "Origin", "https://evil.example"}, status: 403, code: fault.Forbidden},
		"null origin":    {path: "/ws", header: []string{"Authorization", "Bearer " + token, "Origin", "null"}, status: 403, code: fault.Forbidden},
		"origin prefix":  {path: "/ws", header: []string{"Authorization", "Bearer " + token, "Origin", "https://app.example.evil"}, status: 403, code: fault.Forbidden},
		"foreign host":   {path: "/ws", header: []string{"Authorization", "Bearer " + token, "Host", "evil.example"}, status: 421, code: fault.InvalidRequest},
		"other protocol": {path: "/ws", header: []string{"Authorization", "Bearer " + token, "Sec-WebSocket-Protocol", "plugboard.v9"}, status: 400, code: fault.InvalidRequest},
		"full": {path: "/ws", header: []string{"Authorization", "Bearer " + token}, status: 429, code: fault.RateLimited,
			change: func(o *transport.Options) { o.Connections = 0 }},
		"expired": {path: "/ws", header: []string{"Authorization", "Bearer " + token}, status: 401, code: fault.TokenExpired,
			before: func(*house) { time.Sleep(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*transport.Options) {}
			}
			inBubble(t, func(h *house) {
				if c.before != nil {
					c.before(h)
				}
				res, body := h.do("GET", c.path, "", append(c.header, upgrade...)...)
				h.wantProblem(res, body, c.status, c.code)
				if want := map[bool]string{true: `Bearer realm="plugboard"`}[c.status == 401]; res.Header.Get("WWW-Authenticate") != want {
					t.Errorf("got WWW-Authenticate %q, want %q", res.Header.Get("WWW-Authenticate"), want)
				}
			}, change)
		})
	}
	inBubble(t, func(h *house) { // good but for the upgrade
		res, body := h.do("GET", "/ws", "", "Authorization", "Bearer "+token)
		h.wantProblem(res, body, 400, fault.InvalidRequest)
	})
}

func TestCaps(t *testing.T) {
	inBubble(t, func(h *house) {
		a, b := h.dial(token), h.dial(token)
		_, res, err := h.tryDial("/ws", bearer(token))
		if err == nil || res.StatusCode != 429 {
			t.Fatalf("got %v, want 429 for a third connection of a user", err)
		}
		c := h.dial("t-bob")
		h.mu.Lock() // bob's connection may still be looking
		h.tokens["t-carol"] = core.Principal{UserID: "carol", ExpiresAt: time.Now().Add(time.Hour)}
		h.mu.Unlock()
		if _, res, err = h.tryDial("/ws", bearer("t-carol")); err == nil || res.StatusCode != 429 {
			t.Fatalf("got %v, want 429 for a fourth connection of an address", err)
		}
		h.from = "198.51.100.7"
		d := h.dial("t-carol")
		_ = b.raw.Close() // a place is free again however a connection ended
		synctest.Wait()
		h.dial(token).raw.Close()
		for _, p := range []*peer{a, c, d} {
			_ = p.raw.Close()
		}
	}, func(o *transport.Options) { o.PerUser, o.PerAddress = 2, 3 })
}

func TestRevokedDuringTheHandshake(t *testing.T) {
	inBubble(t, func(h *house) {
		h.revoked[token] = true
		h.dial(token).wantClosed(4002)
	})
}

func TestStoreFailsAtTheWelcome(t *testing.T) {
	inBubble(t, func(h *house) {
		h.mailbox = func() (core.Mailbox, error) { return core.Mailbox{}, errors.New("disk") }
		c, _, err := h.tryDial("/ws", bearer(token), wire.Protocol)
		if err != nil {
			t.Fatal(err)
		}
		if frames := c.wantClosed(1011); len(frames) != 0 {
			t.Errorf("got %q", frames)
		}
	})
}

func TestHeartbeat(t *testing.T) {
	inBubble(t, func(h *house) {
		start := time.Now()
		c := h.dial(token)
		var pings []time.Duration
		c.ws.SetPingHandler(func(string) error {
			pings = append(pings, time.Since(start))
			if len(pings) < 4 {
				return c.ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
			}
			return nil // silent from the fourth on
		})
		c.wantClosed(0)
		for i, at := range pings {
			if want := time.Duration(i+1) * 30 * time.Second; at != want {
				t.Errorf("ping %d came after %v, want %v", i+1, at, want)
			}
		}
		if got, want := time.Since(start), 150*time.Second; got != want { // two heartbeats after the third pong
			t.Errorf("gone after %v, want %v", got, want)
		}
	})
}

func TestPongsAnswerPings(t *testing.T) {
	inBubble(t, func(h *house) {
		c := h.dial(token)
		got := make(chan string, 100)
		c.ws.SetPongHandler(func(payload string) error { got <- payload; return nil })
		done := make(chan int)
		go func() { _, code := c.end(); done <- code }()
		for range 50 {
			if err := c.ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(got) == 0 || <-got != "hello" {
			t.Error("a ping was not answered")
		}
		time.Sleep(2 * time.Second)
		for range 51 { // more than anybody could mean
			_ = c.ws.WriteControl(websocket.PingMessage, nil, time.Time{})
		}
		if code := <-done; code != 1008 {
			t.Errorf("got close code %d, want 1008", code)
		}
	})
}

func TestFramesThatEndTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		kind int
		data string
		code int
	}{
		"binary":    {websocket.BinaryMessage, "x", 1003},
		"not UTF-8": {websocket.TextMessage, "\xff\xfe", 1007},
		"too large": {websocket.TextMessage, strings.Repeat("x", 64<<10+1), 1009},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *house) {
				p := h.dial(token)
				go func() { _ = p.ws.WriteMessage(c.kind, []byte(c.data)) }() // the pipe ends under a frame that is too large
				start := time.Now()
				p.wantClosed(c.code)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("closing took %v", took)
				}
				synctest.Wait()
			})
		})
	}
	inBubble(t, func(h *house) {
		p := h.dial(token)
		p.send(websocket.TextMessage, strings.Repeat("x", 64<<10)) // just fits
		if got := p.read(); len(got) != 64<<10+len("echo ") {
			t.Errorf("got %d bytes", len(got))
		}
		_, _ = p.raw.Write([]byte{0x83, 0x80, 0, 0, 0, 0}) // a reserved opcode
		p.wantClosed(1002)
	})
}

// TestTooLargeBehindAnswers: the close frame is not lost to answers that are still
// being written.
func TestTooLargeBehindAnswers(t *testing.T) {
	inBubble(t, func(h *house) {
		p := h.dial(token)
		for range 10 {
			p.send(websocket.TextMessage, "x")
		}
		go func() { _ = p.ws.WriteMessage(websocket.TextMessage, make([]byte, 64<<10+1)) }()
		time.Sleep(100 * time.Millisecond)
		p.wantClosed(1009)
		synctest.Wait()
	})
}

func TestFragmentsWithoutEnd(t *testing.T) {
	inBubble(t, func(h *house) {
		p := h.dial(token)
		start := time.Now()
		p.ws.SetPingHandler(func(string) error { return nil }) // no pong: fragments are no sign of life
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, err := p.raw.Write([]byte{0x01, 0x80, 0, 0, 0, 0})
			for err == nil {
				time.Sleep(time.Second)
				_, err = p.raw.Write([]byte{0x00, 0x80, 0, 0, 0, 0})
			}
		}()
		p.wantClosed(0)
		if got := time.Since(start); got != 60*time.Second {
			t.Errorf("gone after %v, want two heartbeats", got)
		}
		<-gone
	})
}

func TestTokenExpiry(t *testing.T) {
	inBubble(t, func(h *house) {
		start := time.Now()
		c := h.dial(token)
		if got := c.read(); !strings.Contains(got, `"code":"token_expiring"`) || !strings.Contains(got, wire.FormatTime(start.Add(time.Hour))) {
			t.Errorf("got %s, want the notice", got)
		}
		if at := time.Since(start); at < 54*time.Minute || at > 54*time.Minute+time.Second {
			t.Errorf("notice after %v, want 90%% of an hour", at)
		}
		// Renewed by an auth frame, as router does.
		h.session("alice").Renew(core.Principal{UserID: "alice", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
		renewed := time.Now()
		if got := c.read(); !strings.Contains(got, `"code":"token_expiring"`) || time.Since(renewed) < 54*time.Minute {
			t.Errorf("got %s after %v, want the notice for the new token", got, time.Since(renewed))
		}
		if frames := c.wantClosed(4001); len(frames) != 0 {
			t.Errorf("got %q, want nothing more", frames)
		}
		if at := time.Since(renewed); at < time.Hour || at > time.Hour+time.Second {
			t.Errorf("closed after %v, want an hour", at)
		}
	})
}

func TestSlowConsumerOfAnswers(t *testing.T) {
	inBubble(t, func(h *house) {
		c := h.dial(token)
		s := h.session("alice")
		for range 18 { // one is in the writer's hands, 16 wait
			synctest.Wait()
			s.Outbox.Answer(&core.Encoded{JSON: []byte("answer")})
		}
		frames := c.wantClosed(1013)
		if len(frames) > 1 {
			t.Errorf("got %d frames of a queue that was given up", len(frames))
		}
	})
}

func TestFullQueueRefusesOffersAndWakesLater(t *testing.T) {
	inBubble(t, func(h *house) {
		c := h.dial(token)
		synctest.Wait()
		<-h.woken
		s := h.session("alice")
		if got := s.Outbox.Room(); got != 12 {
			t.Errorf("got room for %d, want three quarters of 16", got)
		}
		s.Outbox.Offer(&core.Encoded{JSON: []byte("0")})
		synctest.Wait() // in the writer's hands
		for i := range 12 {
			if !s.Outbox.Offer(&core.Encoded{JSON: []byte("x")}) {
				t.Fatalf("offer %d was refused", i)
			}
		}
		if s.Outbox.Offer(&core.Encoded{JSON: []byte("y")}) || s.Outbox.Room() != 0 {
			t.Fatal("a full queue took another frame")
		}
		s.Outbox.Answer(&core.Encoded{JSON: []byte("answer")}) // its places are kept
		for range 4 {
			c.read()
		}
		synctest.Wait()
		if len(h.woken) != 0 {
			t.Error("delivery was woken for hardly any room")
		}
		for range 10 {
			c.read()
		}
		synctest.Wait()
		if len(h.woken) != 1 {
			t.Errorf("delivery was woken %d times, want once", len(h.woken))
		}
		if got := s.Outbox.Room(); got != 12 {
			t.Errorf("got room for %d again, want 12", got)
		}
		_ = c.raw.Close()
	})
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	inBubble(t, func(h *house) {
		c := h.dial(token)
		s := h.session("alice")
		large := &core.Encoded{JSON: []byte(strings.Repeat("x", 1<<20))}
		s.Outbox.Offer(large)
		synctest.Wait()
		if !s.Outbox.Offer(large) || s.Outbox.Offer(&core.Encoded{JSON: []byte("y")}) {
			t.Error("want one large frame waiting, and no more")
		}
		c.read()
		c.read()
		if !s.Outbox.Offer(&core.Encoded{JSON: []byte("y")}) || c.read() != "y" {
			t.Error("no room though the queue is empty")
		}
		_ = c.raw.Close()
	})
}

func TestSharedFrames(t *testing.T) {
	inBubble(t, func(h *house) {
		a, b := h.dial(token), h.dial("t-bob")
		frame := &core.Encoded{JSON: []byte(`{"type":"broadcast"}`), Shared: true}
		for _, user := range []string{"alice", "bob"} {
			h.session(user).Outbox.Offer(frame)
		}
		if a.read() != string(frame.JSON) || b.read() != string(frame.JSON) {
			t.Error("a shared frame did not arrive")
		}
		_, _ = a.raw.Close(), b.raw.Close()
	})
}

func TestStopTellsFinishesAndCloses(t *testing.T) {
	inBubble(t, func(h *house) {
		release := make(chan struct{})
		h.handle = func(_ context.Context, s *core.Session, frame []byte) {
			id := string(frame)
			err := s.Calls.Start(id, func(context.Context) {
				<-release
				s.Outbox.Answer(&core.Encoded{JSON: []byte("done " + id)})
			})
			if err != nil {
				s.Outbox.Answer(core.Encode(&wire.ErrorFrame{ID: id, Fault: fault.From(err, "")}))
			}
		}
		c := h.dial(token)
		c.send(websocket.TextMessage, "first")
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- h.stop() }()
		if got := c.read(); !strings.Contains(got, `"code":"draining"`) || !strings.Contains(got, `"reconnect_after_ms":`) {
			t.Errorf("got %s, want the draining notice", got)
		}
		c.send(websocket.TextMessage, "second")
		if got := c.read(); !strings.Contains(got, `"shutting_down"`) {
			t.Errorf("got %s, want shutting_down", got)
		}
		time.Sleep(time.Second)
		close(release)
		if frames := c.wantClosed(1001); len(frames) != 1 || frames[0] != "done first" {
			t.Errorf("got %q, want the answer of the running command", frames)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestStopCancelsWhatDoesNotEnd(t *testing.T) {
	inBubble(t, func(h *house) {
		h.handle = func(_ context.Context, s *core.Session, frame []byte) {
			_ = s.Calls.Start(string(frame), func(ctx context.Context) { <-ctx.Done() })
		}
		c := h.dial(token)
		c.send(websocket.TextMessage, "for ever")
		synctest.Wait()
		start := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- h.stop() }()
		c.wantClosed(1001)
		if err := <-stopped; err != nil || time.Since(start) > 5*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestStopWithPeersThatNeverRead(t *testing.T) {
	inBubble(t, func(h *house) {
		var peers []*peer
		for range 3 {
			peers = append(peers, h.dial(token))
		}
		start := time.Now()
		err := h.stop()
		if err == nil || !strings.Contains(err.Error(), "3 connections did not close in time") {
			t.Errorf("got %v, want to hear of 3 connections", err)
		}
		if took := time.Since(start); took > 5*time.Second+100*time.Millisecond {
			t.Errorf("stop took %v, want the deadline", took)
		}
		for _, p := range peers {
			_ = p.raw.Close()
		}
	})
}

func TestStopWithPeersThatDoNotAnswerTheClose(t *testing.T) {
	inBubble(t, func(h *house) {
		c := h.dial(token)
		drained := make(chan struct{})
		go func() { // reads bytes and never answers
			defer close(drained)
			buf := make([]byte, 1024)
			for {
				if _, err := c.raw.Read(buf); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		if err := h.stop(); err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("got %v after %v, want none after the closing grace", err, time.Since(start))
		}
		<-drained
	})
}

func TestStoppingRefusesNewConnections(t *testing.T) {
	inBubble(t, func(h *house) {
		gate := make(chan struct{})
		h.mailbox = func() (core.Mailbox, error) { <-gate; return core.Mailbox{}, nil }
		c, _, err := h.tryDial("/ws", bearer(token)) // on its way in when the stop comes
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- h.stop() }()
		synctest.Wait()
		close(gate)
		for _, frame := range c.wantClosed(1001) {
			if !strings.HasPrefix(frame, `{"type":"welcome"`) {
				t.Errorf("got %s", frame)
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if _, err := h.ln.dial("192.0.2.1"); err == nil {
			t.Error("the listener is still open")
		}
	})
}
