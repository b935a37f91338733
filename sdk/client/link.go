package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const (
	writeTimeout     = 10 * time.Second
	handshakeTimeout = 15 * time.Second
	closeGrace       = time.Second
	maxFrameBytes    = 4 << 20 // a server's frame; its own limit is 1 MiB at most
	renewAt          = 0.8     // of a token's lifetime (docs/e2ee.md §6)
	backoffBase      = 500 * time.Millisecond
	backoffLimit     = 30 * time.Second
	backoffReset     = time.Minute // a connection that held this long starts the backoff anew
)

// link is one WebSocket connection.
type link struct {
	ws     *websocket.Conn
	opened time.Time
	gone   chan struct{} // closed when its reader has ended
	err    error         // why; read after gone

	// returnAfter is what a draining notice asked for. Owned by the reader, read
	// after gone.
	returnAfter time.Duration

	write sync.Mutex // one writer at a time
}

func (l *link) send(frame []byte) error {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return l.ws.WriteMessage(websocket.TextMessage, frame)
}

// open signs in where that is needed, dials, reads the welcome and starts the
// reader.
func (c *Client) open(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	token, err := c.bearer(ctx)
	if err != nil {
		return nil, err
	}
	ws, err := c.dial(ctx, token)
	if code := fault.CodeOf(err); code == fault.AuthenticationFailed || code == fault.TokenRevoked || code == fault.TokenExpired {
		if err = c.signIn(ctx); err == nil { // the server has forgotten the token: once more with a fresh one
			c.mu.Lock()
			token = c.token.Token
			c.mu.Unlock()
			ws, err = c.dial(ctx, token)
		}
	}
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(maxFrameBytes)
	l := &link{ws: ws, opened: time.Now(), gone: make(chan struct{})}
	welcome, err := readWelcome(ws, c.o.Identity.UserID())
	if err != nil {
		_ = ws.Close()
		return nil, err
	}
	c.begin(l, welcome)
	return l, nil
}

func (c *Client) dial(ctx context.Context, token string) (*websocket.Conn, error) {
	target := *c.base
	target.Scheme = map[string]string{"http": "ws", "https": "wss"}[c.base.Scheme]
	target.Path = "/ws"
	dialer := websocket.Dialer{
		Subprotocols: []string{wire.Protocol}, TLSClientConfig: c.o.TLS.Clone(),
		HandshakeTimeout: handshakeTimeout, Proxy: http.ProxyFromEnvironment,
	}
	ws, res, err := dialer.DialContext(ctx, target.String(), http.Header{"Authorization": {"Bearer " + token}})
	if res != nil && err != nil {
		body := make([]byte, 4<<10)
		n, _ := res.Body.Read(body) // gorilla keeps the beginning of the answer
		_ = res.Body.Close()
		if errors.Is(err, websocket.ErrBadHandshake) {
			return nil, problem(res.StatusCode, body[:n])
		}
	}
	return ws, err
}

func readWelcome(ws *websocket.Conn, user string) (*wire.Welcome, error) {
	if err := ws.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	_, data, err := ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	f, err := wire.DecodeServer(data)
	if err != nil {
		return nil, err
	}
	w, ok := f.(*wire.Welcome)
	if !ok || w.UserID != user {
		return nil, errors.New("the first frame was not this user's welcome")
	}
	return w, nil
}

// begin makes l the connection and sends again what waits for an ack.
func (c *Client) begin(l *link, welcome *wire.Welcome) {
	c.inbox.begin(welcome)
	c.mu.Lock()
	c.link, c.welcome = l, *welcome
	close(c.linked)
	var again [][]byte
	for _, p := range c.waiting {
		if p.again {
			again = append(again, p.frame)
		}
	}
	c.mu.Unlock()
	heartbeat := max(time.Duration(welcome.HeartbeatMS)*time.Millisecond, time.Second)
	l.ws.SetPingHandler(func(payload string) error {
		_ = l.ws.SetReadDeadline(time.Now().Add(3 * heartbeat))
		err := l.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(closeGrace))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
	c.tasks.Go(func() { c.read(l, heartbeat) })
	for _, frame := range again {
		if l.send(frame) != nil {
			return // the reader notices and the next connection tries again
		}
	}
}

// read is the connection's only reader.
func (c *Client) read(l *link, heartbeat time.Duration) {
	defer close(l.gone)
	for {
		if l.err = l.ws.SetReadDeadline(time.Now().Add(3 * heartbeat)); l.err != nil {
			return
		}
		kind, data, err := l.ws.ReadMessage()
		if err != nil {
			l.err = err
			return
		}
		if kind != websocket.TextMessage {
			continue
		}
		f, err := wire.DecodeServer(data)
		if err != nil {
			c.log.Warn("Frame of the server passed over", "error", err)
			continue
		}
		c.take(l, f)
	}
}

// take hands a frame to whoever waits for it.
func (c *Client) take(l *link, f wire.Frame) {
	switch f := f.(type) {
	case *wire.Ack:
		c.answer(f.ID, outcome{ack: f})
	case *wire.Response:
		c.answer(f.ID, outcome{response: f})
	case *wire.ErrorFrame:
		if f.ID == "" {
			c.log.Warn("The server refused a frame", "error", f.Fault)
		}
		c.answer(f.ID, outcome{err: f.Fault})
	case *wire.Progress:
		c.progress(f)
	case *wire.Notice:
		if f.Code == wire.NoticeDraining {
			l.returnAfter = f.ReconnectAfter
		}
		c.inbox.offer(f)
	default:
		c.inbox.offer(f)
	}
}

// keep holds the connection until Close, or until the server says not to come
// back.
func (c *Client) keep(l *link) {
	failures := 0
	for {
		err := c.attend(l)
		c.lost()
		if c.ctx.Err() != nil {
			c.end(context.Cause(c.ctx))
			return
		}
		var closed *websocket.CloseError
		if errors.As(err, &closed) && !wire.ShouldReconnect(closed.Code) {
			c.end(closeFault(closed))
			return
		}
		c.log.Info("Connection lost", "error", err)
		if time.Since(l.opened) > backoffReset {
			failures = 0
		}
		if l = c.reopen(l.returnAfter, &failures); l == nil {
			return
		}
	}
}

// reopen tries until there is a connection again; nil when there will be none.
func (c *Client) reopen(first time.Duration, failures *int) *link {
	wait := first
	for {
		if wait == 0 {
			wait = backoff(*failures)
		}
		*failures++
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			c.end(context.Cause(c.ctx))
			return nil
		}
		wait = 0
		l, err := c.open(c.ctx)
		if err == nil {
			return l
		}
		f, isFault := errors.AsType[*fault.Error](err)
		// A failed sign-in is no reason to give up: its one 401 has many causes, a
		// challenge that ran out among them.
		if isFault {
			wait = f.RetryAfter
		}
		c.log.Info("Connection could not be opened", "error", err)
	}
}

// backoff is full jitter: 0 … min(30 s, 0.5 · 2^n s).
func backoff(failures int) time.Duration {
	limit := min(backoffLimit, backoffBase<<min(failures, 10))
	return rand.N(limit) + time.Millisecond //nolint:gosec // a spread, not a secret
}

// attend renews the token in time and returns when the connection has ended, with
// its reason.
func (c *Client) attend(l *link) error {
	for {
		renew := time.NewTimer(c.renewIn())
		select {
		case <-l.gone:
			renew.Stop()
			_ = l.ws.Close()
			return l.err
		case <-c.ctx.Done():
			renew.Stop()
			l.bye()
			return ErrClosed
		case <-renew.C:
			c.renew(l)
		}
	}
}

// bye closes in good form where the server plays along.
func (l *link) bye() {
	deadline := time.Now().Add(closeGrace)
	message := websocket.FormatCloseMessage(wire.CloseNormal.Code, wire.CloseNormal.Reason)
	_ = l.ws.WriteControl(websocket.CloseMessage, message, deadline) // the socket is closed in any case
	select {
	case <-l.gone:
	case <-time.After(closeGrace):
	}
	_ = l.ws.Close()
	<-l.gone
}

// renewIn is how long the token may still be used: 80 % of its lifetime, less a
// little jitter.
func (c *Client) renewIn() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	expires, err := wire.ParseTime(c.token.ExpiresAt)
	if err != nil {
		return time.Hour
	}
	lifetime := expires.Sub(c.signed)
	share := renewAt - 0.05*rand.Float64() //nolint:gosec // a spread, not a secret
	return max(time.Until(c.signed.Add(time.Duration(share*float64(lifetime)))), time.Second)
}

// renewRetry is how long a failed renewal waits: there is a fifth of the token's
// lifetime left for it.
const renewRetry = 15 * time.Second

// renew signs in and hands the fresh token to the open connection.
func (c *Client) renew(l *link) {
	ctx, cancel := context.WithTimeout(c.ctx, 2*handshakeTimeout)
	defer cancel()
	if err := c.signIn(ctx); err != nil {
		c.log.Warn("Token could not be renewed", "error", err)
		select {
		case <-time.After(renewRetry):
		case <-l.gone:
		case <-c.ctx.Done():
		}
		return
	}
	c.mu.Lock()
	token := c.token.Token
	c.mu.Unlock()
	if err := l.send((&wire.Auth{Token: token}).Append(nil)); err != nil {
		c.log.Info("Fresh token could not be sent", "error", err)
	}
}

// lost takes the connection away and fails what cannot be sent again.
func (c *Client) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.linked = nil, make(chan struct{})
	for id, p := range c.waiting {
		if !p.again {
			delete(c.waiting, id)
			p.done <- outcome{err: ErrConnectionLost}
		}
	}
}

// end is final: whoever waits, or will wait, gets the reason.
func (c *Client) end(reason error) {
	c.cancel(reason)
	c.mu.Lock()
	for id, p := range c.waiting {
		delete(c.waiting, id)
		p.done <- outcome{err: reason}
	}
	c.mu.Unlock()
	c.inbox.end(reason)
}

// closeFault says what the server's last word means.
func closeFault(e *websocket.CloseError) error {
	switch e.Code {
	case wire.CloseTokenRevoked.Code:
		return fault.New(fault.TokenRevoked, "The server ended this session.").WithCause(e)
	case wire.CloseTooLarge.Code:
		return fault.New(fault.TooLarge, "The server closed the connection because a frame was too large.").WithCause(e)
	}
	return fault.Newf(fault.Forbidden, "The server closed the connection for good (%d %s).", e.Code, e.Text).WithCause(e)
}
