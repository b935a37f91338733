package e2ee

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/plugboard/plugboard/sdk/wire"
)

// Why a bundle is refused; the errors of [Bundle.Verify] and [Bundle.Check] wrap
// one of these, [ErrIdentityKey] or [ErrEncryptionKey].
var (
	// ErrWrongUser: the bundle is another user's than the one asked for.
	ErrWrongUser = errors.New("bundle of another user")
	// ErrIdentityChanged: the identity key is not the pinned one. Sending stops
	// until a person has accepted the new one.
	ErrIdentityChanged = errors.New("identity key changed")
	// ErrBundleShape: a member is outside its grammar or range.
	ErrBundleShape = errors.New("malformed bundle")
	// ErrBundleSignature: the identity key did not sign this encryption key.
	ErrBundleSignature = errors.New("bundle signature does not verify")
	// ErrRollback: the version is below one accepted before.
	ErrRollback = errors.New("key version rolled back")
	// ErrKeyReplaced: another encryption key under a version accepted before.
	ErrKeyReplaced = errors.New("encryption key replaced under the same version")
)

// Bundle is a user's encryption key, signed by the user's identity key
// (docs/e2ee.md §2). Binary members are decoded. CreatedAt is the client's time of
// making the key, in the one form of the protocol, and is signed as that string.
type Bundle struct {
	UserID        string
	PublicKey     ed25519.PublicKey // identity, Ed25519
	EncryptionKey []byte            // X25519, 32 bytes
	KeyVersion    uint64            // 1 … 2^53 − 1
	CreatedAt     string
	Signature     []byte // 64 bytes
}

func (b *Bundle) transcript() []byte {
	return newTranscript(labelEncryptionKey).text(b.UserID).bytes(b.PublicKey).bytes(b.EncryptionKey).
		uint64(b.KeyVersion).text(b.CreatedAt)
}

// Sign fills Signature; the other members are filled before. The identity must be
// the private half of PublicKey, or the bundle will not verify. Like
// [ed25519.Sign] it panics on a private key of a wrong length.
func (b *Bundle) Sign(identity ed25519.PrivateKey) {
	b.Signature = ed25519.Sign(identity, b.transcript())
}

// Verify checks a bundle in itself: members in their grammar, both keys
// acceptable, signed by its own identity key. It does not say whose identity that
// is: a client calls [Bundle.Check], the server compares with what is registered.
func (b *Bundle) Verify() error {
	if err := b.checkShape(); err != nil {
		return err
	}
	if err := CheckIdentityKey(b.PublicKey); err != nil {
		return err
	}
	if err := CheckEncryptionKey(b.EncryptionKey); err != nil {
		return err
	}
	if !Verify(b.PublicKey, b.transcript(), b.Signature) {
		return ErrBundleSignature
	}
	return nil
}

func (b *Bundle) checkShape() error {
	if !wire.ValidUserID(b.UserID) {
		return fmt.Errorf("%w: user id %.80q", ErrBundleShape, b.UserID)
	}
	if !validKeyVersion(b.KeyVersion) {
		return fmt.Errorf("%w: key version %d, must be 1 to %d", ErrBundleShape, b.KeyVersion, uint64(wire.MaxInteger))
	}
	if _, err := wire.ParseTime(b.CreatedAt); err != nil {
		return fmt.Errorf("%w: created_at %.80q", ErrBundleShape, b.CreatedAt)
	}
	if len(b.Signature) != SignatureSize {
		return fmt.Errorf("%w: signature of %d bytes, must be %d", ErrBundleShape, len(b.Signature), SignatureSize)
	}
	return nil
}

// Pin is what a client remembers of a peer. The zero value stands for a peer
// never seen.
type Pin struct {
	// PublicKey is the first identity key seen of this peer, or the one that a
	// person accepted since.
	PublicKey ed25519.PublicKey
	// KeyVersion is the highest ever accepted; EncryptionKey belongs to it.
	KeyVersion    uint64
	EncryptionKey []byte
	// Verified says that the safety numbers have been compared by people.
	Verified bool
}

// Check decides whether a client may use a bundle that it asked for as userID's,
// in the order of docs/e2ee.md §2: whose it is, the pinned identity, the
// signature, no rollback. It returns the pin to remember, which shares no memory
// with the bundle; beside an error that is pin as it was.
//
// A pin without a PublicKey takes the bundle's identity. When [ErrIdentityChanged]
// comes back and a person accepts the new identity, check the same bundle against
// the zero Pin: that forgets the versions of the old identity and clears Verified.
func (b *Bundle) Check(userID string, pin Pin) (Pin, error) {
	if b.UserID != userID {
		return pin, fmt.Errorf("check bundle of %.80q: %w", userID, ErrWrongUser)
	}
	if err := b.checkAgainst(&pin); err != nil {
		return pin, fmt.Errorf("check bundle of %.80q: %w", userID, err)
	}
	return Pin{
		PublicKey:     bytes.Clone(b.PublicKey),
		KeyVersion:    b.KeyVersion,
		EncryptionKey: bytes.Clone(b.EncryptionKey),
		Verified:      pin.Verified && len(pin.PublicKey) > 0,
	}, nil
}

func (b *Bundle) checkAgainst(pin *Pin) error {
	if len(pin.PublicKey) > 0 && !bytes.Equal(pin.PublicKey, b.PublicKey) {
		return ErrIdentityChanged
	}
	if err := b.Verify(); err != nil {
		return err
	}
	if b.KeyVersion < pin.KeyVersion {
		return fmt.Errorf("%w: version %d after %d", ErrRollback, b.KeyVersion, pin.KeyVersion)
	}
	if b.KeyVersion == pin.KeyVersion && !bytes.Equal(b.EncryptionKey, pin.EncryptionKey) {
		return fmt.Errorf("%w: version %d", ErrKeyReplaced, b.KeyVersion)
	}
	return nil
}

func validKeyVersion(v uint64) bool { return v >= 1 && v <= wire.MaxInteger }
