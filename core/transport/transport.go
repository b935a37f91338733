package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/core/telemetry"
	"github.com/plugboard/plugboard/sdk/wire"
)

// SignIns is the part of identity that strangers may ask.
type SignIns interface {
	Register(ctx context.Context, r *wire.RegisterRequest, remote core.Remote) (answer wire.Registered, created bool, err error)
	Challenge(userID string) (wire.Challenge, error)
	SignIn(ctx context.Context, r *wire.LoginRequest, remote core.Remote) (wire.SignIn, error)
}

// Tokens is the part of identity that guards everything else.
type Tokens interface {
	Authenticate(ctx context.Context, token string) (core.Principal, error)
	Logout(ctx context.Context, p core.Principal) error
}

// Keys is the part of identity that publishes key bundles.
type Keys interface {
	Account(ctx context.Context, userID string) (*core.Account, error)
	PublishKey(ctx context.Context, p core.Principal, k *wire.KeyUpload) error
}

// Mailboxes is what transport reads of the store.
type Mailboxes interface {
	Mailbox(ctx context.Context, userID string) (core.Mailbox, error)
	Read(ctx context.Context, userID string, after uint64, limit, maxBytes int) ([]core.Message, error)
}

// Commands lists commands and runs them for the HTTP surface.
type Commands interface {
	List(caller core.Caller) []wire.CommandInfo
	Find(caller core.Caller, name string) (info wire.CommandInfo, ok bool)
	Dispatch(ctx context.Context, call *core.Call, progress func(core.Progress)) (result []byte, elapsed time.Duration, err error)
}

// Waker is told of sessions that have something to get.
type Waker interface {
	Wake(userID string)
}

// Limiter is a token bucket a key.
type Limiter interface {
	Allow(key string, now time.Time) (ok bool, retryAfter time.Duration)
}

// Options say what transport serves, and by whose help. Sizes are in bytes.
type Options struct {
	// Listen is the address to listen on; Listener, where set, is used instead.
	Listen   string
	Listener net.Listener
	// TLS is nil where a proxy terminates it or on loopback.
	TLS *tls.Config
	// HostAllowed tells whether a Host header names this server.
	HostAllowed    func(host string) bool
	AllowedOrigins []string
	QueryToken     bool // accept ?token= at /ws
	TrustedProxies []netip.Prefix

	MaxFrameBytes                    int
	SendQueue                        int // frames per connection
	MaxCalls                         int // commands that may run for one connection at once
	Connections, PerUser, PerAddress int
	Heartbeat                        time.Duration
	Rate, Burst                      float64 // for the welcome frame

	SignIns   SignIns
	Tokens    Tokens
	Keys      Keys
	Mailboxes Mailboxes
	Sessions  core.Sessions
	Commands  Commands
	Hub       *hub.Hub
	Delivery  Waker
	Handler   core.Handler
	Health    *telemetry.Health
	// AuthLimit limits /auth/* by address; MessageLimit limits commands over HTTP by
	// user, from the same bucket as frames.
	AuthLimit, MessageLimit Limiter

	// OnFatal is told when the listener fails: a server that nobody can reach should
	// end. It must not block. nil is nobody.
	OnFatal func(error)

	Version, Node string
	Now           func() time.Time
	Logger        zerolog.Logger
	Registerer    prometheus.Registerer // nil: counted but not shown
}

// Transport is the room. Start and Stop are called once each.
type Transport struct {
	Options
	metrics  *metrics
	caps     *caps
	upgrader websocket.Upgrader
	http     *http.Server
	buffers  sync.Pool // of *bytes.Buffer, for frames as they are read

	draining atomic.Bool
	base     context.Context // ends when Stop gives up waiting
	giveUp   context.CancelFunc

	serving   sync.WaitGroup // the accept loop and the pacer
	readers   sync.WaitGroup
	requests  sync.WaitGroup // HTTP requests, an upgrade among them until it is done
	stopPacer context.CancelFunc

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool // no further connection may begin
}

// Timeouts of the listener (slow headers and bodies are cut off) and of a
// connection's single steps.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	idleTimeout       = 60 * time.Second
	handshakeTimeout  = 5 * time.Second
	writeTimeout      = 10 * time.Second // one frame; a peer that takes longer is gone
	closeGrace        = time.Second      // for the closing handshake
	rowTimeout        = 5 * time.Second  // for the session's row
	maxHeaderBytes    = 16 << 10
)

// New makes a transport that listens once Start is called.
func New(o Options) *Transport {
	t := &Transport{Options: o, metrics: newMetrics(o.Registerer), conns: make(map[*Conn]struct{})}
	t.caps = newCaps(o.Connections, o.PerUser, o.PerAddress)
	t.base, t.giveUp = context.WithCancel(context.Background())
	t.upgrader = websocket.Upgrader{
		HandshakeTimeout: handshakeTimeout, ReadBufferSize: 512, WriteBufferSize: 4096, WriteBufferPool: new(sync.Pool),
		Subprotocols: []string{wire.Protocol}, CheckOrigin: func(*http.Request) bool { return true }, // checked before the token is looked at
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			t.badUpgrade(w, status, reason)
		},
	}
	t.http = &http.Server{
		Handler: t.routes(), TLSConfig: o.TLS, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, DisableGeneralOptionsHandler: true, ErrorLog: log.New(serverLog{o.Logger}, "", 0),
		BaseContext: func(net.Listener) context.Context { return t.base },
	}
	return t
}

// Start listens and begins to accept.
func (t *Transport) Start(ctx context.Context) error {
	ln := t.Listener
	if ln == nil {
		var err error
		if ln, err = new(net.ListenConfig).Listen(ctx, "tcp", t.Listen); err != nil {
			return fmt.Errorf("listen on %s: %w", t.Listen, err)
		}
		t.Listener = ln
	}
	t.serving.Go(func() {
		serve := t.http.Serve
		if t.TLS != nil {
			serve = func(l net.Listener) error { return t.http.ServeTLS(l, "", "") }
		}
		if err := serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Logger.Error().Err(err).Msg("Listener failed")
			if t.OnFatal != nil {
				t.OnFatal(fmt.Errorf("accept connections: %w", err))
			}
		}
	})
	pacing, stop := context.WithCancel(context.Background())
	t.stopPacer = stop
	t.serving.Go(func() { t.pace(pacing) })
	return nil
}

// Addr is the address that Start listens on.
func (t *Transport) Addr() net.Addr { return t.Listener.Addr() }

// Stop drains: new connections are refused, clients are told, running commands
// may end, and every connection is closed with 1001. What has not ended when ctx
// does is cut off; the error says how much that was.
func (t *Transport) Stop(ctx context.Context) error {
	t.draining.Store(true)
	t.Hub.Close()
	conns := t.snapshot()
	t.announceDrain(conns)
	stopped := make(chan error, 1)
	go func() { stopped <- t.http.Shutdown(ctx) }() // waits for plain requests; ends with ctx at the latest

	calls := make(chan struct{})
	go func() { // ends when the calls have, which giveUp below makes sure of
		defer close(calls)
		for _, c := range conns {
			c.session.Calls.Wait()
		}
	}()
	early, cancel := leaveRoom(ctx)
	defer cancel()
	select {
	case <-calls:
	case <-early.Done():
		cancelCalls(ctx, conns, calls)
	}
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	for _, c := range t.snapshot() {
		c.Close(wire.CloseGoingAway)
	}
	gone := make(chan struct{})
	go func() { t.readers.Wait(); close(gone) }()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		left := t.snapshot()
		err = fmt.Errorf("%d connections did not close in time and were cut off", len(left))
		t.end()
		for _, c := range left {
			c.cutOff()
		}
		<-gone
	}
	err = errors.Join(err, <-stopped) // plain requests may use the time that is left
	t.end()
	err = errors.Join(err, t.http.Close())
	<-calls
	t.stopPacer()
	t.requests.Wait()
	t.serving.Wait()
	return err
}

// cancelCalls ends the calls that did not end by themselves, and gives them a
// moment to say so: every frame gets its final answer.
func cancelCalls(ctx context.Context, conns []*Conn, ended <-chan struct{}) {
	for _, c := range conns {
		c.session.Calls.CancelAll()
	}
	brief, cancel := context.WithTimeout(ctx, closeGrace/2)
	defer cancel()
	select {
	case <-ended:
	case <-brief.Done():
	}
}

// leaveRoom ends a little before ctx does, so that the closing handshakes still
// have time when calls did not end.
func leaveRoom(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(2*closeGrace, time.Until(deadline)/2)))
}

// end ends what still runs; see enter for the lock.
func (t *Transport) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveUp()
}

// enter counts an HTTP request that Stop waits for; it refuses once Stop has given
// up waiting.
func (t *Transport) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.base.Err() != nil {
		return false
	}
	t.requests.Add(1)
	return true
}

func (t *Transport) snapshot() []*Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Conn, 0, len(t.conns))
	for c := range t.conns {
		all = append(all, c)
	}
	return all
}

// serverLog takes what net/http has to say, which is about single clients.
type serverLog struct{ log zerolog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	event := l.log.Debug()
	if bytes.HasPrefix(p, []byte("http: panic")) { // a route of ours broke; the server closed that one connection
		event = l.log.Error()
	}
	event.Str("text", string(p)).Msg("HTTP server note")
	return len(p), nil
}
