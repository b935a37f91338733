package core

import (
	"context"

	"github.com/plugboard/plugboard/sdk/wire"
)

// Request is one inbound frame on its way through the pipeline. Each stage adds
// what it found out; nothing is taken away.
type Request struct {
	Session *Session
	// Raw is the frame as it was read; valid until the handler returns.
	Raw []byte

	// ID is the id that the answer carries, as far as it could be read. Set by decode.
	ID string
	// Frame is set by decode and checked by validate.
	Frame wire.ClientFrame
	// Malformed is set by decode where there is no frame: it is answered once the
	// limit stage has charged for it, because wrong frames cost a token too.
	Malformed error

	// Recipient and Message are set by verify for a direct message: ready to be
	// stored but for seq and server time.
	Recipient *Account
	Message   *Message
	// Stored is set by verify where the message had been stored before, so that a
	// late retry gets its first answer.
	Stored *Stored

	// SignatureVerified and SignedDigest are set by verify for a command.
	SignatureVerified bool
	SignedDigest      [32]byte
}

// Handler takes the frames of a connection, in order, from its reader. It
// answers through the session's outbox and returns when the next frame may be
// read.
type Handler interface {
	Handle(ctx context.Context, s *Session, frame []byte)
}

// Route is where the pipeline ends: it processes a request that passed every
// stage. An error is answered by the pipeline as the frame's one answer; on nil
// the route has answered or will.
type Route func(ctx context.Context, r *Request) error
