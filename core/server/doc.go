// Package server puts the rooms together: the only package that knows every one
// of them, and the configuration. server.go builds and wires them by hand, in
// order; run.go starts them downwards and stops them upwards; host.go is what the
// server tells its plugins. It owns one goroutine of its own, the retention loop.
package server
