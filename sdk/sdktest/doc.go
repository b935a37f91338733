// Package sdktest runs a plugin in a test, with a server that the test controls.
//
// [Start] runs a [sdk.Plugin] inside the test over the real gRPC service on an
// in-memory listener; [StartProcess] runs an executable as the server would, with
// handshake, AutoMTLS, lifeline and drain. Either returns an [Instance] whose
// [Instance.Call] does what a user's request does, and whose [Host] answers what
// the plugin asks, records it, and can be told to refuse.
//
// It owns the session's server side and ends it, with everything it started, when
// the test does. It refuses to be a server: no policy, no queue, no restart; what a
// plugin must bear there is the business of core/pluginhost.
//
// Goroutines, each waited for by the test's cleanup: the in-memory gRPC server, one
// receiver, and one for each request the plugin makes. Neighbours: package sdk,
// sdk/pluginpb, sdk/fault.
package sdktest
