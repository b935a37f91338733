package client_test

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server speaks the protocol's HTTP half by itself; the test speaks the frames.
type server struct {
	*httptest.Server
	t     *testing.T
	conns chan *conn

	mu       sync.Mutex
	users    map[string]wire.UserKeys
	mailbox  []*wire.Direct
	acked    uint64
	signIns  int
	failSign int // so many sign-ins are refused
	failDial int // so many connections are refused
}

// conn is the server's end of a WebSocket.
type conn struct {
	t      *testing.T
	ws     *websocket.Conn
	frames chan wire.ClientFrame
}

func newServer(t *testing.T) *server {
	s := &server{t: t, conns: make(chan *conn, 8), users: make(map[string]wire.UserKeys)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /auth/register", s.register)
	mux.HandleFunc("POST /auth/login", s.login)
	mux.HandleFunc("GET /auth/users/{id}", s.keys)
	mux.HandleFunc("GET /messages", s.messages)
	mux.HandleFunc("GET /ws", s.socket)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func reply(w http.ResponseWriter, status int, v any) {
	data, err := wire.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

func refuse(w http.ResponseWriter, code fault.Code) {
	p := wire.NewProblem(fault.New(code, "Refused."))
	reply(w, p.Status, p)
}

func (s *server) register(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	q, err := wire.DecodeRegister(body)
	if err != nil {
		refuse(w, fault.InvalidRequest)
		return
	}
	b := &e2ee.Bundle{UserID: q.UserID, PublicKey: q.PublicKey, EncryptionKey: q.X25519PublicKey, KeyVersion: 1, CreatedAt: q.CreatedAt, Signature: q.KeySignature}
	if b.Verify() != nil || !e2ee.Verify(q.PublicKey, e2ee.RegisterTranscript(r.Host, b, q.Username, q.Timestamp), q.Signature) {
		refuse(w, fault.InvalidSignature)
		return
	}
	s.put(b)
	reply(w, http.StatusCreated, wire.Registered{UserID: q.UserID, Username: q.Username, CreatedAt: q.CreatedAt})
}

func (s *server) put(b *e2ee.Bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[b.UserID] = wire.UserKeys{UserID: b.UserID, Username: b.UserID, PublicKey: b.PublicKey, X25519PublicKey: b.EncryptionKey,
		KeyVersion: b.KeyVersion, CreatedAt: b.CreatedAt, KeySignature: b.Signature}
}

func (s *server) login(w http.ResponseWriter, r *http.Request) {
	challenge, expires := []byte(strings.Repeat("c", 57)), "2026-01-31T12:01:00.000Z"
	body, _ := io.ReadAll(r.Body)
	verify := r.URL.Query().Get("verify") == "true"
	q, err := wire.DecodeLogin(body, verify)
	if err != nil {
		refuse(w, fault.InvalidRequest)
		return
	}
	if !verify {
		reply(w, http.StatusOK, wire.Challenge{Challenge: challenge, ExpiresAt: expires})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signIns++
	if s.failSign > 0 {
		s.failSign--
		refuse(w, fault.AuthenticationFailed)
		return
	}
	if !e2ee.Verify(s.users[q.UserID].PublicKey, e2ee.LoginTranscript(r.Host, q.UserID, challenge, expires), q.Signature) {
		refuse(w, fault.AuthenticationFailed)
		return
	}
	reply(w, http.StatusOK, wire.SignIn{Token: q.UserID, ExpiresAt: wire.FormatTime(time.Now().Add(time.Hour)), SessionID: "s"})
}

func (s *server) keys(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	k, ok := s.users[r.PathValue("id")]
	s.mu.Unlock()
	if !ok {
		refuse(w, fault.UnknownUser)
		return
	}
	reply(w, http.StatusOK, k)
}

func (s *server) messages(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	var page wire.MessagesPage
	for _, d := range s.mailbox {
		if d.Seq > after && len(page.Messages) < 2 { // small pages, so that there are several
			page.Messages = append(page.Messages, d.Append(nil))
		}
	}
	reply(w, http.StatusOK, page)
}

func (s *server) socket(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fail := s.failDial > 0
	if fail {
		s.failDial--
	}
	s.mu.Unlock()
	if fail {
		refuse(w, fault.AuthenticationFailed)
		return
	}
	user := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	up := websocket.Upgrader{Subprotocols: []string{wire.Protocol}}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	c := &conn{t: s.t, ws: ws, frames: make(chan wire.ClientFrame, 64)}
	s.mu.Lock()
	c.push(&wire.Welcome{Protocol: wire.Protocol, UserID: user, SessionID: "s", HeartbeatMS: 30000, LastSeq: uint64(len(s.mailbox)),
		AckedSeq: s.acked, Limits: wire.Limits{MaxFrameBytes: 65536}})
	s.mu.Unlock()
	s.conns <- c
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			return
		}
		f, _, err := wire.DecodeClient(data)
		if err == nil {
			err = f.Validate()
		}
		if err != nil {
			s.t.Errorf("the client sent %s: %v", data, err)
			return
		}
		c.frames <- f
	}
}

func (c *conn) push(f wire.Frame) {
	if err := c.ws.WriteMessage(websocket.TextMessage, f.Append(nil)); err != nil {
		c.t.Errorf("push %s: %v", f.Type(), err)
	}
}

func (c *conn) close(code int) {
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	_ = c.ws.Close()
}

const patience = 10 * time.Second

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// next is the client's next frame, which must be of the type T.
func next[T wire.ClientFrame](t *testing.T, c *conn) T {
	t.Helper()
	f := receive(t, c.frames, "a frame")
	got, ok := f.(T)
	if !ok {
		t.Fatalf("frame: got %T, want %T", f, got)
	}
	return got
}

// peer is somebody else, with keys in the test's hands.
type peer struct {
	id      string
	private ed25519.PrivateKey
	key     *ecdh.PrivateKey
	version uint64
}

func newPeer(t *testing.T, s *server, id string, version uint64) *peer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{id: id, private: private}
	p.rotate(t, s, version)
	return p
}

func (p *peer) public() ed25519.PublicKey { return p.private.Public().(ed25519.PublicKey) }

func (p *peer) rotate(t *testing.T, s *server, version uint64) {
	t.Helper()
	var err error
	if p.key, err = e2ee.GenerateEncryptionKey(); err != nil {
		t.Fatal(err)
	}
	p.version = version
	s.put(p.bundle())
}

func (p *peer) bundle() *e2ee.Bundle {
	b := &e2ee.Bundle{UserID: p.id, PublicKey: p.public(), EncryptionKey: p.key.PublicKey().Bytes(), KeyVersion: p.version, CreatedAt: "2026-01-31T11:00:00.000Z"}
	b.Sign(p.private)
	return b
}

// open reads what the client sealed for the peer.
func (p *peer) open(t *testing.T, sender ed25519.PublicKey, from string, d *wire.Direct) string {
	t.Helper()
	parts, err := d.Sealed()
	if err != nil {
		t.Fatal(err)
	}
	envelope := e2ee.Envelope(*parts)
	text, err := e2ee.Open(&e2ee.Header{From: from, To: p.id, ID: d.ID, Timestamp: d.Timestamp, KeyVersion: d.KeyVersion, Sender: sender,
		Recipient: p.public(), EncryptionKey: p.key.PublicKey().Bytes()}, p.key, &envelope)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return string(text)
}

// seal makes a message of the peer and puts it into alice's mailbox.
func (p *peer) seal(t *testing.T, s *server, id, text string) *wire.Direct {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	to := s.users["alice"]
	h := &e2ee.Header{From: p.id, To: "alice", ID: id, Timestamp: "2026-01-31T12:00:00.000Z", KeyVersion: to.KeyVersion, Sender: p.public(),
		Recipient: to.PublicKey, EncryptionKey: to.X25519PublicKey}
	e, err := e2ee.Seal(h, p.private, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	d := &wire.Direct{ID: id, From: p.id, To: "alice", Seq: uint64(len(s.mailbox) + 1), ServerTime: h.Timestamp, Timestamp: h.Timestamp, KeyVersion: h.KeyVersion,
		Content: wire.EncodeBase64(e.Content), EncryptedKey: wire.EncodeBase64(e.EncryptedKey), EncryptionNonce: wire.EncodeBase64(e.Nonce), Signature: wire.EncodeBase64(e.Signature)}
	s.mailbox = append(s.mailbox, d)
	return d
}

// alice is registered and connected; change may alter her options.
func alice(t *testing.T, s *server, change func(*client.Options)) (*client.Client, *client.Identity, *conn) {
	t.Helper()
	identity, err := client.CreateIdentity(filepath.Join(t.TempDir(), "alice"), "alice", "Alice")
	if err != nil {
		t.Fatal(err)
	}
	o := client.Options{Server: s.URL, Identity: identity}
	if change != nil {
		change(&o)
	}
	c := newClient(t, o)
	if err := c.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, identity, receive(t, s.conns, "a connection")
}

func newClient(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// background runs f and returns what gives its result.
func background[T any](f func() (T, error)) <-chan result[T] {
	out := make(chan result[T], 1)
	go func() {
		v, err := f()
		out <- result[T]{v, err}
	}()
	return out
}

type result[T any] struct {
	value T
	err   error
}

func sending(ctx context.Context, c *client.Client, to, text string) <-chan result[client.Sent] {
	return background(func() (client.Sent, error) { return c.Send(ctx, to, []byte(text)) })
}
