package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// maxPingsPerSecond is what a peer may ask for free.
const maxPingsPerSecond = 50

// run is the life of a connection: welcome, register, read, unregister, wait for
// what it started.
func (c *Conn) run(token string) {
	defer c.finish()
	if err := c.open(token); err != nil {
		if fault.CodeOf(err) == fault.ShuttingDown {
			c.Close(wire.CloseGoingAway)
		} else {
			c.t.Logger.Warn().Err(err).Str("conn", c.session.ConnID).Msg("Connection could not be opened")
			c.Close(wire.CloseInternal)
		}
		c.drainSocket()
		return
	}
	defer c.leave()
	c.read()
}

// open sends the welcome, makes the session findable and asks delivery to look:
// in this order the welcome is first, and what is stored in between is found.
func (c *Conn) open(token string) error {
	ctx, cancel := context.WithTimeout(c.ctx, rowTimeout)
	defer cancel()
	welcome, err := c.t.welcome(ctx, c.session)
	if err != nil {
		return err
	}
	c.Answer(core.Encode(welcome))
	c.mu.Lock()
	c.welcomed = true
	c.mu.Unlock()
	if err := c.t.Hub.Add(c.session); err != nil {
		return err
	}
	c.t.metrics.connections.Inc()
	// Whoever revoked the token during the handshake did not find this session.
	if _, err := c.t.Tokens.Authenticate(ctx, token); err != nil {
		c.Close(wire.CloseTokenRevoked)
	}
	c.t.Delivery.Wake(c.session.UserID())
	c.t.Logger.Debug().Str("conn", c.session.ConnID).Str("user", c.session.UserID()).Str("session", c.session.Principal.SessionID).
		Str("addr", c.session.Remote.Addr).Msg("Connection opened")
	row := c.row()
	if err := c.t.Sessions.OpenSession(ctx, &row); err != nil {
		c.t.Logger.Warn().Err(err).Str("conn", c.session.ConnID).Msg("Session row could not be written")
	}
	return nil
}

func (c *Conn) row() core.SessionRow {
	s := c.session
	return core.SessionRow{
		ConnID: s.ConnID, SessionID: s.Principal.SessionID, UserID: s.UserID(), ConnectedAt: s.ConnectedAt, Remote: s.Remote,
		SentCount: s.Sent.Load(), ReceiveCount: s.Received.Load(),
	}
}

// leave undoes open, and ends the connection's commands.
func (c *Conn) leave() {
	c.t.Hub.Remove(c.session)
	c.t.metrics.connections.Dec()
	c.cancel()
	c.session.Calls.Wait()
	row := c.row()
	row.EndedAt = c.t.Now()
	// The connection's own context has ended; its row is still worth a moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), rowTimeout)
	defer cancel()
	if err := c.t.Sessions.CloseSession(ctx, &row); err != nil {
		c.t.Logger.Warn().Err(err).Str("conn", c.session.ConnID).Msg("Session row could not be closed")
	}
	c.t.Logger.Debug().Str("conn", c.session.ConnID).Str("user", c.session.UserID()).Msg("Connection closed")
}

// finish waits for the writer and closes the socket.
func (c *Conn) finish() {
	c.cancel()
	c.mu.Lock()
	if c.closing == nil { // the peer vanished: there is nobody to write to
		c.closed = true
		c.t.metrics.closed.WithLabelValues(closeVanished).Inc()
		c.t.metrics.droppedFrames.WithLabelValues(dropPeerGone).Add(float64(c.waitingLocked()))
		c.dropQueueLocked()
	}
	c.mu.Unlock()
	_ = c.ws.NetConn().SetWriteDeadline(time.Now().Add(closeGrace))
	c.writers.Wait()
	_ = c.ws.Close() // the peer may have closed first
}

// read hands frames over until the connection ends.
func (c *Conn) read() {
	for {
		if c.extend() != nil {
			return
		}
		kind, r, err := c.ws.NextReader()
		if err != nil {
			c.readFailed(err)
			return
		}
		if err := c.readFrame(kind, r); err != nil {
			c.readFailed(err)
			return
		}
	}
}

// extend gives the peer two heartbeats of silence, counted from its last complete
// frame or pong. A connection that is closing gets no more time than its grace.
func (c *Conn) extend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.ws.SetReadDeadline(time.Now().Add(2 * c.t.Heartbeat))
}

// readFrame reads into a pooled buffer, taken only once a frame has begun: an idle
// connection holds none.
func (c *Conn) readFrame(kind int, r io.Reader) error {
	buf, ok := c.t.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	defer c.t.buffers.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(r); err != nil {
		return err
	}
	switch {
	case c.isClosing():
	case kind == websocket.BinaryMessage:
		c.Close(wire.CloseBinary)
	case !utf8.Valid(buf.Bytes()):
		c.Close(wire.CloseNotUTF8)
	default:
		c.t.Handler.Handle(c.ctx, c.session, buf.Bytes())
	}
	return nil
}

// isWelcomed reports whether the welcome, the first frame of every connection, is
// queued.
func (c *Conn) isWelcomed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.welcomed
}

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing != nil || c.closed
}

// readFailed notes why reading ended. The library has answered a breach of
// framing or size with 1002 or 1009 already; the peer may still be writing, and
// would lose our close frame to a reset if the socket went away at once.
func (c *Conn) readFailed(err error) {
	reason := wire.CloseFraming
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed), isNetwork(err):
		return // onPeerClose has seen to it, or nobody is there
	case errors.Is(err, websocket.ErrReadLimit):
		reason = wire.CloseTooLarge
	}
	c.mu.Lock()
	if c.closing == nil {
		c.closing = &reason
		c.t.metrics.closed.WithLabelValues(closeLabel(reason.Code)).Inc()
	}
	c.closed = true
	c.dropQueueLocked()
	c.mu.Unlock()
	c.drainSocket()
}

// drainSocket reads on for a moment, so that the peer finds our close frame.
func (c *Conn) drainSocket() {
	_ = c.ws.NetConn().SetReadDeadline(time.Now().Add(closeGrace))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.ws.NetConn(), queueBytes))
}

func isNetwork(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || errors.As(err, &timeout)
}

// onPing answers through the writer, and only as often as anybody could mean it.
func (c *Conn) onPing(payload string) error {
	now := time.Now()
	if now.Sub(c.pingSecond) >= time.Second {
		c.pingSecond, c.pings = now, 0
	}
	if c.pings++; c.pings > maxPingsPerSecond {
		c.Close(wire.ClosePolicy)
		return nil
	}
	c.mu.Lock()
	c.pong = []byte(payload)
	c.kickLocked()
	c.mu.Unlock()
	return c.extend()
}

// onPeerClose echoes the peer's close (RFC 6455 §5.5.1).
func (c *Conn) onPeerClose(code int) {
	echo := wire.CloseNormal
	if code != websocket.CloseNoStatusReceived {
		echo.Code = code
	}
	echo.Reason = ""
	c.Close(echo)
}
