// Package client is the Go client of a Plugboard server: identities on disk,
// registration, sign-in, a connection that comes back by itself, commands, sealed
// direct messages, broadcasts (docs/protocol.md, docs/e2ee.md).
//
// A [Client] speaks for one [Identity]. [Client.Connect] signs in and opens the
// WebSocket; from then on one goroutine keeps the connection, another reads it,
// and [Client.Close] waits for both. What the server sends goes into a bounded
// queue that [Client.Events] empties: direct messages that do not fit stay in the
// mailbox and are fetched when there is room, anything else that does not fit is
// dropped and counted, as the protocol allows.
//
// Nothing is trusted that the server says about keys: the first identity key seen
// of a peer is pinned, another one blocks sending until a person accepts it, and
// no encryption key is used that the pinned identity did not sign. What a plugin of
// the server writes is the server's own word: it is handed over as that, marked with
// the plugin's name.
//
// The package imports the sdk's floor packages only and touches no default of
// net/http.
package client
