// Package conformance holds an executable, in whatever language it was written,
// against the plugin contract (docs/plugin.md): handshake, description, schemas
// against real calls, cancellation, deadlines, concurrency, large messages, signals,
// drain and a clean stop. It is what stands behind `plugboard plugins verify` and
// sdktest.Verify.
//
// [Run] starts the executable as a server does, several times, and plays the server.
// It never calls a command that is marked destructive, nor one whose effect is
// unknown: a command is called with the params of its examples, or, if it is
// read-only, with params made from its schema. Behind the requests that a plugin
// makes stands a store in memory, and nothing else.
//
// The package refuses to judge what the contract leaves open: that a call fails, how
// long it takes, what a plugin prints. It imports nothing from testing, so that a
// production binary can link it, and knows neither core nor sdktest.
//
// Goroutines, each waited for before Run returns: for every process one that owns it
// and two that read what it prints, for every session one receiver, and one for each
// request that the plugin makes. The processes, their directories and sockets are
// gone, too. Neighbours: sdk/pluginpb.
package conformance
