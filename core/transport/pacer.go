package transport

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// warnAt is the share of a token's lifetime after which its owner is told.
const warnAt = 0.9

// pace looks at every connection about once a second: one goroutine for all,
// where a timer a connection would cost each of them.
func (t *Transport) pace(ctx context.Context) {
	tick := time.NewTicker(min(time.Second, t.Heartbeat/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := t.Now()
		for _, c := range t.snapshot() {
			c.pace(now)
		}
	}
}

// pace does what is due: a ping, a warning, the end.
func (c *Conn) pace(now time.Time) {
	issued, expires := c.session.TokenTimes()
	switch {
	case !now.Before(expires):
		c.Close(wire.CloseTokenExpired)
		return
	case expires.Equal(c.warned), !c.isWelcomed():
	case !now.Before(issued.Add(time.Duration(warnAt * float64(expires.Sub(issued))))):
		c.warned = expires
		c.Answer(core.Encode(&wire.Notice{
			Code: wire.NoticeTokenExpiring, Message: "The token of this connection runs out; send an auth frame with a fresh one.",
			ExpiresAt: wire.FormatTime(expires),
		}))
	}
	if !now.Before(c.nextPing) {
		c.nextPing = now.Add(c.t.Heartbeat)
		c.mu.Lock()
		c.ping = true
		c.kickLocked()
		c.mu.Unlock()
	}
}

// returnsPerSecond spreads the clients of a restart: nobody's return should be
// part of a storm.
const returnsPerSecond = 500

// announceDrain tells every client that the server is leaving and when to come
// back, each at another moment, and refuses their further commands.
func (t *Transport) announceDrain(conns []*Conn) {
	spread := max(time.Second, time.Duration(len(conns))*time.Second/returnsPerSecond)
	for _, c := range conns {
		c.session.Calls.Drain()
		if !c.isWelcomed() {
			continue // the hub will refuse it, and it is told by its close code
		}
		c.Answer(core.Encode(&wire.Notice{
			Code: wire.NoticeDraining, Message: "The server is shutting down; connect again after the time given.",
			ReconnectAfter: time.Millisecond + rand.N(spread), //nolint:gosec // a spread, not a secret
		}))
	}
}
