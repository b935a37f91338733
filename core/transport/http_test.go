package transport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/transport"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const auth = "Authorization"

func TestRefusals(t *testing.T) {
	inBubble(t, func(h *house) {
		big := strings.Repeat(" ", wire.MaxBodyBytes+1)
		h.limits.refuse = []string{"203.0.113.9", "bob"}
		for name, c := range map[string]struct {
			method, path, body string
			header             []string
			from               string
			status             int
			code               fault.Code
		}{
			"nothing here":      {"GET", "/nothing", "", nil, "", 404, fault.InvalidRequest},
			"another method":    {"GET", "/auth/login", "", nil, "", 405, fault.InvalidRequest},
			"delete":            {"DELETE", "/messages", "", []string{auth, "Bearer " + token}, "", 405, fault.InvalidRequest},
			"post to ws":        {"POST", "/ws", "", []string{auth, "Bearer " + token}, "", 405, fault.InvalidRequest},
			"foreign host":      {"GET", "/healthz", "", []string{"Host", "evil.example"}, "", 421, fault.InvalidRequest},
			"host with port":    {"GET", "/healthz", "", []string{"Host", "chat.example:8080"}, "", 421, fault.InvalidRequest},
			"foreign origin":    {"GET", "/messages", "", []string{auth, "Bearer " + token, "Origin", "https://evil.example"}, "", 403, fault.Forbidden},
			"no token":          {"GET", "/messages", "", nil, "", 401, fault.AuthenticationFailed},
			"token in query":    {"GET", "/messages?token=" + token, "", nil, "", 401, fault.AuthenticationFailed},
			"bad token":         {"GET", "/commands", "", []string{auth, "Bearer bad"}, "", 401, fault.AuthenticationFailed},
			"body too large":    {"POST", "/auth/login", big, nil, "", 413, fault.TooLarge},
			"params too large":  {"POST", "/commands/ping", big, []string{auth, "Bearer " + token}, "", 413, fault.TooLarge},
			"bad JSON":          {"POST", "/auth/login", "{", nil, "", 400, fault.BadJSON},
			"two answers":       {"POST", "/auth/login?verify=maybe", "{}", nil, "", 400, fault.InvalidRequest},
			"too many sign-ins": {"POST", "/auth/login", `{"user_id":"alice"}`, nil, "203.0.113.9", 429, fault.RateLimited},
			"too many commands": {"POST", "/commands/ping", "", []string{auth, "Bearer t-bob"}, "", 429, fault.RateLimited},
			"unknown user":      {"GET", "/auth/users/nobody", "", []string{auth, "Bearer " + token}, "", 404, fault.UnknownUser},
			"no user id":        {"GET", "/auth/users/No%20One", "", []string{auth, "Bearer " + token}, "", 404, fault.UnknownUser},
			"bad command name":  {"POST", "/commands/No-Such", "", []string{auth, "Bearer " + token}, "", 400, fault.InvalidRequest},
			"bad key":           {"POST", "/commands/ping", "", []string{auth, "Bearer " + token, "Idempotency-Key", "a b"}, "", 400, fault.InvalidRequest},
			"params a list":     {"POST", "/commands/ping", "[]", []string{auth, "Bearer " + token}, "", 400, fault.BadJSON},
			"limit 0":           {"GET", "/messages?limit=0", "", []string{auth, "Bearer " + token}, "", 400, fault.InvalidRequest},
			"limit 501":         {"GET", "/messages?limit=501", "", []string{auth, "Bearer " + token}, "", 400, fault.InvalidRequest},
			"after -1":          {"GET", "/messages?after=-1", "", []string{auth, "Bearer " + token}, "", 400, fault.InvalidRequest},
			"after too large":   {"GET", "/messages?after=9007199254740992", "", []string{auth, "Bearer " + token}, "", 400, fault.InvalidRequest},
		} {
			h.from = "192.0.2.1"
			if c.from != "" {
				h.from = c.from
			}
			res, body := h.do(c.method, c.path, c.body, c.header...)
			t.Log(name, res.StatusCode, body)
			h.wantProblem(res, body, c.status, c.code)
			if c.status == 429 && (res.Header.Get("Retry-After") != "2" || !strings.Contains(body, `"retry_after_ms":1500`)) {
				t.Errorf("%s: got Retry-After %q and %s", name, res.Header.Get("Retry-After"), body)
			}
			if c.status == 405 && res.Header.Get("Allow") == "" {
				t.Errorf("%s: no Allow", name)
			}
			if res.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%s: got headers %v", name, res.Header)
			}
		}
	})
}

func TestPreflight(t *testing.T) {
	inBubble(t, func(h *house) {
		res, _ := h.do("OPTIONS", "/commands/ping", "", "Origin", "https://app.example", "Access-Control-Request-Method", "POST")
		got := map[string]string{}
		for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Allow-Credentials", "Vary"} {
			got[name] = res.Header.Get(name)
		}
		want := map[string]string{
			"Access-Control-Allow-Origin": "https://app.example", "Access-Control-Allow-Methods": "POST",
			"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key", "Access-Control-Allow-Credentials": "", "Vary": "Origin",
		}
		if diff := cmp.Diff(want, got); diff != "" || res.StatusCode != 204 {
			t.Errorf("status %d\n%s", res.StatusCode, diff)
		}
	})
}

func TestInternalErrorsStayInside(t *testing.T) {
	inBubble(t, func(h *house) {
		h.dispatch = func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) {
			return nil, errors.New("inner secret")
		}
		res, body := h.do("POST", "/commands/ping", "{}", auth, "Bearer "+token)
		p := h.wantProblem(res, body, 500, fault.Internal)
		_, rest, _ := strings.Cut(p.Detail, "reference ")
		reference, _, _ := strings.Cut(rest, " ")
		if strings.Contains(body, "secret") || len(reference) != 36 || !strings.Contains(h.log.String(), reference) || !strings.Contains(h.log.String(), "inner secret") {
			t.Errorf("got %s with the log\n%s", body, h.log.String())
		}
	})
}

func TestForwardedFor(t *testing.T) {
	inBubble(t, func(h *house) {
		for _, c := range []struct {
			from string
			xff  []string
			want string
		}{
			{"192.0.2.1", nil, "192.0.2.1"},
			{"192.0.2.1", []string{"203.0.113.5"}, "192.0.2.1"}, // nobody we trust wrote it
			{"10.0.0.1", nil, "10.0.0.1"},
			{"10.0.0.1", []string{"203.0.113.5"}, "203.0.113.5"},
			{"10.0.0.1", []string{"6.6.6.6, 203.0.113.5"}, "203.0.113.5"}, // the client wrote the first itself
			{"10.0.0.1", []string{"6.6.6.6, 203.0.113.5, 10.0.0.2"}, "203.0.113.5"},
			{"10.0.0.1", []string{"6.6.6.6", "203.0.113.5", "10.0.0.2"}, "203.0.113.5"},
			{"10.0.0.1", []string{"6.6.6.6, nonsense"}, "10.0.0.1"},
			{"10.0.0.1", []string{"nonsense, 10.0.0.9"}, "10.0.0.9"},
			{"10.0.0.1", []string{"::ffff:203.0.113.5"}, "203.0.113.5"},
			{"10.0.0.1", []string{"2001:db8::1"}, "2001:db8::1"},
			{"10.0.0.1", []string{""}, "10.0.0.1"},
		} {
			h.from = c.from
			var header []string
			for _, x := range c.xff {
				header = append(header, "X-Forwarded-For", x)
			}
			_, body := h.do("POST", "/auth/login?verify=true", `{"user_id":"alice","challenge":"YQ==","signature":"YQ=="}`, header...)
			if want := fmt.Sprintf("for alice at chat.example from %s\"", c.want); !strings.Contains(body, want) {
				t.Errorf("%s %q: got %s, want %s", c.from, c.xff, body, want)
			}
		}
	})
}

func TestMessagesPages(t *testing.T) {
	inBubble(t, func(h *house) {
		for seq := range uint64(7) {
			h.messages = append(h.messages, core.Message{From: "bob", To: "alice", ID: fmt.Sprint("m", seq+1), Seq: seq + 1, Content: "c", Timestamp: "t", ServerTime: time.Now()})
		}
		var got []uint64
		for after := uint64(0); ; {
			res, body := h.do("GET", fmt.Sprintf("/messages?after=%d&limit=3", after), "", auth, "Bearer "+token)
			var page wire.MessagesPage
			if err := wire.Unmarshal([]byte(body), &page); err != nil || res.StatusCode != 200 || page.LastSeq != 41 || len(page.Messages) > 3 {
				t.Fatalf("got %d %s: %v", res.StatusCode, body, err)
			}
			if len(page.Messages) == 0 {
				break
			}
			for _, raw := range page.Messages {
				f, err := wire.DecodeServer(raw)
				d, ok := f.(*wire.Direct)
				if err != nil || !ok || d.From != "bob" {
					t.Fatalf("got %s: %v", raw, err)
				}
				got = append(got, d.Seq)
				after = d.Seq
			}
		}
		if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6, 7}, got); diff != "" {
			t.Error(diff)
		}
		h.messages = nil
		if _, body := h.do("GET", "/messages", "", auth, "Bearer "+token); body != `{"messages":[],"last_seq":41}` {
			t.Errorf("got %s", body)
		}
	})
}

func TestActiveUsersPages(t *testing.T) {
	inBubble(t, func(h *house) {
		var want []string
		for i := range 5 {
			user := fmt.Sprintf("user%d", i)
			want = append(want, user)
			for range 2 {
				s := core.NewSession(user, core.Principal{UserID: user, Username: "N"}, nil, core.Remote{}, time.Now(), nil, nil)
				if err := h.hub.Add(s); err != nil {
					t.Fatal(err)
				}
				defer h.hub.Remove(s)
			}
		}
		var got []string
		for after, pages := "", 0; pages == 0 || after != ""; pages++ {
			_, body := h.do("GET", "/active-users?limit=2&after="+after, "", auth, "Bearer "+token)
			var page wire.ActiveUsers
			if err := wire.Unmarshal([]byte(body), &page); err != nil || page.Total != 5 || len(page.Users) > 2 || pages > 3 {
				t.Fatalf("got %s: %v", body, err)
			}
			for _, u := range page.Users {
				got = append(got, u.UserID)
			}
			after = page.Next
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCommandsOverHTTP(t *testing.T) {
	inBubble(t, func(h *house) {
		var call core.Call
		h.dispatch = func(_ context.Context, c *core.Call, progress func(core.Progress)) ([]byte, error) {
			call = *c
			progress(core.Progress{Data: []byte(`1`)})
			return []byte(`{"pong":true}`), nil
		}
		res, body := h.do("POST", "/commands/ping", `{"a":1}`, auth, "Bearer "+token, "Idempotency-Key", "my-id")
		if want := `{"id":"my-id","command":"ping","result":{"pong":true},"elapsed_ms":1}`; res.StatusCode != 200 || body != want {
			t.Errorf("got %d %s, want %s", res.StatusCode, body, want)
		}
		want := core.Call{ID: "my-id", Command: "ping", Params: []byte(`{"a":1}`), Caller: core.Caller{
			UserID: "alice", Username: "Alice", Roles: []string{"user"}, SessionID: "sid-a", RemoteAddr: "192.0.2.1", Surface: core.SurfaceHTTP}}
		if diff := cmp.Diff(want, call); diff != "" {
			t.Error(diff)
		}
		if _, _ = h.do("POST", "/commands/ping", "", auth, "Bearer "+token); string(call.Params) != "{}" || len(call.ID) != 36 {
			t.Errorf("got %+v for an empty body", call)
		}
		if _, body := h.do("GET", "/commands", "", auth, "Bearer "+token); !strings.Contains(body, `"summary":"alice by http"`) {
			t.Errorf("got %s", body)
		}
	})
}

func TestEventStream(t *testing.T) {
	inBubble(t, func(h *house) {
		h.dispatch = func(_ context.Context, _ *core.Call, progress func(core.Progress)) ([]byte, error) {
			for i := range 3 {
				progress(core.Progress{Data: fmt.Append(nil, i)})
			}
			return []byte("{\n \"done\": true\r\n}"), nil // over several lines, as an author may write it
		}
		header := []string{auth, "Bearer " + token, "Accept", "text/event-stream", "Idempotency-Key", "a"}
		res, body := h.do("POST", "/commands/ping", "", header...)
		want := ""
		for i := range 3 {
			want += fmt.Sprintf("event: progress\ndata: {\"type\":\"progress\",\"id\":\"a\",\"data\":%d}\n\n", i)
		}
		want += "event: response\ndata: {\"type\":\"response\",\"id\":\"a\",\"command\":\"ping\",\"result\":{  \"done\": true  },\"elapsed_ms\":1}\n\n"
		if diff := cmp.Diff(want, body); diff != "" || res.Header.Get("Content-Type") != "text/event-stream" {
			t.Error(res.Header, diff)
		}
		h.dispatch = func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) {
			return nil, fault.New(fault.CommandFailed, "No.")
		}
		if _, body := h.do("POST", "/commands/ping", "", header...); body != "event: error\ndata: {\"type\":\"error\",\"id\":\"a\",\"code\":\"command_failed\",\"message\":\"No.\"}\n\n" {
			t.Errorf("got %q", body)
		}
	})
}

// TestEventStreamEndsForAPeerThatDoesNotRead: the write deadline ends the call.
// Nobody else waits meanwhile: the command room stands between this surface and
// the plugin (core/command, TestProgressIsWholeOrNotAtAll).
func TestEventStreamEndsForAPeerThatDoesNotRead(t *testing.T) {
	inBubble(t, func(h *house) {
		told := make(chan time.Duration, 1)
		h.dispatch = func(ctx context.Context, _ *core.Call, progress func(core.Progress)) ([]byte, error) {
			start := time.Now()
			for ctx.Err() == nil {
				progress(core.Progress{Data: []byte(`"` + strings.Repeat("x", 10_000) + `"`)})
			}
			told <- time.Since(start)
			return nil, ctx.Err()
		}
		raw, err := h.ln.dial(h.from)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(raw, "POST /commands/ping HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n", token); err != nil {
			t.Fatal(err)
		}
		if took := <-told; took > 15*time.Second {
			t.Errorf("the call went on for %v for a peer that does not read, want at most the write deadline", took)
		}
		_ = raw.Close()
	})
}

// TestStopWaitsForPlainRequests: a command over HTTP may end within the grace.
func TestStopWaitsForPlainRequests(t *testing.T) {
	inBubble(t, func(h *house) {
		release, running := make(chan struct{}), make(chan struct{})
		h.dispatch = func(ctx context.Context, _ *core.Call, _ func(core.Progress)) ([]byte, error) {
			close(running)
			select {
			case <-release:
				return []byte(`1`), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		answered := make(chan string)
		go func() {
			_, body := h.do("POST", "/commands/ping", "", auth, "Bearer "+token)
			answered <- body
		}()
		<-running
		stopped := make(chan error, 1)
		go func() { stopped <- h.stop() }()
		time.Sleep(2 * time.Second)
		close(release)
		if body := <-answered; !strings.Contains(body, `"result":1`) {
			t.Errorf("got %s", body)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestStopEndsPlainRequests: one that does not end is cancelled, and waited for.
func TestStopEndsPlainRequests(t *testing.T) {
	inBubble(t, func(h *house) {
		ended := false
		running := make(chan struct{})
		h.dispatch = func(ctx context.Context, _ *core.Call, _ func(core.Progress)) ([]byte, error) {
			close(running)
			<-ctx.Done()
			time.Sleep(100 * time.Millisecond) // tidies up
			ended = true
			return nil, ctx.Err()
		}
		raw, err := h.ln.dial(h.from)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = bufio.NewReader(raw).ReadString(0) }()
		if _, err := fmt.Fprintf(raw, "POST /commands/ping HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n", token); err != nil {
			t.Fatal(err)
		}
		<-running
		start := time.Now()
		if err := h.stop(); err == nil || !ended || time.Since(start) > 6*time.Second {
			t.Errorf("got %v after %v and ended %v, want the deadline's error and the request ended", err, time.Since(start), ended)
		}
	})
}

// TestSlowRequestsAreCutOff: neither headers, nor a body, nor an answer may take
// for ever.
func TestSlowRequestsAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		send string
		most time.Duration
	}{
		"headers": {"POST /auth/login HTTP/1.1\r\nHost: chat", 5 * time.Second},
		"body":    {"POST /auth/login HTTP/1.1\r\nHost: chat.example\r\nContent-Length: 10\r\n\r\n{", 15 * time.Second},
		"answer":  {"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n", 15 * time.Second},
		"idle":    {"", 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *house) {
				raw, err := h.ln.dial(h.from)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := raw.Write([]byte(c.send)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(c.most + time.Second)
				synctest.Wait()
				_ = raw.SetReadDeadline(time.Now().Add(time.Second))
				for buf := make([]byte, 4096); err == nil; {
					_, err = raw.Read(buf)
				}
				if timeout, ok := err.(interface{ Timeout() bool }); ok && timeout.Timeout() {
					t.Errorf("still there after %v", c.most+time.Second)
				}
				_ = raw.Close()
			})
		})
	}
}

func TestTokensAreNotLogged(t *testing.T) {
	inBubble(t, func(h *house) { // the house's end looks through the log
		for _, path := range []string{"/ws?token=" + token, "/messages?token=" + token, "/ws"} {
			h.do("GET", path, "", auth, "Bearer "+token+"x", "Sec-WebSocket-Protocol", "bearer."+token, "User-Agent", "a\tb\u009b")
		}
		p, _, err := h.tryDial("/ws?token="+token, http.Header{"User-Agent": {"evil\u009b31m" + strings.Repeat("x", 300)}}, wire.Protocol)
		if err != nil {
			t.Fatal(err)
		}
		p.read()
		synctest.Wait()
		if agent := h.session("alice").Remote.UserAgent; len(agent) > 256 || strings.ContainsRune(agent, '\u009b') {
			t.Errorf("got user agent %q", agent)
		}
		_ = p.raw.Close()
	}, func(o *transport.Options) { o.TrustedProxies = []netip.Prefix{} })
}
