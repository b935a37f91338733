// Package lockfile reads and writes plugins.lock: which binaries of which plugins
// may run under plugins.trust: locked, and with which grants (docs/plugin.md §1).
// Like go.sum it is text, one line each, sorted, meant to be reviewed.
//
//	# plugboard plugins.lock v1
//	echo 1.0.0 sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 -
//	weather 1.2.0 sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 kv,net
//
// The server only reads it; whoever adds plugins writes it. The package starts no
// goroutine and owns no state. Neighbours: pluginhost, and the commands that add and
// lock plugins.
package lockfile
