// Package command is everything that stands between a request to run a command
// and the plugin that runs it: the catalogue of what plugins published, the
// operator's policy, the check of params against the command's schema, the
// deadline, and the command log.
//
// It refuses to know where a call came from (a frame, an HTTP request, a tool
// call: all arrive as core.Call) and how a plugin is reached (a plugin is a
// core.Invoker). Every surface therefore meets one policy and leaves one trail.
//
// Goroutines: one, the command log's writer, between [Dispatcher.Start] and
// [Dispatcher.Stop]. Neighbours: the router and the HTTP surface call Dispatch
// and List, pluginhost publishes into the [Catalogue], a store keeps the log.
package command
