// Package pluginhost runs plugins: it finds their files, checks and copies them,
// starts each as a child process through hashicorp/go-plugin, learns what it
// offers, publishes that in the catalogue, carries calls to it over one
// bidirectional stream, and restarts it when it fails (docs/plugin.md).
//
// The road of a plugin, one file each: watch (what lies in the directory, once it is
// whole) → scan (which files) → trust (may it be run) → binaries (a private copy, by
// its hash) → house (plugins.lock, grants, sandbox) → process (the child and its
// output) → generation (one life of a plugin: process, connection, description) →
// session (the stream and the calls on it). A slot is a plugin's place: it takes
// calls whatever becomes of the generations in it. A supervisor per slot owns them:
// one select over exits, health, files, settings and operators; what it does next is
// decided by the pure function in breaker.go, and what others want of it stands in
// orders.go. attach.go is for plugins under a debugger, inspect.go asks a file what it
// is, operator.go is what operators may do.
//
// A replacement is ready before it takes over. Then the catalogue gets its commands,
// the slot switches in one step, and the former generation finishes its calls beside.
// Calls come in by an offer, which is what was published at one time: one that was
// checked against a former offer is sent back to be checked anew.
//
// It refuses to run a file that somebody else could have written, and it knows
// neither users nor frames: calls come in as core.Call and what plugins ask for
// goes to hostsvc.
//
// Goroutines: one watcher; one supervisor per slot, which waits for everything below
// it. Per generation: the owner of the child process (bound to an OS thread, because
// the parent-death signal is the thread's), one reader each for stdout and stderr, the
// session's sender and receiver, and at most 16 for host requests. While a
// generation starts, one that starts it; while one retires, one that retires it.
// go-plugin adds its own, which end with the process. [Host.Stop] returns when all
// have ended.
//
// Queues: calls that wait for a place or for a restart (Options.MaxConcurrent of
// them per plugin; then overloaded), messages to a plugin (twice MaxConcurrent and
// some; callers wait until their deadline, a cancellation that finds it full is
// dropped and counted), output of a plugin (1 MiB a second; the rest is dropped and
// counted), orders to a supervisor (none: who gives one waits until it is taken, which
// is between two events). A call that ignores its cancellation keeps its place until
// the plugin answers it or dies.
//
// Neighbours: command provides the catalogue and invokes the slots; sdk is the
// other end of the stream.
package pluginhost
