package e2ee

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
)

// EncryptionKeyBytes is the length of an X25519 public key. That of an identity
// key is [ed25519.PublicKeySize].
const EncryptionKeyBytes = 32

// ErrIdentityKey is in the chain of every refusal of an identity key.
var ErrIdentityKey = errors.New("identity key refused")

// ErrEncryptionKey is in the chain of every refusal of an encryption key.
var ErrEncryptionKey = errors.New("encryption key refused")

// lowOrderIdentity reports whether y, little-endian and without the sign bit, is
// the canonical y of one of the eight points of the curve whose order divides 8.
// With either sign bit, and with the encodings that are not canonical, these make
// the 14 of docs/e2ee.md §2.
func lowOrderIdentity(y *[32]byte) bool {
	switch *y {
	case [32]byte{}, // order 4
		[32]byte{1}, // the neutral element
		[32]byte{ // −1, order 2
			0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		[32]byte{ // order 8
			0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
			0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
		[32]byte{ // order 8
			0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
			0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}:
		return true
	}
	return false
}

// canonicalY reports whether y, little-endian and without the sign bit, is below
// the field's prime 2^255 − 19.
func canonicalY(y *[32]byte) bool {
	if y[31] != 0x7f || y[0] < 0xed {
		return true
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// CheckIdentityKey refuses what may not be an identity (docs/e2ee.md §2): a key
// that is not 32 bytes, one whose y is not canonical, and the 14 encodings of
// points of low order. Libraries accept these, though one constant signature
// verifies under them over every message. That an accepted key is a point of the
// curve is shown by the first signature that verifies under it. The error wraps
// [ErrIdentityKey].
func CheckIdentityKey(pub []byte) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %d bytes, must be %d", ErrIdentityKey, len(pub), ed25519.PublicKeySize)
	}
	y := [32]byte(pub)
	y[31] &= 0x7f
	if !canonicalY(&y) {
		return fmt.Errorf("%w: not the canonical encoding of a point", ErrIdentityKey)
	}
	if lowOrderIdentity(&y) {
		return fmt.Errorf("%w: point of low order", ErrIdentityKey)
	}
	return nil
}

// CheckEncryptionKey refuses what may not be an encryption key (docs/e2ee.md §2):
// a key that is not 32 bytes, and one with which every shared secret is zero. The
// error wraps [ErrEncryptionKey].
func CheckEncryptionKey(pub []byte) error {
	key, err := ecdh.X25519().NewPublicKey(pub)
	if err != nil {
		return fmt.Errorf("%w: %d bytes, must be %d", ErrEncryptionKey, len(pub), EncryptionKeyBytes)
	}
	// The library tells a zero secret only when a secret is made. X25519 makes
	// every private key a multiple of the cofactor, so a key of low order gives
	// zero with any of them and any one will do as the probe.
	probe, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, EncryptionKeyBytes))
	if err != nil {
		return fmt.Errorf("make probe key: %w", err)
	}
	if _, err := probe.ECDH(key); err != nil {
		return fmt.Errorf("%w: every shared secret with it is zero", ErrEncryptionKey)
	}
	return nil
}

// GenerateEncryptionKey makes an X25519 key from the system's random source. It
// is never derived from the identity key (docs/e2ee.md §2).
func GenerateEncryptionKey() (*ecdh.PrivateKey, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate encryption key: %w", err)
	}
	return key, nil
}

// Verify reports whether signature is identity's over transcript, by RFC 8032
// with S below the group's order and canonical R. A key that [CheckIdentityKey]
// refuses verifies nothing, and neither does a signature of another length: bad
// input is false, never a panic.
func Verify(identity ed25519.PublicKey, transcript, signature []byte) bool {
	return len(signature) == SignatureSize && CheckIdentityKey(identity) == nil &&
		ed25519.Verify(identity, transcript, signature)
}
