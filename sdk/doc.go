// Package sdk is what the author of a Plugboard plugin imports, and all that the
// author imports (docs/plugin.md §4).
//
// A plugin is a [Plugin] value with its commands, handed to [Serve] by main. The
// commands are Go functions with typed params and results, wrapped by [Handle] or
// [Stream]; their JSON Schemas come from those types. Everything a command needs
// arrives in its [Call]: who asked, a log, and the [Host] through which it may ask
// the server for what its operator granted.
//
// The package owns the plugin's side of the session (docs/plugin.md §2): it
// decodes and encodes, keeps deadlines and cancellation, recovers a panic, drains,
// and ends the process when the server is gone. It refuses to show a user any
// text that the author did not choose to show: see [Failf].
//
// Goroutines. A session has one receiver and one sender, a goroutine per call in
// flight, one for [Plugin.Background] and one that waits for those; the session
// ends only after all of them but the receiver, which ends with the stream and for
// which [Server.Wait] waits. Serve adds two that live as long as the process: one
// drains SIGINT and SIGTERM, which the server's drain replaces, and one watches
// the lifeline.
//
// Queues. 256 messages wait for the sender: a full queue blocks results, progress
// and requests to the server, and drops log records, which are counted and
// reported. 1024 calls run at once: another is refused as overloaded. 64 pongs and
// refusals wait beside that: if they too are stuck, the server reads nothing any
// more, and the session ends as soon as its sender is free.
//
// Neighbours: sdk/pluginpb holds the messages, sdk/fault the codes of failure,
// sdk/wire the shape of a command's description; sdk/sdktest runs a plugin in a
// test. Nothing here imports the server.
package sdk
