// Package pipeline is the way of a frame from a connection's reader to the
// router: one visible chain of stages, one short file for each.
//
//	decode     bytes → frame                                       decode.go
//	limit      token buckets of the user; wrong frames pay too     limit.go
//	validate   members against their rules                         validate.go
//	authorize  the token is still good, the sender speaks as itself  authorize.go
//	verify     recipient, digest, signature, age, key version      verify.go
//	audit      what was accepted, for the log and the counters     audit.go
//	           → router
//
// The first stage that refuses ends the way; its error is answered in one place,
// [Chain.Handle], as the frame's one final answer. Cheap stages stand before
// costly ones: limit stands before verify because an Ed25519 verification costs
// a hundred times what a bucket does, and whoever may ask for it without limit
// owns a core.
//
// The package stores nothing and starts no goroutine: a chain runs on the reader
// of the connection whose frame it is. It looks accounts up through identity's
// cache and, only when a direct message is about to be refused, asks the store
// whether it is a retry.
package pipeline
