// Package core is the vocabulary of the server: what a user, a session, a
// message, a mailbox, a command and a call are, and the contracts that have more
// than one implementation. It says what things are; the rooms below it say how.
//
// README.md in this folder is the map of the house. The package imports nothing
// of ours but the protocol (sdk/...), owns no state beyond what a live [Session]
// carries and starts a goroutine only for [Calls.Start], which the session's
// connection waits for.
package core
