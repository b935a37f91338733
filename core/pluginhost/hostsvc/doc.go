// Package hostsvc answers what a plugin asks of the server (docs/plugin.md §2,
// the HostRequest messages), each kind behind a capability that the operator
// granted to that plugin.
//
// A [Service] belongs to one session of one plugin: who asks is known from the
// session on which the request came, never from the request. A [Usage] belongs to
// the plugin and outlives its processes: how fast it may ask, and what it asked for
// without having been granted it. What the grant does not cover is refused, unless
// the operator only observes; what comes too fast, is malformed or goes beyond the
// quota is always.
//
// It starts no goroutine. Neighbours: pluginhost calls it, and it calls
// core.HostServices.
package hostsvc
