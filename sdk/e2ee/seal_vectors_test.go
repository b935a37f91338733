package e2ee_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// fixedHPKE is HPKE's sender with a given ephemeral key, written out from RFC 9180
// (§4.1, §5.1, §5.2) because crypto/hpke takes none: base mode, DHKEM(X25519,
// HKDF-SHA256), HKDF-SHA256, AES-256-GCM, one message.
type fixedHPKE struct{ ephemeral *ecdh.PrivateKey }

const (
	kemSuite  = "KEM\x00\x20"
	hpkeSuite = "HPKE\x00\x20\x00\x01\x00\x02"
)

func labeledExtract(suite, label string, salt, ikm []byte) ([]byte, error) {
	return hkdf.Extract(sha256.New, append([]byte("HPKE-v1"+suite+label), ikm...), salt)
}

func labeledExpand(suite, label string, prk, info []byte, size int) ([]byte, error) {
	return hkdf.Expand(sha256.New, prk, string([]byte{byte(size >> 8), byte(size)})+"HPKE-v1"+suite+label+string(info), size)
}

func (f fixedHPKE) sharedSecret(pub *ecdh.PublicKey) ([]byte, error) {
	dh, err := f.ephemeral.ECDH(pub)
	if err != nil {
		return nil, err
	}
	prk, err := labeledExtract(kemSuite, "eae_prk", nil, dh)
	if err != nil {
		return nil, err
	}
	return labeledExpand(kemSuite, "shared_secret", prk, append(f.ephemeral.PublicKey().Bytes(), pub.Bytes()...), 32)
}

func keySchedule(shared, info []byte) (key, nonce []byte, err error) {
	pskID, err := labeledExtract(hpkeSuite, "psk_id_hash", nil, nil)
	if err != nil {
		return nil, nil, err
	}
	infoHash, err := labeledExtract(hpkeSuite, "info_hash", nil, info)
	if err != nil {
		return nil, nil, err
	}
	context := bytes.Join([][]byte{{0}, pskID, infoHash}, nil)
	secret, err := labeledExtract(hpkeSuite, "secret", shared, nil)
	if err != nil {
		return nil, nil, err
	}
	if key, err = labeledExpand(hpkeSuite, "key", secret, context, 32); err != nil {
		return nil, nil, err
	}
	nonce, err = labeledExpand(hpkeSuite, "base_nonce", secret, context, 12)
	return key, nonce, err
}

func (f fixedHPKE) wrap(encryptionKey []byte, hash [32]byte, messageKey, commitment []byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(encryptionKey)
	if err != nil {
		return nil, err
	}
	shared, err := f.sharedSecret(pub)
	if err != nil {
		return nil, err
	}
	key, nonce, err := keySchedule(shared, e2ee.WrapInfo(hash))
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	wrapped := aead.Seal(nil, nonce, messageKey, commitment)
	return bytes.Join([][]byte{f.ephemeral.PublicKey().Bytes(), wrapped, commitment}, nil), nil
}

// TestVectorsSeal makes the vectors' messages anew, bit for bit, from their random
// values. Of Seal only the two calls of crypto/rand and of crypto/hpke are left
// out; TestVectorsWrap and the opening of sealed messages show the latter.
func TestVectorsSeal(t *testing.T) {
	v := loadVectors(t)
	for _, d := range v.Direct {
		ephemeral, err := ecdh.X25519().NewPrivateKey(d.EphemeralPrivate)
		if err != nil {
			t.Fatal(err)
		}
		nonce, err := wire.DecodeBase64(d.Frame.Nonce)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e2ee.SealWith(v.header(&d.Frame), v.Alice.identity(), d.Plaintext, d.MessageKey, nonce, fixedHPKE{ephemeral}.wrap)
		if err != nil {
			t.Fatalf("%s: %v", d.Frame.ID, err)
		}
		want, err := d.Frame.envelope()
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, d.Frame.ID+": encrypted key", got.EncryptedKey, want.EncryptedKey)
		wantBytes(t, d.Frame.ID+": nonce", got.Nonce, want.Nonce)
		wantBytes(t, d.Frame.ID+": content", got.Content, want.Content)
		wantBytes(t, d.Frame.ID+": signature", got.Signature, want.Signature)
	}
}

// sendersHalf acts as the recipient's private key with nothing but the ephemeral
// private key: it makes the shared secret from the sender's side.
type sendersHalf struct {
	ephemeral *ecdh.PrivateKey
	recipient *ecdh.PublicKey
}

func (s sendersHalf) PublicKey() *ecdh.PublicKey { return s.recipient }
func (s sendersHalf) Curve() ecdh.Curve          { return ecdh.X25519() }
func (s sendersHalf) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	if !remote.Equal(s.ephemeral.PublicKey()) {
		return nil, errors.New("encapsulated key is not the ephemeral key's")
	}
	return s.ephemeral.ECDH(s.recipient)
}

// TestVectorsWrap shows that the wrapped keys of the vectors are, bit for bit,
// what a sender with that ephemeral key makes. AES-GCM is deterministic, so a
// ciphertext that opens to the message key in the sender's own context is the one
// that sealing makes there.
func TestVectorsWrap(t *testing.T) {
	v := loadVectors(t)
	for _, d := range v.Direct {
		ephemeral, err := ecdh.X25519().NewPrivateKey(d.EphemeralPrivate)
		if err != nil {
			t.Fatal(err)
		}
		e, err := d.Frame.envelope()
		if err != nil {
			t.Fatal(err)
		}
		half := sendersHalf{ephemeral, v.Bob.encryptionKey(t).PublicKey()}
		got, err := e2ee.Unwrap(half, v.header(&d.Frame).Hash(), e.EncryptedKey)
		if err != nil {
			t.Fatalf("%s: %v", d.Frame.ID, err)
		}
		wantBytes(t, d.Frame.ID, got, d.MessageKey)
	}
}
