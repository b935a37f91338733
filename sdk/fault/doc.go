// Package fault is the one vocabulary of failure that the server, its plugins
// and its clients share.
//
// An [Error] has two faces. The code, the sentence and the details are for the
// stranger at the other end and may always be shown. The cause, reached through
// errors.Unwrap, is for the operator: it is logged and never sent. Whatever is
// not an [Error] becomes [Internal] at the edge, so that no internal text can
// reach a client by accident.
//
// The set of codes is closed (docs/protocol.md §5). The package imports nothing
// of ours and starts no goroutine.
package fault
