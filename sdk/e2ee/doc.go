// Package e2ee owns the cryptography of the protocol: key bundles, sealed direct
// messages, and the bytes that every signature covers. docs/e2ee.md is its
// contract, down to the byte; testdata/e2ee-vectors.json is that contract worked
// out, and this package passes all of it.
//
// A sender fills a [Header] from what it has pinned of the recipient and calls
// [Seal]. The server calls [Envelope.Verify], which needs public keys only. The
// recipient rebuilds the same Header from the frame, its own keys and its pins,
// and calls [Open]. [Bundle.Check] decides whether a key that a server hands out
// may be used. The transcript functions return what is signed for the other
// purposes; [Verify] checks such a signature, crypto/ed25519 makes it.
//
// The package refuses more than the libraries beneath it: identity keys of low
// order, under which one signature fits every message; encryption keys that force
// the shared secret to zero; a message whose key commitment, padding or any other
// part is not exactly what the specification makes of it. There are no options,
// no algorithms to choose from and no second attempt with other keys.
//
// It starts no goroutine, keeps no state and does no input or output but reading
// the system's random source. All functions may be called from any goroutine, on
// values that nobody changes meanwhile. It stores no keys and remembers no
// message: pins and the ids seen are the client's to keep (docs/e2ee.md §2, §4).
// It builds on sdk/wire for the grammar of names and times; the server, the Go
// client and plugins build on it.
package e2ee
