package e2ee

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Seal makes a message that only the holder of h.EncryptionKey can read and that
// is bound to everything in h (docs/e2ee.md §3). The caller has accepted the
// recipient's keys with [Bundle.Check] and kept to [MaxMessage]; identity must be
// the private half of h.Sender. Every call draws a new key, also for the same
// message. The errors are mistakes of the caller and name the member at fault; a
// zero shared secret is one of them and wraps [ErrEncryptionKey].
func Seal(h *Header, identity ed25519.PrivateKey, message []byte) (*Envelope, error) {
	if err := checkSealable(h, identity); err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	var messageKey [messageKeySize]byte
	var nonce [NonceSize]byte
	// crypto/rand ends the process rather than return too little or an error.
	_, _ = rand.Read(messageKey[:])
	_, _ = rand.Read(nonce[:])

	e, err := seal(h, identity, message, messageKey[:], nonce[:], wrap)
	if err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	return e, nil
}

// wrapFunc is the type of wrap, the one step of sealing whose random bytes
// crypto/hpke draws itself.
type wrapFunc func(encryptionKey []byte, hash [32]byte, messageKey, commitment []byte) ([]byte, error)

// seal is Seal as a function of its random values.
func seal(h *Header, identity ed25519.PrivateKey, message, messageKey, nonce []byte, wrap wrapFunc) (*Envelope, error) {
	hash := h.Hash()
	contentKey, commitment, err := deriveKeys(messageKey, hash)
	if err != nil {
		return nil, err
	}
	encryptedKey, err := wrap(h.EncryptionKey, hash, messageKey, commitment)
	if err != nil {
		return nil, err
	}
	aead, err := contentAEAD(contentKey)
	if err != nil {
		return nil, err
	}
	padded := pad(message, tagSize)
	e := &Envelope{
		EncryptedKey: encryptedKey,
		Nonce:        nonce,
		Content:      aead.Seal(padded[:0], nonce, padded, contentAAD(hash, encryptedKey)),
	}
	e.Signature = ed25519.Sign(identity, e.Transcript(hash))
	return e, nil
}

func checkSealable(h *Header, identity ed25519.PrivateKey) error {
	if err := h.checkShape(); err != nil {
		return err
	}
	if len(identity) != ed25519.PrivateKeySize || !bytes.Equal(identity[ed25519.PrivateKeySize-ed25519.PublicKeySize:], h.Sender) {
		return errors.New("identity is not the sender's of the header")
	}
	return CheckIdentityKey(h.Recipient)
}

// Open checks and opens a sealed message: (4), (5) and (7) to (10) of docs/e2ee.md
// §3 in that order, and of (3) that key is the private half of h.EncryptionKey.
// The caller makes the others with what it remembers; where replays should be
// told apart from bad signatures, [Envelope.Verify] comes first, then the look at
// what was seen, then Open. Nothing of a message that fails any check is returned.
// The error is a *[RefusedError]; nothing is tried again with another key.
func Open(h *Header, key *ecdh.PrivateKey, e *Envelope) ([]byte, error) {
	if key == nil || key.Curve() != ecdh.X25519() || !bytes.Equal(key.PublicKey().Bytes(), h.EncryptionKey) {
		return nil, &RefusedError{Check: CheckKeyVersion, Err: errors.New("not the private key of the header")}
	}
	if err := e.Verify(h); err != nil {
		return nil, err
	}
	hash := h.Hash()
	commitment := e.EncryptedKey[encapsulatedSize+wrappedSize:]
	messageKey, err := unwrap(key, hash, e.EncryptedKey)
	if err != nil {
		return nil, &RefusedError{Check: CheckUnwrap, Err: err}
	}
	contentKey, expected, err := deriveKeys(messageKey, hash)
	if err != nil {
		return nil, &RefusedError{Check: CheckCommitment, Err: err}
	}
	if subtle.ConstantTimeCompare(commitment, expected) != 1 {
		return nil, &RefusedError{Check: CheckCommitment}
	}
	aead, err := contentAEAD(contentKey)
	if err != nil {
		return nil, &RefusedError{Check: CheckContent, Err: err}
	}
	padded, err := aead.Open(nil, e.Nonce, e.Content, contentAAD(hash, e.EncryptedKey))
	if err != nil {
		return nil, &RefusedError{Check: CheckContent, Err: err}
	}
	message, ok := unpad(padded)
	if !ok {
		return nil, &RefusedError{Check: CheckPadding}
	}
	return message, nil
}

// deriveKeys expands the message key into the key of the content and the value
// that commits to the message key: AES-GCM alone can be made to open to two texts
// under two keys.
func deriveKeys(messageKey []byte, hash [32]byte) (contentKey, commitment []byte, err error) {
	info := newTranscript(labelMessageKeys).bytes(hash[:])
	keys, err := hkdf.Key(sha256.New, messageKey, nil, string(info), contentKeySize+commitmentSize)
	if err != nil {
		return nil, nil, fmt.Errorf("derive message keys: %w", err)
	}
	return keys[:contentKeySize], keys[contentKeySize:], nil
}

func wrapInfo(hash [32]byte) []byte { return newTranscript(labelWrap).bytes(hash[:]) }

// wrap seals the message key to the encryption key by HPKE (RFC 9180, base mode)
// and returns the encrypted key of the frame. The context is used once.
func wrap(encryptionKey []byte, hash [32]byte, messageKey, commitment []byte) ([]byte, error) {
	recipient, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(encryptionKey)
	if err != nil {
		return nil, fmt.Errorf("wrap message key: %w", err)
	}
	// A zero shared secret is an error of this call, so the key needs no probe here.
	enc, sender, err := hpke.NewSender(recipient, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(hash))
	if err != nil {
		return nil, fmt.Errorf("%w: wrap message key: %w", ErrEncryptionKey, err)
	}
	wrapped, err := sender.Seal(commitment, messageKey)
	if err != nil {
		return nil, fmt.Errorf("wrap message key: %w", err)
	}
	return append(append(append(make([]byte, 0, EncryptedKeySize), enc...), wrapped...), commitment...), nil
}

// unwrap is the other half of wrap; encryptedKey has the right length.
func unwrap(key ecdh.KeyExchanger, hash [32]byte, encryptedKey []byte) ([]byte, error) {
	private, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return nil, err
	}
	// Its capacity ends with it, so that nothing appended can reach the wrapped key.
	enc := encryptedKey[:encapsulatedSize:encapsulatedSize]
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(hash))
	if err != nil {
		return nil, err
	}
	return recipient.Open(encryptedKey[encapsulatedSize+wrappedSize:],
		encryptedKey[encapsulatedSize:encapsulatedSize+wrappedSize])
}

func contentAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("set up content cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("set up content cipher: %w", err)
	}
	return aead, nil
}

// contentAAD ties the content to its header and to its encrypted key.
func contentAAD(hash [32]byte, encryptedKey []byte) []byte {
	return newTranscript(labelContent).bytes(hash[:]).digest(encryptedKey)
}
