// Package sandbox confines a plugin's process before its first instruction: resource
// limits, no new privileges, no capabilities, Landlock for files, the network and
// signals, seccomp for system calls. An unconfined child of the same user could read
// the server's keys and the database, so what the server checks at a plugin's requests
// is only worth as much as this.
//
// The road: the host asks [Launch] how to start a plugin. That starts the server's own
// executable again, which finds before its main that it is a launcher, puts the limits
// on itself and executes the plugin in its place. Nothing of this
// needs root, and nothing of it can be taken off again.
//
// A confined plugin may read and execute the system's software (/usr and its like),
// read and write its own run directory, listen on Unix sockets there, and nothing else:
// no other file, no network, no other process. What more it needs, an operator grants:
// net, read:/path, write:/path, exec:/path.
//
// Only Linux has all of this. [Detect] says what a machine lacks; how much of it may
// be lacking is the host's decision ([Mode]). The package starts no goroutine and owns
// no state. Neighbours: pluginhost.
package sandbox
