// Package pluginpb is what a Plugboard server and a plugin process must agree
// on: the messages and the service of plugin.proto (docs/plugin.md §2) with
// their generated Go code, the handshake by which a child process recognises its
// server, the size limit of a message, and the names of the environment
// variables that pass between them.
//
// It refuses to know how either side behaves: the server's part is in
// core/pluginhost, the plugin's in package sdk. Plugin authors import sdk, never
// this package; whoever writes plugins in another language needs plugin.proto
// and the constants of handshake.go.
//
// It starts no goroutine and imports nothing of ours.
package pluginpb
