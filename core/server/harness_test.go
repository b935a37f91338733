package server_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/server"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// plugins is where TestMain built the five plugins.
var plugins string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "plugboard-test")
	if err != nil {
		panic(err)
	}
	plugins = filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-o", plugins, "../../plugins/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build plugins: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// waitLimit is how long anything may take that should take milliseconds.
const waitLimit = 20 * time.Second

// host is a running server.
type host struct {
	t    testing.TB
	env  []string
	data string // its data directory
	base string
	log  *lockedBuffer
	stop func() // idempotent; waits
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newServer starts a server with its own data directory on a free port. env are
// further settings, such as PLUGBOARD_LOG__LEVEL=debug.
func newServer(t testing.TB, env ...string) *host {
	t.Helper()
	data := t.TempDir()
	h := &host{t: t, data: data, log: new(lockedBuffer), env: append([]string{
		"PLUGBOARD_SERVER__LISTEN=127.0.0.1:0", "PLUGBOARD_SERVER__ADMIN_LISTEN=", "PLUGBOARD_DATA_DIR=" + data,
		"PLUGBOARD_PLUGINS__DIR=" + plugins, "PLUGBOARD_LOG__LEVEL=debug",
		"PLUGBOARD_LIMITS__MESSAGES_PER_SECOND=100000", "PLUGBOARD_LIMITS__BURST=100000", "PLUGBOARD_LIMITS__AUTH_PER_MINUTE=100000",
	}, env...)}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// start runs a server over the same data as before.
func (h *host) start() {
	h.t.Helper()
	loaded, err := config.Load(config.Options{Environ: h.env})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := server.Open(ctx, loaded.Config, "test", zerolog.New(h.log))
	if err != nil {
		cancel()
		h.t.Fatal(err)
	}
	serving, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(*server.Server) { close(serving) }) }()
	select {
	case <-serving:
	case err := <-done:
		cancel()
		h.t.Fatalf("server ended: %v", err)
	}
	<-s.Ready()
	h.base = "http://" + s.Addr()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("server ended with %v", err)
		}
	})
}

// runDir is where the server keeps its running plugins; see server.runDir.
func (h *host) runDir() string {
	dir := filepath.Join(h.data, "run")
	if len(dir) > 48 {
		sum := sha256.Sum256([]byte(h.data))
		dir = filepath.Join(os.TempDir(), "plugboard-"+hex.EncodeToString(sum[:6]))
	}
	return dir
}

// client is a plain HTTP client without connections that linger.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: waitLimit}

// do sends a request and returns status and body.
func (h *host) do(method, path, token string, body any) (int, []byte) {
	h.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := wire.Marshal(b)
		if err != nil {
			h.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, h.base+path, reader)
	if err != nil {
		h.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, data
}

// wantProblem checks that an answer is a problem document of a code.
func (h *host) wantProblem(status int, body []byte, wantStatus int, code fault.Code) {
	h.t.Helper()
	var p wire.Problem
	if err := wire.Unmarshal(body, &p); err != nil || status != wantStatus || p.Code != code || p.Status != status {
		h.t.Errorf("got %d %s (%v), want %d %s", status, body, err, wantStatus, code)
	}
}

// person is a client that follows the protocol by hand.
type person struct {
	t     testing.TB
	h     *host
	id    string
	sign  ed25519.PrivateKey
	open  *ecdh.PrivateKey
	token string
	sid   string
}

func (h *host) person(id string) *person {
	h.t.Helper()
	p := h.stranger(id)
	if status, body := h.do(http.MethodPost, "/auth/register", "", p.registration()); status != http.StatusCreated {
		h.t.Fatalf("register %s: got %d %s, want 201", id, status, body)
	}
	p.signIn()
	return p
}

// stranger has keys and nothing else.
func (h *host) stranger(id string) *person {
	h.t.Helper()
	_, sign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	open, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		h.t.Fatal(err)
	}
	return &person{t: h.t, h: h, id: id, sign: sign, open: open}
}

func (p *person) public() ed25519.PublicKey { return p.sign.Public().(ed25519.PublicKey) }

func (h *host) name() string { return strings.TrimPrefix(h.base, "http://") }

func (p *person) registration() *wire.RegisterRequest {
	now := wire.FormatTime(time.Now())
	b := &e2ee.Bundle{UserID: p.id, PublicKey: p.public(), EncryptionKey: p.open.PublicKey().Bytes(), KeyVersion: 1, CreatedAt: now}
	b.Sign(p.sign)
	return &wire.RegisterRequest{
		UserID: p.id, Username: strings.ToUpper(p.id[:1]) + p.id[1:], PublicKey: b.PublicKey, X25519PublicKey: b.EncryptionKey, KeyVersion: 1,
		CreatedAt: now, KeySignature: b.Signature, Timestamp: now,
		Signature: ed25519.Sign(p.sign, e2ee.RegisterTranscript(p.h.name(), b, strings.ToUpper(p.id[:1])+p.id[1:], now)),
	}
}

func (p *person) signIn() {
	p.t.Helper()
	status, body := p.h.do(http.MethodPost, "/auth/login", "", &wire.LoginRequest{UserID: p.id})
	var c wire.Challenge
	if err := wire.Unmarshal(body, &c); err != nil || status != http.StatusOK {
		p.t.Fatalf("challenge: got %d %s, want 200", status, body)
	}
	signature := ed25519.Sign(p.sign, e2ee.LoginTranscript(p.h.name(), p.id, c.Challenge, c.ExpiresAt))
	status, body = p.h.do(http.MethodPost, "/auth/login?verify=true", "", &wire.LoginRequest{UserID: p.id, Challenge: c.Challenge, Signature: signature})
	var s wire.SignIn
	if err := wire.Unmarshal(body, &s); err != nil || status != http.StatusOK {
		p.t.Fatalf("sign in %s: got %d %s, want 200", p.id, status, body)
	}
	p.token, p.sid = s.Token, s.SessionID
}

// keys fetches a user's bundle.
func (p *person) keys(user string) wire.UserKeys {
	p.t.Helper()
	status, body := p.h.do(http.MethodGet, "/auth/users/"+user, p.token, nil)
	var k wire.UserKeys
	if err := wire.Unmarshal(body, &k); err != nil || status != http.StatusOK {
		p.t.Fatalf("keys of %s: got %d %s, want 200", user, status, body)
	}
	return k
}

// seal makes a sealed frame for somebody.
func (p *person) seal(id string, to wire.UserKeys, text string) *wire.Direct {
	p.t.Helper()
	header := &e2ee.Header{
		From: p.id, To: to.UserID, ID: id, Timestamp: wire.FormatTime(time.Now()), KeyVersion: to.KeyVersion,
		Sender: p.public(), Recipient: to.PublicKey, EncryptionKey: to.X25519PublicKey,
	}
	e, err := e2ee.Seal(header, p.sign, []byte(text))
	if err != nil {
		p.t.Fatal(err)
	}
	return &wire.Direct{
		ID: id, To: to.UserID, Timestamp: header.Timestamp, KeyVersion: to.KeyVersion, Content: wire.EncodeBase64(e.Content),
		EncryptedKey: wire.EncodeBase64(e.EncryptedKey), EncryptionNonce: wire.EncodeBase64(e.Nonce), Signature: wire.EncodeBase64(e.Signature),
	}
}

// unseal opens a frame from somebody.
func (p *person) unseal(d *wire.Direct, from wire.UserKeys) string {
	p.t.Helper()
	parts, err := d.Sealed()
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := e2ee.Open(&e2ee.Header{
		From: d.From, To: d.To, ID: d.ID, Timestamp: d.Timestamp, KeyVersion: d.KeyVersion,
		Sender: from.PublicKey, Recipient: p.public(), EncryptionKey: p.open.PublicKey().Bytes(),
	}, p.open, &e2ee.Envelope{EncryptedKey: parts.EncryptedKey, Nonce: parts.Nonce, Content: parts.Content, Signature: parts.Signature})
	if err != nil {
		p.t.Fatalf("open %s from %s: %v", d.ID, d.From, err)
	}
	return string(text)
}

// line is one connection.
type line struct {
	t       testing.TB
	ws      *websocket.Conn
	welcome *wire.Welcome
}

// connect opens a connection and checks the welcome.
func (p *person) connect() *line {
	p.t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{wire.Protocol}, HandshakeTimeout: waitLimit}
	ws, res, err := dialer.Dial("ws"+strings.TrimPrefix(p.h.base, "http")+"/ws", http.Header{"Authorization": {"Bearer " + p.token}})
	if err != nil {
		p.t.Fatalf("connect %s: %v", p.id, err)
	}
	_ = res.Body.Close()
	l := &line{t: p.t, ws: ws}
	p.t.Cleanup(func() { _ = ws.Close() })
	f, ok := l.next().(*wire.Welcome)
	if !ok || f.UserID != p.id || f.SessionID != p.sid || f.Protocol != wire.Protocol {
		p.t.Fatalf("got %+v, want the welcome of %s first", f, p.id)
	}
	l.welcome = f
	return l
}

// next reads one frame.
func (l *line) next() wire.Frame {
	l.t.Helper()
	_ = l.ws.SetReadDeadline(time.Now().Add(waitLimit))
	_, data, err := l.ws.ReadMessage()
	if err != nil {
		l.t.Fatalf("read: %v", err)
	}
	f, err := wire.DecodeServer(data)
	if err != nil {
		l.t.Fatalf("decode %s: %v", data, err)
	}
	return f
}

func (l *line) send(f wire.Frame) {
	l.t.Helper()
	l.sendText(string(f.Append(nil)))
}

func (l *line) sendText(text string) {
	l.t.Helper()
	if err := l.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		l.t.Fatalf("write: %v", err)
	}
}

// want reads the next frame and insists on its type.
func want[F wire.Frame](l *line) F {
	l.t.Helper()
	got := l.next()
	f, ok := got.(F)
	if !ok {
		l.t.Fatalf("got %s, want a %T", got.Append(nil), f)
	}
	return f
}

// wantError reads an error frame of a code for an id.
func (l *line) wantError(id string, code fault.Code) *wire.ErrorFrame {
	l.t.Helper()
	e := want[*wire.ErrorFrame](l)
	if e.ID != id || e.Fault.Code != code {
		l.t.Errorf("got %s, want %s for %q", e.Append(nil), code, id)
	}
	return e
}

// wantStored reads the ack of a stored message.
func (l *line) wantStored(id string, seq uint64) {
	l.t.Helper()
	if a := want[*wire.Ack](l); a.ID != id || a.Status != wire.StatusStored || a.Seq != seq {
		l.t.Errorf("got %s, want %q stored under %d", a.Append(nil), id, seq)
	}
}

// wantClosed reads until the connection is closed, with a code.
func (l *line) wantClosed(code int) {
	l.t.Helper()
	_ = l.ws.SetReadDeadline(time.Now().Add(waitLimit))
	for {
		if _, _, err := l.ws.ReadMessage(); err != nil {
			var closed *websocket.CloseError
			if !errors.As(err, &closed) || closed.Code != code {
				l.t.Errorf("got %v, want close code %d", err, code)
			}
			return
		}
	}
}

// call runs a command and decodes its result.
func (l *line) call(id, command, params string, result any) {
	l.t.Helper()
	l.send(&wire.Command{ID: id, Command: command, Params: []byte(params)})
	r := want[*wire.Response](l)
	if r.ID != id || r.Command != command {
		l.t.Fatalf("got %s, want the response to %s", r.Append(nil), id)
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		l.t.Fatal(err)
	}
}
