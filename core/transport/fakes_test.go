package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/core/telemetry"
	"github.com/plugboard/plugboard/core/transport"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener in memory. A peer may choose the address it comes from.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// addressed is a pipe's end that comes from an address.
type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

func (p *pipes) dial(from string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- addressed{server, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 40000))}:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// limiter refuses what is on its list.
type limiter struct{ refuse []string }

func (l *limiter) Allow(key string, _ time.Time) (bool, time.Duration) {
	return !slices.Contains(l.refuse, key), 1500 * time.Millisecond
}

// house is a transport with hand-made neighbours.
type house struct {
	*testing.T
	tr    *transport.Transport
	ln    *pipes
	hub   *hub.Hub
	from  string // where dials come from
	log   syncBuffer
	woken chan string

	mu       sync.Mutex
	tokens   map[string]core.Principal
	revoked  map[string]bool // after the next look
	mailbox  func() (core.Mailbox, error)
	messages []core.Message
	handle   func(ctx context.Context, s *core.Session, frame []byte)
	dispatch func(ctx context.Context, c *core.Call, progress func(core.Progress)) ([]byte, error)
	rows     []core.SessionRow
	limits   limiter
	stopped  bool
}

// syncBuffer is a log that goroutines write to.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const token = "eyJtoken-of-alice"

func newHouse(t *testing.T, change ...func(*transport.Options)) *house {
	t.Helper()
	h := &house{T: t, ln: newPipes(), hub: hub.New(), from: "192.0.2.1", woken: make(chan string, 1000), revoked: make(map[string]bool)}
	h.tokens = map[string]core.Principal{
		token:   {UserID: "alice", Username: "Alice", Roles: []string{"user"}, SessionID: "sid-a", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)},
		"t-bob": {UserID: "bob", Username: "Bob", SessionID: "sid-b", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)},
	}
	h.mailbox = func() (core.Mailbox, error) { return core.Mailbox{LastSeq: 41, AckedSeq: 39}, nil }
	h.handle = func(_ context.Context, s *core.Session, frame []byte) {
		s.Outbox.Answer(&core.Encoded{JSON: append([]byte("echo "), frame...)})
	}
	o := transport.Options{
		Listener: h.ln, HostAllowed: func(host string) bool { return host == "chat.example" }, AllowedOrigins: []string{"https://app.example"},
		QueryToken: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		MaxFrameBytes: 64 << 10, SendQueue: 16, MaxCalls: 4, Connections: 100, PerUser: 16, PerAddress: 50, Heartbeat: 30 * time.Second, Rate: 10, Burst: 20,
		SignIns: h, Tokens: h, Keys: h, Mailboxes: h, Sessions: h, Commands: h, Hub: h.hub, Delivery: h, Handler: h, Health: telemetry.NewHealth(),
		AuthLimit: &h.limits, MessageLimit: &h.limits, Version: "1.0.0", Node: "n1", Now: time.Now, Logger: zerolog.New(&h.log).Level(zerolog.DebugLevel),
	}
	for _, c := range change {
		c(&o)
	}
	h.tr = transport.New(o)
	if err := h.tr.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// stop ends the house within five seconds.
func (h *house) stop() error {
	h.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return h.tr.Stop(ctx)
}

func (h *house) close() {
	h.Helper()
	if !h.stopped {
		if err := h.stop(); err != nil {
			h.Errorf("stop: %v", err)
		}
	}
	if strings.Contains(h.log.String(), "eyJ") {
		h.Error("a token is in the log:\n" + h.log.String())
	}
}

func (h *house) Authenticate(_ context.Context, text string) (core.Principal, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.tokens[text]
	switch {
	case !ok:
		return p, fault.New(fault.AuthenticationFailed, "The token is not valid.")
	case h.revoked[text]:
		delete(h.tokens, text)
	case !time.Now().Before(p.ExpiresAt):
		return p, fault.New(fault.TokenExpired, "The token has expired.")
	}
	return p, nil
}

func (h *house) Logout(context.Context, core.Principal) error { return nil }

func (h *house) Account(_ context.Context, id string) (*core.Account, error) {
	if id == "nobody" {
		return nil, fault.New(fault.UnknownUser, "There is no such user.")
	}
	return &core.Account{User: core.User{ID: id, Username: id, PublicKey: make([]byte, 32)}, Keys: []core.EncryptionKey{{Version: 2, Public: make([]byte, 32)}}}, nil
}

func (h *house) PublishKey(context.Context, core.Principal, *wire.KeyUpload) error { return nil }

func (h *house) Register(_ context.Context, r *wire.RegisterRequest, _ core.Remote) (wire.Registered, bool, error) {
	return wire.Registered{UserID: r.UserID}, r.UserID == "new", nil
}

func (h *house) Challenge(string) (wire.Challenge, error) {
	return wire.Challenge{Challenge: []byte("c")}, nil
}

func (h *house) SignIn(_ context.Context, r *wire.LoginRequest, remote core.Remote) (wire.SignIn, error) {
	return wire.SignIn{Token: "for " + r.UserID + " at " + remote.Host + " from " + remote.Addr}, nil
}

func (h *house) Mailbox(context.Context, string) (core.Mailbox, error) {
	h.mu.Lock()
	f := h.mailbox
	h.mu.Unlock()
	return f()
}

func (h *house) Read(_ context.Context, _ string, after uint64, limit, _ int) ([]core.Message, error) {
	var page []core.Message
	for _, m := range h.messages {
		if m.Seq > after && len(page) < limit {
			page = append(page, m)
		}
	}
	return page, nil
}

func (h *house) OpenSession(ctx context.Context, r *core.SessionRow) error {
	return h.CloseSession(ctx, r)
}
func (h *house) CloseSession(_ context.Context, r *core.SessionRow) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows = append(h.rows, *r)
	return nil
}

func (h *house) List(c core.Caller) []wire.CommandInfo {
	return []wire.CommandInfo{{Name: "ping", Summary: c.UserID + " by " + c.Surface, Params: []byte(`{}`)}}
}

func (h *house) Find(_ core.Caller, name string) (wire.CommandInfo, bool) {
	return wire.CommandInfo{Name: name, Streaming: true}, true
}

func (h *house) Dispatch(ctx context.Context, c *core.Call, progress func(core.Progress)) ([]byte, time.Duration, error) {
	result, err := h.dispatch(ctx, c, progress)
	return result, time.Millisecond, err
}

func (h *house) Wake(user string) {
	select {
	case h.woken <- user:
	default:
	}
}

func (h *house) Handle(ctx context.Context, s *core.Session, frame []byte) { h.handle(ctx, s, frame) }

// do makes a plain request; a status of the answer and its body come back.
func (h *house) do(method, path, body string, header ...string) (*http.Response, string) {
	h.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://chat.example"+path, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Add(header[i], header[i+1])
		}
	}
	client := http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return h.ln.dial(h.from) }}
	res, err := client.RoundTrip(req)
	if err != nil {
		h.Fatalf("%s %s: %v", method, path, err)
	}
	data, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		h.Fatalf("%s %s: %v", method, path, err)
	}
	return res, string(data)
}

// wantProblem wants a problem document of a status and a code.
func (h *house) wantProblem(res *http.Response, body string, status int, code fault.Code) wire.Problem {
	h.Helper()
	var p wire.Problem
	if err := wire.Unmarshal([]byte(body), &p); err != nil {
		h.Fatalf("got %d %q: %v", res.StatusCode, body, err)
	}
	if res.StatusCode != status || p.Status != status || p.Code != code || p.Detail == "" || res.Header.Get("Content-Type") != "application/problem+json" {
		h.Errorf("got %d %s %s, want %d %s", res.StatusCode, res.Header.Get("Content-Type"), body, status, code)
	}
	return p
}

// peer is a client's end of a WebSocket.
type peer struct {
	*house
	ws  *websocket.Conn
	raw net.Conn
}

func (h *house) tryDial(path string, header http.Header, protocols ...string) (*peer, *http.Response, error) {
	c := &peer{house: h}
	d := websocket.Dialer{Subprotocols: protocols, NetDialContext: func(context.Context, string, string) (net.Conn, error) {
		raw, err := h.ln.dial(h.from)
		c.raw = raw
		return raw, err
	}}
	ws, res, err := d.Dial("ws://chat.example"+path, header)
	c.ws = ws
	return c, res, err
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// dial connects and reads the welcome.
func (h *house) dial(token string) *peer {
	h.Helper()
	c, _, err := h.tryDial("/ws", bearer(token), wire.Protocol)
	if err != nil {
		h.Fatal(err)
	}
	if got := c.read(); !strings.HasPrefix(got, `{"type":"welcome"`) {
		h.Fatalf("got %s first, want the welcome", got)
	}
	synctest.Wait() // the hub knows it a moment after the welcome
	return c
}

// read returns the next frame.
func (c *peer) read() string {
	c.Helper()
	_ = c.ws.SetReadDeadline(time.Now().Add(2 * time.Hour))
	_, data, err := c.ws.ReadMessage()
	if err != nil {
		c.Fatalf("read: %v", err)
	}
	return string(data)
}

func (c *peer) send(kind int, data string) {
	c.Helper()
	if err := c.ws.WriteMessage(kind, []byte(data)); err != nil {
		c.Errorf("write: %v", err)
	}
}

// end reads to the end and returns the frames before it and the close code, 0
// where there was none.
func (c *peer) end() (frames []string, code int) {
	_ = c.ws.SetReadDeadline(time.Now().Add(2 * time.Hour))
	for {
		_, data, err := c.ws.ReadMessage()
		if err != nil {
			_ = c.ws.Close()
			if e := (*websocket.CloseError)(nil); errors.As(err, &e) && e.Code != websocket.CloseAbnormalClosure {
				return frames, e.Code
			}
			return frames, 0
		}
		frames = append(frames, string(data))
	}
}

func (c *peer) wantClosed(code int) []string {
	c.Helper()
	frames, got := c.end()
	if got != code {
		c.Errorf("got close code %d after %q, want %d", got, frames, code)
	}
	return frames
}

// session is alice's, which the hub knows.
func (h *house) session(user string) *core.Session {
	h.Helper()
	all := h.hub.Of(user)
	if len(all) == 0 {
		h.Fatalf("%s is not in the hub", user)
	}
	return all[len(all)-1]
}
