package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Options configure a Client. Server and Identity are required.
type Options struct {
	// Server is the server's URL, http or https, without a path.
	Server string
	// Identity is whom the client speaks for.
	Identity *Identity
	// Logger gets what a developer should see; nil is silence.
	Logger *slog.Logger
	// TLS is used for this client's connections alone; nil is the standard.
	TLS *tls.Config
	// AllowPlaintext hands over users' direct messages that are not sealed, labelled
	// as such. Without it they are refused. Those of the server's plugins never are
	// sealed and come either way, see [Message].
	AllowPlaintext bool
	// OnRefused is told of a direct message that failed a check and was put aside
	// (docs/e2ee.md §3). It is called by the goroutine that empties Events.
	OnRefused func(Refused)
	// Queue is how many events may wait to be taken; 0 is 256.
	Queue int
}

// Refused is a direct message that was not handed over, and why. The reason is for
// the local log: a sender learns nothing of it.
type Refused struct {
	From, ID string
	Seq      uint64
	Reason   error
}

// The errors that a Client makes itself; all others of a server are *fault.Error.
var (
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client closed")
	// ErrNotConnected: Connect was not called, or has failed.
	ErrNotConnected = errors.New("not connected")
	// ErrConnectionLost: the connection broke after a command or broadcast was sent;
	// whether it took effect is unknown.
	ErrConnectionLost = errors.New("connection lost before the answer came")
	// ErrBusy: another goroutine is taking events.
	ErrBusy = errors.New("events are being taken elsewhere")
	// ErrTooLarge: the message does not fit into a frame of this server.
	ErrTooLarge = errors.New("message too large")
)

// Client speaks to one server for one identity. Its methods may be called from
// any goroutine.
type Client struct {
	o    Options
	base *url.URL
	host string // as signatures name it (docs/e2ee.md §1)
	http *http.Client
	log  *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup // the keeper, and through it the reader
	inbox  *inbox

	mu      sync.Mutex
	started bool
	token   wire.SignIn
	signed  time.Time // when token came
	link    *link     // nil while there is none
	linked  chan struct{}
	welcome wire.Welcome
	waiting map[string]*pending
}

// New makes a client that does nothing yet. The caller calls Close.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(o.Server, "/"))
	if err != nil || base.Host == "" || base.Path != "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fault.Newf(fault.InvalidRequest, "The server must be a URL such as http://127.0.0.1:8080, not %q.", o.Server)
	}
	if o.Identity == nil {
		return nil, errors.New("make client: no identity")
	}
	c := &Client{o: o, base: base, host: signedHost(base), log: o.Logger, linked: make(chan struct{}), waiting: make(map[string]*pending)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if o.Queue == 0 {
		o.Queue = 256
	}
	c.inbox = newInbox(o.Queue)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.http = &http.Client{
		Transport: &http.Transport{TLSClientConfig: o.TLS.Clone(), IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment},
		Timeout:   30 * time.Second,
		// A redirect could carry a token, or a challenge, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// signedHost is the host as the client dialled it: lower case, no default port.
func signedHost(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" || u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}

// Connect signs in and opens the connection; it returns when the server's welcome
// has come, or with the reason why it cannot. Afterwards the connection comes back
// by itself until Close, or until the server says not to.
func (c *Client) Connect(ctx context.Context) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return errors.New("connect: connected before")
	}
	c.started = true
	c.mu.Unlock()
	l, err := c.open(ctx)
	if err != nil {
		c.mu.Lock()
		c.started = false
		c.mu.Unlock()
		return fmt.Errorf("connect to %s: %w", c.base, err)
	}
	c.tasks.Go(func() { c.keep(l) })
	return nil
}

// Welcome is what the server said first on the newest connection.
func (c *Client) Welcome() wire.Welcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.welcome
}

// Close ends the connection and everything that waits for it with ErrClosed, and
// returns when no goroutine of the client is left.
func (c *Client) Close() error {
	c.cancel(ErrClosed)
	c.tasks.Wait()
	c.inbox.end(context.Cause(c.ctx)) // where Connect never came so far
	c.http.CloseIdleConnections()
	return nil
}
