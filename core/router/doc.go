// Package router is where a frame that passed the pipeline is processed: direct
// messages into the store, broadcasts to everybody, commands to their plugins.
// The small frames that steer a connection (ack, cancel, auth) are answered in
// router.go.
//
// It owns no state. A command runs in a goroutine of its connection's call set
// (core.Calls), which the connection waits for; everything else runs on the
// connection's reader. Its neighbours are reached through small interfaces: the
// store's mailboxes, the hub, the bus that wakes delivery, the command
// dispatcher and identity.
package router
