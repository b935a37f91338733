// Package hostsvc answers what a plugin asks of the server (docs/plugin.md §2,
// the HostRequest messages), each kind behind a capability that the operator
// granted to that plugin.
//
// A [Service] belongs to one plugin: who asks is known from the session on which
// the request came, never from the request. The package refuses whatever the
// grant does not cover, and whatever this server does not offer to any plugin
// (key-value storage, sending and broadcasting), with a sentence that says which
// of the two it is.
//
// It starts no goroutine and owns no state. Neighbours: pluginhost calls it, and
// it calls core.HostServices.
package hostsvc
