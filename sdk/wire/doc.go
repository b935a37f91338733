// Package wire is the client protocol as bytes: the frames of the WebSocket, the
// bodies of the HTTP routes, their names and limits, and the table of close
// codes (docs/protocol.md). Server and client share it, so neither can drift.
//
// Reading is in two steps. Decode turns bytes into a frame and refuses whatever
// is not one strict JSON object (docs/e2ee.md §1: duplicate names, names that
// differ only by case, invalid UTF-8, unpaired surrogates, absurd nesting) or
// has a member of the wrong kind; Validate holds the members against their
// rules. Errors are [fault.Error]s that name the member and the rule.
//
// Writing is by Append, without reflection: raw JSON that was signed (params)
// passes through byte for byte.
//
// The package owns no state, starts no goroutine and imports only fault.
package wire
