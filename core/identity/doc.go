// Package identity owns who somebody is: registration, sign-in challenges,
// tokens, key bundles and revocation (docs/e2ee.md §2, §5, §6), and the server's
// own keys. It stands in front of the store's users and sign-ins with a bounded
// cache of accounts, which the write that changes an account changes too.
//
// It refuses everything that docs/e2ee.md does not allow, with the same words for
// every cause where a difference would tell a stranger something. It never logs
// keys, challenges, tokens or signatures, and it knows nothing of HTTP or
// connections: transport declares the interfaces through which it is asked, and
// Options.OnRevoked is how others hear of the end of a session.
//
// One goroutine, from Start to Stop, forgets revocations whose tokens are over.
//
// What a stranger's clock can see: sign-in looks known and unknown users up in the
// same way, remembers both, and verifies one signature either way. The first
// attempt after a pause costs one read of the store for both; a user whom others
// are writing to just now is remembered already.
package identity
