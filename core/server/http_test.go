package server_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// newBareServer is a server without plugins, which starts faster.
func newBareServer(t testing.TB, env ...string) *host {
	t.Helper()
	return newServer(t, append([]string{"PLUGBOARD_PLUGINS__DIR=" + t.TempDir()}, env...)...)
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// exchange sends a request exactly as it is written and reads the answer.
func (h *host) exchange(text string) answer {
	h.t.Helper()
	conn, err := net.Dial("tcp", h.name())
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(waitLimit))
	if _, err := io.WriteString(conn, text); err != nil {
		h.t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		h.t.Fatalf("%q: %v", text, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, body}
}

// request is a request as it is written on the wire; headers are whole lines.
func (h *host) request(method, target, hostName string, headers ...string) answer {
	h.t.Helper()
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: " + hostName, "Connection: close"}, headers...)
	return h.exchange(strings.Join(lines, "\r\n") + "\r\n\r\n")
}

// wantRefused checks status, media type and every member of a problem document.
func (h *host) wantRefused(what string, a answer, status int, code fault.Code) {
	h.t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		Code                fault.Code
	}
	err := json.Unmarshal(a.body, &p)
	if err != nil || a.status != status || p.Status != status || p.Code != code || p.Type == "" || p.Title == "" || p.Detail == "" ||
		a.header.Get("Content-Type") != "application/problem+json" {
		h.t.Errorf("%s: got %d %s %s (%v), want the problem %d %s", what, a.status, a.header.Get("Content-Type"), a.body, err, status, code)
	}
}

var upgrade = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}

// After DNS rebinding the Origin proves nothing: the Host is looked at on every
// path there is, also on those that are no route or are spelled in an odd way.
func TestAForeignHostIsMisdirectedEverywhere(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	paths := []string{
		"/", "/ws", "/auth/register", "/auth/login", "/auth/login?verify=true", "/auth/logout", "/auth/users/alice", "/auth/keys", "/active-users",
		"/messages", "/commands", "/commands/ping", "/healthz", "/readyz", "/metrics", "/mcp", "/nothing",
		"//ws", "/./ws", "/x/../healthz", "/auth//login", "/ws/", "/commands/", "//", "/%2e%2e/ws", "/%2fws",
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			for _, foreign := range []string{"evil.example", "evil.example:" + h.name()[strings.LastIndex(h.name(), ":")+1:], "localhost.evil.example", "127.0.0.1.evil.example", "a b", ""} {
				headers := []string{"Content-Length: 0"}
				if method == "GET" && strings.Contains(path, "ws") {
					headers = upgrade
				}
				a := h.request(method, path, foreign, headers...)
				if foreign == "a b" && a.status == http.StatusBadRequest {
					continue // no Host at all: net/http refuses it before anybody is asked
				}
				h.wantRefused(method+" "+path+" for "+foreign, a, http.StatusMisdirectedRequest, fault.InvalidRequest)
				if location := a.header.Get("Location"); location != "" {
					t.Errorf("%s %s for %s: redirects to %s", method, path, foreign, location)
				}
			}
		}
	}
	for _, text := range []string{
		"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
		"GET http://evil.example/healthz HTTP/1.1\r\nHost: " + h.name() + "\r\nConnection: close\r\n\r\n",
		"GET /healthz HTTP/1.0\r\n\r\n",
	} {
		h.wantRefused(text, h.exchange(text), http.StatusMisdirectedRequest, fault.InvalidRequest)
	}
	for _, own := range []string{"localhost", "LocalHost:1", "127.0.0.1:80", "[::1]:8080"} { // with port 0 configured loopback names stand for any port
		if a := h.request("GET", "/healthz", own); a.status != http.StatusOK {
			t.Errorf("Host %s: got %d %s, want 200", own, a.status, a.body)
		}
	}
}

func TestPathsAndMethodsThatAreNoRoute(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	for _, path := range []string{"/", "/nothing", "//healthz", "/./healthz", "/x/../healthz", "/healthz/", "/auth//login", "/auth", "/commands/", "/commands/a/b", "/Healthz", "/metrics", "/debug/pprof/"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			h.wantRefused(method+" "+path, h.request(method, path, h.name(), "Content-Length: 0"), http.StatusNotFound, fault.InvalidRequest)
		}
	}
	for _, c := range []struct{ path, allow string }{
		{"/auth/register", "POST"}, {"/auth/login", "POST"}, {"/auth/logout", "POST"}, {"/auth/users/alice", "GET"}, {"/auth/keys", "PUT"},
		{"/active-users", "GET"}, {"/messages", "GET"}, {"/commands", "GET"}, {"/commands/ping", "POST"}, {"/healthz", "GET"}, {"/readyz", "GET"}, {"/ws", "GET"},
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "BREW"} {
			if method == c.allow {
				continue
			}
			a := h.request(method, c.path, h.name(), "Content-Length: 0")
			h.wantRefused(method+" "+c.path, a, http.StatusMethodNotAllowed, fault.InvalidRequest)
			if got := a.header.Get("Allow"); got != c.allow {
				t.Errorf("%s %s: got Allow %q, want %q", method, c.path, got, c.allow)
			}
		}
	}
}

func TestCrossOriginRequests(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_SERVER__ALLOWED_ORIGINS=https://app.example,http://dev.example:3000")
	for _, c := range []struct{ path, methods string }{
		{"/auth/register", "POST"}, {"/auth/keys", "PUT"}, {"/messages", "GET"}, {"/commands/ping", "POST"},
	} {
		for _, origin := range []string{"https://app.example", "http://dev.example:3000", h.base} {
			a := h.request("OPTIONS", c.path, h.name(), "Origin: "+origin, "Access-Control-Request-Method: "+c.methods)
			got := []string{a.header.Get("Access-Control-Allow-Origin"), a.header.Get("Access-Control-Allow-Methods"),
				a.header.Get("Access-Control-Allow-Headers"), a.header.Get("Access-Control-Allow-Credentials"), a.header.Get("Vary")}
			want := []string{origin, c.methods, "Authorization, Content-Type, Idempotency-Key", "", "Origin"}
			if diff := cmp.Diff(want, got); diff != "" || a.status != http.StatusNoContent {
				t.Errorf("preflight of %s from %s: %d\n%s", c.path, origin, a.status, diff)
			}
		}
		for _, origin := range []string{
			"http://app.example", "https://app.example:444", "https://app.example.evil", "https://evil.app.example", "https://APP.example", "null",
			"http://dev.example", "https://" + h.name(), "http://localhost:1",
		} {
			for _, method := range []string{"OPTIONS", c.methods} {
				a := h.request(method, c.path, h.name(), "Origin: "+origin, "Content-Length: 0")
				h.wantRefused(method+" "+c.path+" from "+origin, a, http.StatusForbidden, fault.Forbidden)
				if got := a.header.Get("Access-Control-Allow-Origin"); got != "" {
					t.Errorf("%s from %s: got Access-Control-Allow-Origin %q, want none", c.path, origin, got)
				}
			}
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	h := newServer(t)
	alice := h.person("alice")
	for _, c := range []struct{ method, path, token string }{
		{"POST", "/auth/register", ""}, {"POST", "/auth/login", ""}, {"POST", "/auth/login?verify=true", ""},
		{"PUT", "/auth/keys", alice.token}, {"POST", "/commands/echo", alice.token}, {"POST", "/auth/logout", alice.token},
	} {
		status, body := h.do(c.method, c.path, c.token, `{"a":"`+strings.Repeat("x", wire.MaxBodyBytes-7)+`"}`) // one byte too many
		h.wantProblem(status, body, http.StatusRequestEntityTooLarge, fault.TooLarge)
	}
	// In chunks, without a length that could be believed.
	req, err := http.NewRequest(http.MethodPost, h.base+"/auth/login", io.MultiReader(strings.NewReader(`{"user_id":"`), strings.NewReader(strings.Repeat("a", 80<<10))))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	h.wantProblem(res.StatusCode, body, http.StatusRequestEntityTooLarge, fault.TooLarge)
	status, body := h.do("POST", "/commands/echo", alice.token, `{"a":"`+strings.Repeat("x", 60<<10)+`"}`)
	if status != http.StatusOK {
		t.Errorf("a body that fits: got %d %.200s, want 200", status, body)
	}
}

// Signing in tells nothing about who exists, nor why it failed.
func TestSignInsFailAlike(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob, nobody := h.person("alice"), h.person("bob"), h.stranger("nobody")
	challenge := func(p *person) (c wire.Challenge) {
		status, body := h.do("POST", "/auth/login", "", &wire.LoginRequest{UserID: p.id})
		var members map[string]any
		if err := json.Unmarshal(body, &members); err != nil || status != http.StatusOK || len(members) != 2 {
			t.Fatalf("%s: got %d %s, want a challenge", p.id, status, body)
		}
		if err := wire.Unmarshal(body, &c); err != nil || len(c.Challenge) != 57 {
			t.Errorf("%s: got %s (%v), want 57 bytes", p.id, body, err)
		}
		at, err := wire.ParseTime(c.ExpiresAt)
		if left := time.Until(at); err != nil || left > time.Minute || left < 50*time.Second {
			t.Errorf("got expires_at %s, want a minute from now", c.ExpiresAt)
		}
		return c
	}
	sign := func(p *person, host, user string, c wire.Challenge) []byte {
		return ed25519.Sign(p.sign, e2ee.LoginTranscript(host, user, c.Challenge, c.ExpiresAt))
	}
	name := h.name()
	c, other := challenge(alice), challenge(bob)
	used := challenge(alice)
	if status, body := h.do("POST", "/auth/login?verify=true", "", &wire.LoginRequest{UserID: "alice", Challenge: used.Challenge, Signature: sign(alice, name, "alice", used)}); status != http.StatusOK {
		t.Fatalf("got %d %s, want 200", status, body)
	}
	unknown := challenge(nobody)
	forged := wire.Challenge{Challenge: slices.Clone(c.Challenge), ExpiresAt: c.ExpiresAt}
	forged.Challenge[20] ^= 1
	random := make([]byte, 57)
	_, _ = rand.Read(random)
	var words []byte
	for what, r := range map[string]*wire.LoginRequest{
		"unknown user":            {UserID: "nobody", Challenge: unknown.Challenge, Signature: sign(nobody, name, "nobody", unknown)},
		"other key":               {UserID: "alice", Challenge: c.Challenge, Signature: sign(bob, name, "alice", c)},
		"used":                    {UserID: "alice", Challenge: used.Challenge, Signature: sign(alice, name, "alice", used)},
		"another user's":          {UserID: "alice", Challenge: other.Challenge, Signature: sign(alice, name, "alice", other)},
		"forged":                  {UserID: "alice", Challenge: forged.Challenge, Signature: sign(alice, name, "alice", forged)},
		"made up":                 {UserID: "alice", Challenge: random, Signature: make([]byte, 64)},
		"other host":              {UserID: "alice", Challenge: c.Challenge, Signature: sign(alice, "other.example", "alice", c)},
		"short signature":         {UserID: "alice", Challenge: c.Challenge, Signature: make([]byte, 63)},
		"long challenge":          {UserID: "bob", Challenge: make([]byte, 300), Signature: make([]byte, 64)},
		"short challenge":         {UserID: "bob", Challenge: []byte{1}, Signature: make([]byte, 64)},
		"the reserved name":       {UserID: "server", Challenge: c.Challenge, Signature: make([]byte, 64)},
		"unknown and no solution": {UserID: "nobody", Challenge: unknown.Challenge, Signature: make([]byte, 64)},
	} {
		status, body := h.do("POST", "/auth/login?verify=true", "", r)
		if h.wantProblem(status, body, http.StatusUnauthorized, fault.AuthenticationFailed); t.Failed() {
			t.Fatal(what)
		}
		if words == nil {
			words = body
		}
		if !bytes.Equal(body, words) {
			t.Errorf("%s: got %s, want %s", what, body, words)
		}
	}
	// Alice's own challenge is still good: nobody used it up.
	if status, body := h.do("POST", "/auth/login?verify=true", "", &wire.LoginRequest{UserID: "alice", Challenge: c.Challenge, Signature: sign(alice, name, "alice", c)}); status != http.StatusOK {
		t.Errorf("got %d %s, want 200", status, body)
	}
	for _, body := range []string{`{}`, `{"user_id":7}`, `{"user_id":"A"}`, `[]`, ``, `{"user_id":"alice","user_id":"bob"}`, `{"user_id":"alice","USER_ID":"bob"}`} {
		if status, got := h.do("POST", "/auth/login", "", body); status != http.StatusBadRequest {
			t.Errorf("%s: got %d %s, want 400", body, status, got)
		}
	}
}

// Ten failures a minute for one user, whether or not there is such a user; the
// right key is held up as well, but only from that address.
func TestFailedSignInsAreLimitedAlike(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	h.person("alice")
	for _, user := range []string{"alice", "nobody"} {
		for i := range 12 {
			status, body := h.do("POST", "/auth/login?verify=true", "", &wire.LoginRequest{UserID: user, Challenge: make([]byte, 57), Signature: make([]byte, 64)})
			if i < 10 {
				h.wantProblem(status, body, http.StatusUnauthorized, fault.AuthenticationFailed)
			} else {
				h.wantProblem(status, body, http.StatusTooManyRequests, fault.RateLimited)
			}
		}
	}
}

func TestActiveUsersAndMessagesComeInPages(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, "PLUGBOARD_MESSAGES__REQUIRE_ENCRYPTION=false")
	names := []string{"a1", "a2", "a3", "a4", "a5"}
	var alice *person
	var l *line
	for _, name := range names {
		alice = h.person(name)
		l = alice.connect()
	}
	h.person("away")
	alice.connect() // twice there, listed once
	var got []string
	after := ""
	for pages := 0; ; pages++ {
		status, body := h.do("GET", "/active-users?limit=2&after="+after, alice.token, nil)
		var page struct {
			Users []struct {
				UserID         string `json:"user_id"`
				Username       string `json:"username"`
				ConnectedSince string `json:"connected_since"`
			}
			Total int
			Next  string
		}
		if err := json.Unmarshal(body, &page); err != nil || status != http.StatusOK || page.Total != len(names) || pages > 3 {
			t.Fatalf("got %d %s (%v)", status, body, err)
		}
		for _, u := range page.Users {
			if _, err := wire.ParseTime(u.ConnectedSince); err != nil || u.Username == "" {
				t.Errorf("got %+v", u)
			}
			got = append(got, u.UserID)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
	for i := 1; i <= 7; i++ {
		id := fmt.Sprint("m", i)
		l.sendText(`{"type":"direct","id":"` + id + `","to":"away","content":"text <&> \u2028","timestamp":"` + wire.FormatTime(time.Now()) + `"}`)
		l.wantStored(id, uint64(i))
	}
	status, body := h.do("GET", "/messages", alice.token, nil)
	if string(body) != `{"messages":[],"last_seq":0}` || status != http.StatusOK {
		t.Errorf("got %d %s, want an empty mailbox", status, body)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=-1", "limit=x", "limit=1.5", "limit=%2b1", "after=-1", "after=x", "after=9007199254740992"} {
		status, body := h.do("GET", "/messages?"+query, alice.token, nil)
		if h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest); t.Failed() {
			t.Fatal(query)
		}
	}
	for _, query := range []string{"limit=0", "limit=-1", "limit=x", "limit=99999999"} {
		status, body := h.do("GET", "/active-users?"+query, alice.token, nil)
		if h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest); t.Failed() {
			t.Fatal(query)
		}
	}
}
