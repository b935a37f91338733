package pipeline

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// How far a timestamp may be off the server's clock (docs/e2ee.md §3, §5).
const (
	maxAhead         = 5 * time.Minute
	maxMessageBehind = 24 * time.Hour
	maxCommandBehind = 5 * time.Minute
)

// verify checks signatures, ages and key versions, and prepares a direct message
// for the store.
func verify(accounts Accounts, lookup Lookup, requireEncryption bool, now func() time.Time) Stage {
	v := verifier{accounts, lookup, requireEncryption, now}
	return func(ctx context.Context, r *core.Request) error {
		switch f := r.Frame.(type) {
		case *wire.Direct:
			return v.direct(ctx, r, f)
		case *wire.Broadcast:
			return v.broadcast(r, f)
		case *wire.Command:
			return v.command(r, f)
		}
		return nil
	}
}

type verifier struct {
	accounts          Accounts
	lookup            Lookup
	requireEncryption bool
	now               func() time.Time
}

// direct refuses what docs/e2ee.md §3 has the server refuse. A repeated message
// gets its first answer whatever its age and key version are now; asking the
// store for that only when the message is about to be refused is the same rule
// at no cost to a message that is new, because storing it looks again.
func (v verifier) direct(ctx context.Context, r *core.Request, f *wire.Direct) error {
	if !f.IsSealed() && v.requireEncryption {
		return fault.New(fault.EncryptionRequired, "This server stores only sealed direct messages; seal it as docs/e2ee.md §3 says.")
	}
	recipient, err := v.accounts.Account(ctx, f.To)
	if err != nil {
		return err
	}
	r.Recipient = recipient
	r.Message = &core.Message{
		From: r.Session.UserID(), To: f.To, ID: f.ID, Timestamp: f.Timestamp, KeyVersion: f.KeyVersion, Content: f.Content,
		EncryptedKey: f.EncryptedKey, EncryptionNonce: f.EncryptionNonce, Signature: f.Signature,
	}
	var refused error
	if f.IsSealed() {
		refused = v.sealed(r, f)
	} else {
		r.Message.Digest = sha256.Sum256(e2ee.PlainTranscript(r.Message.From, f.To, f.ID, f.Timestamp, f.Content))
	}
	if refused == nil {
		refused = v.fresh(f.Timestamp, maxMessageBehind)
	}
	if refused == nil {
		return nil
	}
	return v.unlessRepeated(ctx, r, refused)
}

// sealed computes the digest of a sealed message and checks its key version and
// signature.
func (v verifier) sealed(r *core.Request, f *wire.Direct) error {
	key, known := r.Recipient.Key(f.KeyVersion)
	if !known {
		return staleKey(r.Recipient)
	}
	parts, err := f.Sealed()
	if err != nil {
		return err
	}
	header := e2ee.Header{
		From: r.Message.From, To: f.To, ID: f.ID, Timestamp: f.Timestamp, KeyVersion: f.KeyVersion,
		Sender: r.Session.Identity.PublicKey, Recipient: r.Recipient.PublicKey, EncryptionKey: key.Public,
	}
	envelope := e2ee.Envelope{EncryptedKey: parts.EncryptedKey, Nonce: parts.Nonce, Content: parts.Content, Signature: parts.Signature}
	transcript := envelope.Transcript(header.Hash())
	r.Message.Digest = sha256.Sum256(transcript)
	if !r.Recipient.Accepts(f.KeyVersion, v.now()) {
		return staleKey(r.Recipient)
	}
	if !e2ee.Verify(r.Session.Identity.PublicKey, transcript, parts.Signature) {
		return fault.New(fault.InvalidSignature, "Member \"signature\" does not verify over this message with your identity key.")
	}
	return nil
}

// staleKey refuses a message sealed to a version that the recipient does not
// accept now, with the current one as a hint.
func staleKey(recipient *core.Account) error {
	return fault.Newf(fault.KeyVersion, "Member \"key_version\" is not a version that %q accepts now; fetch the key bundle, verify it and seal anew under the same id.", recipient.ID).
		WithDetails(map[string]uint64{"key_version": recipient.Current().Version})
}

// unlessRepeated answers a message that is about to be refused as the first time
// where it had been stored before.
func (v verifier) unlessRepeated(ctx context.Context, r *core.Request, refused error) error {
	stored, err := v.lookup.FindStored(ctx, r.Message.From, r.Message.ID, r.Message.Digest)
	switch {
	case err == nil:
		r.Stored = &stored
		return nil
	case errors.Is(err, core.ErrNotFound):
		return refused
	case errors.Is(err, core.ErrIDConflict):
		return fault.Newf(fault.IDConflict, "The id %q was used for another message; choose another.", r.Message.ID)
	}
	return core.StoreFault(err)
}

func (v verifier) fresh(timestamp string, behind time.Duration) error {
	t, err := wire.ParseTime(timestamp)
	if err != nil {
		return err
	}
	if now := v.now(); t.Sub(now) > maxAhead || now.Sub(t) > behind {
		return fault.Newf(fault.StaleTimestamp, "Member \"timestamp\" is off the server's clock, which says %s; it may be %v ahead and %v behind.",
			wire.FormatTime(now), maxAhead, behind)
	}
	return nil
}

// broadcast verifies a signature where there is one.
func (v verifier) broadcast(r *core.Request, f *wire.Broadcast) error {
	if f.Signature == "" {
		return nil
	}
	signature, err := wire.DecodeBase64(f.Signature)
	if err != nil {
		return err
	}
	if !e2ee.Verify(r.Session.Identity.PublicKey, e2ee.BroadcastTranscript(r.Session.UserID(), f.ID, f.Timestamp, f.Content), signature) {
		return fault.New(fault.InvalidSignature, "Member \"signature\" does not verify over this broadcast with your identity key.")
	}
	return nil
}

// command verifies a signature where there is one; whether one is required, and
// that a signed id runs once, is the command room's.
func (v verifier) command(r *core.Request, f *wire.Command) error {
	if f.Signature == "" {
		return nil
	}
	signature, err := wire.DecodeBase64(f.Signature)
	if err != nil {
		return err
	}
	transcript := e2ee.CommandTranscript(r.Session.Remote.Host, r.Session.UserID(), f.ID, f.Timestamp, f.Command, f.Params)
	if !e2ee.Verify(r.Session.Identity.PublicKey, transcript, signature) {
		return fault.Newf(fault.InvalidSignature, "Member \"signature\" does not verify over this command for host %q with your identity key.", r.Session.Remote.Host)
	}
	if err := v.fresh(f.Timestamp, maxCommandBehind); err != nil {
		return err
	}
	r.SignatureVerified, r.SignedDigest = true, sha256.Sum256(transcript)
	return nil
}
