package transport

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// queueBytes bounds what waits on one connection beside the number of frames: a
// full queue of small frames is fine, one of large frames is not.
const queueBytes = 1 << 20

// Conn is one WebSocket connection: the core.Outbox of its session.
type Conn struct {
	// Fixed after construction.

	t       *Transport
	ws      *websocket.Conn
	session *core.Session
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc

	writers sync.WaitGroup // the writer, while there is one

	// Owned by the pacer.

	nextPing time.Time
	warned   time.Time // expiry of the token that a notice was sent for

	// Owned by the reader.

	pings      int // in the second that began at pingSecond
	pingSecond time.Time

	mu      sync.Mutex
	queue   []*core.Encoded // waiting from head on
	head    int
	bytes   int
	writing bool        // a writer exists
	lagging bool        // somebody was refused and is to be told of room
	ping    bool        // a ping is due
	pong    []byte      // the newest unanswered ping's payload
	closing *wire.Close // why, once it is decided
	closed  bool        // nothing may be written any more

	welcomed bool      // the welcome is queued: anything else may follow it
	closeBy  time.Time // when a connection that is closing must have written what is queued
}

// waiting is the length of the queue.
func (c *Conn) waitingLocked() int { return len(c.queue) - c.head }

// Offer queues a frame that may be refused. A quarter of the queue is kept for
// answers.
func (c *Conn) Offer(f *core.Encoded) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enqueueLocked(f, c.offerLimit())
}

func (c *Conn) offerLimit() int { return max(1, c.t.SendQueue*3/4) }

// Room is how many frames Offer would take now.
func (c *Conn) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	room := max(0, c.offerLimit()-c.waitingLocked())
	if room == 0 {
		c.lagging = true
	}
	return room
}

// Answer queues a frame that must not be lost. A client that does not read its
// answers is a slow consumer.
func (c *Conn) Answer(f *core.Encoded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.enqueueLocked(f, c.t.SendQueue) {
		c.closeLocked(wire.CloseSlowConsumer)
	}
}

func (c *Conn) enqueueLocked(f *core.Encoded, limit int) bool {
	if c.closing != nil || c.closed {
		return true // on its way out: what is not stored would be lost with the socket anyway
	}
	if waiting := c.waitingLocked(); waiting >= limit || waiting > 0 && c.bytes+len(f.JSON) > queueBytes {
		c.lagging = true
		return false
	}
	if c.head > len(c.queue)/2 { // a queue that never empties must not grow behind its head
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
	c.queue = append(c.queue, f)
	c.bytes += len(f.JSON)
	c.kickLocked()
	return true
}

// Close ends the connection: what is queued is written, then the close frame. A
// slow consumer's queue is dropped, and counted.
func (c *Conn) Close(reason wire.Close) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(reason)
}

func (c *Conn) closeLocked(reason wire.Close) {
	if c.closing != nil || c.closed {
		return
	}
	c.closing, c.closeBy = &reason, time.Now().Add(writeTimeout)
	c.t.metrics.closed.WithLabelValues(closeLabel(reason.Code)).Inc()
	if reason == wire.CloseSlowConsumer {
		c.t.metrics.droppedFrames.WithLabelValues(dropSlowConsumer).Add(float64(c.waitingLocked()))
		c.dropQueueLocked()
		_ = c.ws.NetConn().SetWriteDeadline(time.Now().Add(closeGrace)) // frees a writer that is stuck
	}
	c.kickLocked()
}

func (c *Conn) dropQueueLocked() { c.queue, c.head, c.bytes = nil, 0, 0 }

// kickLocked makes sure that a writer is there.
func (c *Conn) kickLocked() {
	if c.writing || c.closed {
		return
	}
	c.writing = true
	c.writers.Go(c.write)
}

// cutOff ends the connection without a word.
func (c *Conn) cutOff() {
	c.cancel()
	_ = c.ws.NetConn().Close() // whatever it says, the reader wakes
}

// write runs while there is something to write, and is the only one who does.
func (c *Conn) write() {
	for {
		s, more := c.next()
		if !more {
			return
		}
		if err := c.send(s); err != nil {
			c.mu.Lock()
			c.closed, c.writing = true, false
			c.t.metrics.droppedFrames.WithLabelValues(dropWriteFailed).Add(float64(c.waitingLocked()))
			c.dropQueueLocked()
			c.mu.Unlock()
			if !errors.Is(err, websocket.ErrCloseSent) { // the library closed for a breach: the reader sees to the rest
				c.cutOff()
			}
			return
		}
	}
}

// step is the one next thing to write.
type step struct {
	frame *core.Encoded
	pong  []byte
	ping  bool
	close *wire.Close

	closeBy time.Time // zero while the connection is not closing
}

// next takes the next step, or retires the writer. Pongs and pings go before
// frames: they say that we live, however long the queue.
func (c *Conn) next() (s step, more bool) {
	c.mu.Lock()
	wake := false
	s.closeBy = c.closeBy
	switch {
	case c.closed:
	case c.pong != nil:
		s.pong, c.pong = c.pong, nil
		more = true
	case c.ping:
		s.ping, c.ping = true, false
		more = true
	case c.waitingLocked() > 0:
		s.frame = c.queue[c.head]
		c.queue[c.head] = nil
		c.head++
		c.bytes -= len(s.frame.JSON)
		more = true
		if wake = c.lagging && c.waitingLocked() <= c.t.SendQueue/2 && c.bytes <= queueBytes/2; wake {
			c.lagging = false
		}
	case c.closing != nil:
		s.close, c.closed = c.closing, true
		more = true
	}
	if c.waitingLocked() == 0 {
		c.dropQueueLocked() // an idle connection keeps no queue
	}
	c.writing = more
	c.mu.Unlock()
	if wake {
		c.t.Delivery.Wake(c.session.UserID())
	}
	return s, more
}

func (c *Conn) send(s step) error {
	deadline := time.Now().Add(writeTimeout)
	if !s.closeBy.IsZero() && s.closeBy.Before(deadline) {
		deadline = s.closeBy
	}
	switch {
	case s.pong != nil:
		return c.ws.WriteControl(websocket.PongMessage, s.pong, deadline)
	case s.ping:
		return c.ws.WriteControl(websocket.PingMessage, nil, deadline)
	case s.close != nil:
		message := websocket.FormatCloseMessage(s.close.Code, s.close.Reason)
		err := c.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(closeGrace))
		_ = c.ws.NetConn().SetReadDeadline(time.Now().Add(closeGrace)) // for the peer's half of the handshake
		return err
	}
	if err := c.ws.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if s.frame.Shared {
		framed, ok := s.frame.Framed(prepare).(*websocket.PreparedMessage)
		if ok {
			return c.ws.WritePreparedMessage(framed)
		}
	}
	return c.ws.WriteMessage(websocket.TextMessage, s.frame.JSON)
}

// prepare frames a message once for all connections that get it.
func prepare(json []byte) any {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, json)
	if err != nil {
		return nil // each connection frames it by itself then
	}
	return m
}
