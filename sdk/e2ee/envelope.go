package e2ee

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"

	"github.com/plugboard/plugboard/sdk/wire"
)

// Lengths in bytes of the parts of a sealed message (docs/e2ee.md §3).
const (
	// EncryptedKeySize is that of the encapsulated key, the wrapped message key
	// and the key commitment together.
	EncryptedKeySize = encapsulatedSize + wrappedSize + commitmentSize
	// NonceSize is that of the nonce of the content.
	NonceSize = 12
	// SignatureSize is that of every signature of the protocol.
	SignatureSize = ed25519.SignatureSize
	// MinContentSize is that of the shortest content: 32 padded bytes and a tag.
	MinContentSize = minPadded + tagSize

	messageKeySize   = 32
	contentKeySize   = 32
	commitmentSize   = 32
	encapsulatedSize = 32
	tagSize          = 16
	wrappedSize      = messageKeySize + tagSize
)

// Check names one of the checks of docs/e2ee.md §3 that a recipient makes, in
// the order of the constants.
type Check string

// The checks. Pin, key version and replay are the client's to make, with what it
// remembers; [Open] makes the others.
const (
	CheckTo         Check = "to"          // (1) the message is for this client
	CheckPin        Check = "pin"         // (2) the sender's identity is known
	CheckKeyVersion Check = "key version" // (3) there is a private key for the version
	CheckShape      Check = "shape"       // (4) grammar, canonical base64, lengths
	CheckSignature  Check = "signature"   // (5) the sender's signature verifies
	CheckReplay     Check = "replay"      // (6) sender and id were not seen before
	CheckUnwrap     Check = "unwrap"      // (7) HPKE opens the message key
	CheckCommitment Check = "commitment"  // (8) the key is the one committed to
	CheckContent    Check = "content"     // (9) the content opens under it
	CheckPadding    Check = "padding"     // (10) the padding is the one right one
)

// RefusedError says that a sealed message was refused and at which check. It is
// for the local log: to the peer every refusal must look the same, and a refused
// message is acknowledged like any other (docs/e2ee.md §3). A server that meets it
// in [Envelope.Verify] tells shape from signature, which are no secret.
type RefusedError struct {
	// Check is the first check that failed.
	Check Check
	// Err is what it found, or nil where the name of the check says it all.
	Err error
}

// Error is the text for the local log. It holds no key and no text of a message.
func (e *RefusedError) Error() string {
	if e.Err == nil {
		return "sealed message refused: " + string(e.Check)
	}
	return "sealed message refused: " + string(e.Check) + ": " + e.Err.Error()
}

// Unwrap returns what the check found.
func (e *RefusedError) Unwrap() error { return e.Err }

// Header is everything that a sealed message is bound to (docs/e2ee.md §3). The
// names, the time and the version stand in the frame; the keys do not. The sender
// takes the recipient's keys from its pin, the server takes all three from its
// register, and the recipient takes Sender from its pin and the other two from its
// own key store.
type Header struct {
	From, To, ID, Timestamp string
	KeyVersion              uint64            // of EncryptionKey
	Sender, Recipient       ed25519.PublicKey // identities
	EncryptionKey           []byte            // the recipient's, X25519
}

func (h *Header) transcript() []byte {
	return newTranscript(labelHeader).text(h.From).text(h.To).text(h.ID).text(h.Timestamp).uint64(h.KeyVersion).
		bytes(h.Sender).bytes(h.Recipient).bytes(h.EncryptionKey)
}

// Hash is h of docs/e2ee.md §3, on which every key and signature of the message
// hangs.
func (h *Header) Hash() [32]byte { return sha256.Sum256(h.transcript()) }

func (h *Header) checkShape() error {
	switch {
	case !wire.ValidUserID(h.From):
		return fmt.Errorf("from %.80q", h.From)
	case !wire.ValidUserID(h.To):
		return fmt.Errorf("to %.80q", h.To)
	case !wire.ValidID(h.ID):
		return fmt.Errorf("id %.80q", h.ID)
	case !validKeyVersion(h.KeyVersion):
		return fmt.Errorf("key version %d, must be 1 to %d", h.KeyVersion, uint64(wire.MaxInteger))
	case len(h.Sender) != ed25519.PublicKeySize:
		return fmt.Errorf("sender's identity key of %d bytes", len(h.Sender))
	case len(h.Recipient) != ed25519.PublicKeySize:
		return fmt.Errorf("recipient's identity key of %d bytes", len(h.Recipient))
	case len(h.EncryptionKey) != EncryptionKeyBytes:
		return fmt.Errorf("encryption key of %d bytes", len(h.EncryptionKey))
	}
	if _, err := wire.ParseTime(h.Timestamp); err != nil {
		return fmt.Errorf("timestamp %.80q", h.Timestamp)
	}
	return nil
}

// Envelope is a sealed message: the binary members of a direct frame, decoded.
type Envelope struct {
	EncryptedKey, Nonce, Content, Signature []byte
}

// Transcript returns what Signature covers, for the hash of the message's header:
// 147 bytes, whatever the message (docs/e2ee.md §3). Its SHA-256 is what a server
// keeps to tell a repeated message from another one under the same id (§4).
func (e *Envelope) Transcript(headerHash [32]byte) []byte {
	return newTranscript(labelDirect).bytes(headerHash[:]).digest(e.EncryptedKey).bytes(e.Nonce).digest(e.Content)
}

// Verify checks shape, sizes and signature, (4) and (5) of docs/e2ee.md §3. It is
// all that a server can check and does not need the private key; [Open] does it
// again. The error is a *[RefusedError].
func (e *Envelope) Verify(h *Header) error {
	if err := h.checkShape(); err != nil {
		return &RefusedError{Check: CheckShape, Err: err}
	}
	if err := e.checkSizes(); err != nil {
		return &RefusedError{Check: CheckShape, Err: err}
	}
	if !Verify(h.Sender, e.Transcript(h.Hash()), e.Signature) {
		return &RefusedError{Check: CheckSignature}
	}
	return nil
}

func (e *Envelope) checkSizes() error {
	switch {
	case len(e.EncryptedKey) != EncryptedKeySize:
		return fmt.Errorf("encrypted key of %d bytes, must be %d", len(e.EncryptedKey), EncryptedKeySize)
	case len(e.Nonce) != NonceSize:
		return fmt.Errorf("nonce of %d bytes, must be %d", len(e.Nonce), NonceSize)
	case len(e.Signature) != SignatureSize:
		return fmt.Errorf("signature of %d bytes, must be %d", len(e.Signature), SignatureSize)
	case len(e.Content) < MinContentSize:
		return fmt.Errorf("content of %d bytes, must be at least %d", len(e.Content), MinContentSize)
	}
	return nil
}
