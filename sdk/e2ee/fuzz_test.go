package e2ee_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
)

// FuzzOpen plays everything that a stranger or a sender can do with a frame. With
// sign, the sender itself signs what came out, which opens the way to the later
// checks. Nothing opens but the vectors' own messages, to their own texts.
func FuzzOpen(f *testing.F) {
	v := loadVectors(f)
	key := v.Bob.encryptionKey(f)
	for _, d := range v.Direct {
		e, err := d.Frame.envelope()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(d.Frame.From, d.Frame.ID, d.Frame.Timestamp, d.Frame.KeyVersion, e.EncryptedKey, e.Nonce, e.Content, e.Signature, false)
		f.Add(d.Frame.From, d.Frame.ID, d.Frame.Timestamp, d.Frame.KeyVersion, e.EncryptedKey, e.Nonce, e.Content, []byte{}, true)
	}
	for _, r := range v.Refused {
		if e, err := r.Frame.envelope(); err == nil {
			f.Add(r.Frame.From, r.Frame.ID, r.Frame.Timestamp, r.Frame.KeyVersion, e.EncryptedKey, e.Nonce, e.Content, e.Signature, false)
		}
	}
	f.Fuzz(func(t *testing.T, from, id, timestamp string, version uint64, encryptedKey, nonce, content, signature []byte, sign bool) {
		h := v.header(&frame{From: from, To: "bob", ID: id, Timestamp: timestamp, KeyVersion: version})
		e := &e2ee.Envelope{EncryptedKey: encryptedKey, Nonce: nonce, Content: content, Signature: signature}
		if sign {
			e.Signature = ed25519.Sign(v.sender(from).identity(), e.Transcript(h.Hash()))
		}
		got, err := e2ee.Open(h, key, e)
		if err != nil {
			var refused *e2ee.RefusedError
			if !errors.As(err, &refused) || got != nil {
				t.Fatalf("got %x, %v, want a refusal alone", got, err)
			}
			return
		}
		for _, d := range v.Direct {
			want, err := d.Frame.envelope()
			if err != nil {
				t.Fatal(err)
			}
			if d.Frame.ID == id && bytes.Equal(want.EncryptedKey, encryptedKey) && bytes.Equal(want.Content, content) {
				wantBytes(t, "message", got, d.Plaintext)
				return
			}
		}
		t.Fatalf("opened a message that nobody sealed: %x", got)
	})
}

// FuzzUnpad: what is accepted is what pad makes of it, and pad's own is accepted.
func FuzzUnpad(f *testing.F) {
	for _, seed := range []string{"", "\x80", "meet me", "meet me\x80\x00\x00"} {
		f.Add([]byte(seed))
		f.Add(e2ee.Pad([]byte(seed)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if message, ok := e2ee.Unpad(data); ok {
			wantBytes(t, "padded again", e2ee.Pad(message), data)
		}
		padded := e2ee.Pad(data)
		message, ok := e2ee.Unpad(padded)
		if !ok || !bytes.Equal(message, data) {
			t.Errorf("got %x, %v, want %x", message, ok, data)
		}
		// The bound of docs/e2ee.md §3 holds from the least padded length on.
		if n := len(data) + 1; n >= 32 && (len(padded)-n)*100 > 12*n {
			t.Errorf("%d bytes are padded to %d, more than 12 %%", n, len(padded))
		}
	})
}

// FuzzCheckIdentityKey: under no accepted key does the signature verify that fits
// every message under keys of low order. It fits one message in eight at least.
func FuzzCheckIdentityKey(f *testing.F) {
	v := loadVectors(f)
	for _, key := range v.RefusedIdentityKeys {
		f.Add([]byte(key))
	}
	f.Add(v.Alice.PublicKey)
	f.Add([]byte{})
	constant := append([]byte{1}, make([]byte, 63)...)
	f.Fuzz(func(t *testing.T, key []byte) {
		if e2ee.CheckIdentityKey(key) != nil {
			if e2ee.Verify(key, nil, constant) {
				t.Error("a refused key verifies")
			}
			return
		}
		for i := range 64 {
			if ed25519.Verify(key, []byte{byte(i)}, constant) {
				t.Fatalf("accepted a key of low order: %x", key)
			}
		}
	})
}

// FuzzBundle: no bundle that bob has not signed is accepted, and Check never
// moves a pin backwards.
func FuzzBundle(f *testing.F) {
	v := loadVectors(f)
	for _, u := range []*user{&v.Alice, &v.Bob, &v.Mallory} {
		f.Add(u.UserID, u.PublicKey, u.EncryptionKey, u.KeyVersion, u.CreatedAt, u.KeySignature, uint64(2), false)
		f.Add(u.UserID, u.PublicKey, u.EncryptionKey, u.KeyVersion, u.CreatedAt, []byte{}, uint64(9), true)
	}
	for _, key := range v.RefusedEncryptionKeys {
		f.Add("bob", v.Bob.PublicKey, []byte(key), uint64(4), v.Bob.CreatedAt, []byte{}, uint64(3), true)
	}
	f.Fuzz(func(t *testing.T, id string, identity, key []byte, version uint64, created string, signature []byte, pinned uint64, sign bool) {
		b := &e2ee.Bundle{UserID: id, PublicKey: identity, EncryptionKey: key, KeyVersion: version, CreatedAt: created, Signature: signature}
		if sign {
			b.Sign(v.Bob.identity())
		}
		pin := e2ee.Pin{PublicKey: v.Bob.PublicKey, KeyVersion: pinned, EncryptionKey: v.Bob.EncryptionKey, Verified: true}
		got, err := b.Check("bob", pin)
		if err != nil {
			if got.KeyVersion != pinned {
				t.Error("a refused bundle changed the pin")
			}
			return
		}
		signedByBob := sign || bytes.Equal(signature, v.Bob.KeySignature)
		if !signedByBob || id != "bob" || !bytes.Equal(identity, v.Bob.PublicKey) || version < pinned || e2ee.CheckEncryptionKey(key) != nil {
			t.Errorf("accepted %+v against version %d", b, pinned)
		}
		if got.KeyVersion != version || !bytes.Equal(got.EncryptionKey, key) || !got.Verified {
			t.Errorf("got pin %+v of %+v", got, b)
		}
	})
}
