// Package transport is the server's public face: the listener, TLS, the HTTP
// routes and the WebSocket connections (docs/protocol.md §2, §3, §6).
//
// A connection is a [Conn]: one reader, and one writer that exists only while
// there is something to write, because an idle connection should cost little. The
// reader hands frames to the core.Handler; everybody else reaches the connection
// through its bounded queue (core.Outbox) and never touches the socket.
//
// Goroutines: the HTTP server's, a reader and at times a writer a connection, and
// one pacer for all of them, which sends pings, warns of tokens that run out and
// closes what has expired. Stop waits for all of them. http.Server.Shutdown knows
// nothing of upgraded connections, so transport keeps its own set.
//
// The rooms that do the work are reached through the small interfaces in
// transport.go.
package transport
