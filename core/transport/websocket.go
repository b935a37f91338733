package transport

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// webSocket: GET /ws. The order is the one of docs/protocol.md §3: everything
// that can be refused is refused as HTTP, before the upgrade.
func (t *Transport) webSocket(w http.ResponseWriter, r *request) (int, any, error) {
	if t.draining.Load() {
		return 0, nil, fault.New(fault.ShuttingDown, "The server is shutting down; connect again shortly.")
	}
	token, ok := t.handshakeToken(r)
	if !ok {
		return 0, nil, errNoToken()
	}
	p, err := t.Tokens.Authenticate(r.Context(), token)
	if err != nil {
		return 0, nil, err
	}
	account, err := t.Keys.Account(r.Context(), p.UserID)
	if err != nil {
		return 0, nil, err
	}
	if offered := websocket.Subprotocols(r.Request); len(offered) > 0 && !slices.Contains(offered, wire.Protocol) {
		return 0, nil, fault.Newf(fault.InvalidRequest, "This server speaks the subprotocol %s.", wire.Protocol)
	}
	address := addressKey(r.remote.Addr)
	if err := t.caps.take(p.UserID, address); err != nil {
		t.metrics.refused.Inc()
		return 0, nil, err
	}
	ws, err := t.upgrader.Upgrade(w, r.Request, nil)
	if err != nil { // answered by badUpgrade
		t.caps.give(p.UserID, address)
		return 0, nil, nil
	}
	c := t.newConn(ws, p, account, r.remote)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed { // Stop has counted its connections
		t.caps.give(p.UserID, address)
		_ = ws.Close()
		return 0, nil, nil
	}
	t.conns[c] = struct{}{}
	// The HTTP handler's goroutine and its buffers cost three times what a
	// connection may: leave it, and read on in one of our own.
	t.readers.Go(func() {
		defer func() {
			t.mu.Lock()
			delete(t.conns, c)
			t.mu.Unlock()
			t.caps.give(p.UserID, address)
		}()
		c.run(token)
	})
	return 0, nil, nil
}

// handshakeToken finds the token in the order of preference: header, subprotocol,
// query.
func (t *Transport) handshakeToken(r *request) (string, bool) {
	if header := r.Header.Get("Authorization"); header != "" {
		return bearer(header)
	}
	for _, p := range websocket.Subprotocols(r.Request) {
		if token, ok := strings.CutPrefix(p, wire.BearerPrefix); ok {
			return token, token != ""
		}
	}
	if t.QueryToken {
		token := r.URL.Query().Get("token")
		return token, token != ""
	}
	return "", false
}

func (t *Transport) badUpgrade(w http.ResponseWriter, status int, reason error) {
	t.Logger.Debug().Err(reason).Msg("Upgrade refused")
	f := fault.New(fault.InvalidRequest, "This route is a WebSocket (RFC 6455, version 13); the request is no valid handshake.")
	problem := wire.NewProblem(f)
	problem.Status, problem.Title = status, http.StatusText(status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	data, _ := wire.Marshal(problem) // strings and numbers always encode
	_, _ = w.Write(data)
}

func (t *Transport) newConn(ws *websocket.Conn, p core.Principal, account *core.Account, remote core.Remote) *Conn {
	now := t.Now()
	c := &Conn{t: t, ws: ws, nextPing: now.Add(t.Heartbeat)}
	c.ctx, c.cancel = context.WithCancel(t.base)
	c.session = core.NewSession(uuid.NewString(), p, account, remote, now, c, core.NewCalls(c.ctx, t.MaxCalls))
	ws.SetReadLimit(int64(t.MaxFrameBytes))
	ws.SetPingHandler(c.onPing)
	ws.SetPongHandler(func(string) error { return c.extend() })
	ws.SetCloseHandler(func(code int, _ string) error { c.onPeerClose(code); return nil })
	return c
}

// welcome is the first frame, built from the mailbox as it is now; what is stored
// later comes as live traffic.
func (t *Transport) welcome(ctx context.Context, s *core.Session) (*wire.Welcome, error) {
	box, err := t.Mailboxes.Mailbox(ctx, s.UserID())
	if err != nil {
		return nil, err
	}
	s.Delivered, s.Acked = box.AckedSeq, box.AckedSeq
	return &wire.Welcome{
		Protocol: wire.Protocol, UserID: s.UserID(), SessionID: s.Principal.SessionID, ServerTime: wire.FormatTime(t.Now()),
		Server: core.ServerName + "/" + t.Version, Node: t.Node, LastSeq: box.LastSeq, AckedSeq: box.AckedSeq,
		HeartbeatMS: uint64(t.Heartbeat / time.Millisecond), TokenExpiresAt: wire.FormatTime(s.Principal.ExpiresAt), // positive
		Limits: wire.Limits{MaxFrameBytes: uint64(t.MaxFrameBytes), Rate: t.Rate, Burst: t.Burst}, // positive
	}, nil
}
