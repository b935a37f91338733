package e2ee_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

func newIdentity(tb testing.TB) ed25519.PrivateKey {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return private
}

func public(identity ed25519.PrivateKey) ed25519.PublicKey {
	return identity.Public().(ed25519.PublicKey)
}

// newPair makes a sender, a recipient's key and the header of a message between them.
func newPair(tb testing.TB) (*e2ee.Header, ed25519.PrivateKey, *ecdh.PrivateKey) {
	tb.Helper()
	sender, recipient := newIdentity(tb), newIdentity(tb)
	key, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		tb.Fatal(err)
	}
	return &e2ee.Header{From: "alice", To: "bob", ID: "m-1", Timestamp: "2026-01-31T12:00:00.000Z", KeyVersion: 1,
		Sender: public(sender), Recipient: public(recipient), EncryptionKey: key.PublicKey().Bytes()}, sender, key
}

func TestSealOpen(t *testing.T) {
	h, sender, key := newPair(t)
	for _, size := range []int{0, 1, 31, 32, 1000, 47_103} {
		message := bytes.Repeat([]byte{0x80}, size)
		e, err := e2ee.Seal(h, sender, message)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.EncryptedKey) != e2ee.EncryptedKeySize || len(e.Nonce) != e2ee.NonceSize ||
			len(e.Signature) != e2ee.SignatureSize || len(e.Content) < e2ee.MinContentSize {
			t.Errorf("%d bytes: sizes %d, %d, %d, %d", size, len(e.EncryptedKey), len(e.Nonce), len(e.Signature), len(e.Content))
		}
		got, err := e2ee.Open(h, key, e)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		wantBytes(t, fmt.Sprintf("%d bytes", size), got, message)
	}
}

func TestSealDrawsFreshValues(t *testing.T) {
	h, sender, _ := newPair(t)
	first, err := e2ee.Seal(h, sender, []byte("again"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := e2ee.Seal(h, sender, []byte("again"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first.Nonce, second.Nonce) || bytes.Equal(first.Content, second.Content) ||
		bytes.Equal(first.EncryptedKey[:32], second.EncryptedKey[:32]) || bytes.Equal(first.EncryptedKey[80:], second.EncryptedKey[80:]) {
		t.Error("two seals of one message share a random value")
	}
}

// TestOpenRefusesEveryOtherHeader changes each member of the header in turn: the
// signature refuses it, and where the sender itself signs the change, HPKE does.
func TestOpenRefusesEveryOtherHeader(t *testing.T) {
	h, sender, key := newPair(t)
	e, err := e2ee.Seal(h, sender, []byte("to bob"))
	if err != nil {
		t.Fatal(err)
	}
	other := newIdentity(t)
	for name, change := range map[string]func(*e2ee.Header){
		"from":        func(h *e2ee.Header) { h.From = "mallory" },
		"to":          func(h *e2ee.Header) { h.To = "carol" },
		"id":          func(h *e2ee.Header) { h.ID = "m-2" },
		"timestamp":   func(h *e2ee.Header) { h.Timestamp = "2026-01-31T12:00:00.001Z" },
		"key version": func(h *e2ee.Header) { h.KeyVersion = 2 },
		"recipient":   func(h *e2ee.Header) { h.Recipient = public(other) },
	} {
		t.Run(name, func(t *testing.T) {
			changed := *h
			change(&changed)
			_, err := e2ee.Open(&changed, key, e)
			wantRefused(t, err, e2ee.CheckSignature)
			signed := *e
			signed.Signature = ed25519.Sign(sender, e.Transcript(changed.Hash()))
			_, err = e2ee.Open(&changed, key, &signed)
			wantRefused(t, err, e2ee.CheckUnwrap)
		})
	}
	stolen := *h
	stolen.Sender = public(other)
	signed := *e
	signed.Signature = ed25519.Sign(other, e.Transcript(stolen.Hash()))
	if err := signed.Verify(&stolen); err != nil {
		t.Errorf("the thief's own signature: %v", err)
	}
	_, err = e2ee.Open(&stolen, key, &signed)
	wantRefused(t, err, e2ee.CheckUnwrap)
}

func TestOpenRefusesMalformedHeaders(t *testing.T) {
	h, sender, key := newPair(t)
	for name, change := range map[string]func(*e2ee.Header){
		"from in capitals":   func(h *e2ee.Header) { h.From = "Alice" },
		"to empty":           func(h *e2ee.Header) { h.To = "" },
		"id with a blank":    func(h *e2ee.Header) { h.ID = "m 1" },
		"key version 0":      func(h *e2ee.Header) { h.KeyVersion = 0 },
		"key version 2^53":   func(h *e2ee.Header) { h.KeyVersion = 1 << 53 },
		"no real date":       func(h *e2ee.Header) { h.Timestamp = "2026-02-30T12:00:00.000Z" },
		"offset in the time": func(h *e2ee.Header) { h.Timestamp = "2026-01-31T12:00:00.000+00:00" },
		"short sender":       func(h *e2ee.Header) { h.Sender = h.Sender[:31] },
		"no recipient":       func(h *e2ee.Header) { h.Recipient = nil },
	} {
		t.Run(name, func(t *testing.T) {
			changed := *h
			change(&changed)
			if _, err := e2ee.Seal(&changed, sender, nil); err == nil {
				t.Error("sealed under a malformed header")
			}
			e, err := e2ee.Seal(h, sender, nil)
			if err != nil {
				t.Fatal(err)
			}
			e.Signature = ed25519.Sign(sender, e.Transcript(changed.Hash()))
			wantRefused(t, e.Verify(&changed), e2ee.CheckShape)
			_, err = e2ee.Open(&changed, key, e)
			wantRefused(t, err, e2ee.CheckShape)
		})
	}
}

func TestOpenRefusesEverySize(t *testing.T) {
	h, sender, key := newPair(t)
	e, err := e2ee.Seal(h, sender, []byte("whole"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*e2ee.Envelope){
		"encrypted key": func(e *e2ee.Envelope) { e.EncryptedKey = e.EncryptedKey[:111] },
		"nonce":         func(e *e2ee.Envelope) { e.Nonce = append(bytes.Clone(e.Nonce), 0) },
		"content":       func(e *e2ee.Envelope) { e.Content = e.Content[:47] },
		"signature":     func(e *e2ee.Envelope) { e.Signature = nil },
		"empty":         func(e *e2ee.Envelope) { *e = e2ee.Envelope{} },
	} {
		changed := *e
		change(&changed)
		_, err := e2ee.Open(h, key, &changed)
		if err == nil {
			t.Errorf("%s: opened", name)
			continue
		}
		wantRefused(t, err, e2ee.CheckShape)
	}
}

func TestOpenNeedsTheHeadersKey(t *testing.T) {
	h, sender, key := newPair(t)
	e, err := e2ee.Seal(h, sender, []byte("for one key"))
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []*ecdh.PrivateKey{nil, otherKey, p256} {
		_, err := e2ee.Open(h, wrong, e)
		wantRefused(t, err, e2ee.CheckKeyVersion)
	}
	// A server that hands out its own key gets nothing that the recipient opens.
	replaced := *h
	replaced.EncryptionKey = otherKey.PublicKey().Bytes()
	toServer, err := e2ee.Seal(&replaced, sender, []byte("for one key"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e2ee.Open(h, key, toServer)
	wantRefused(t, err, e2ee.CheckSignature)
}

func TestSealRefusesAnotherIdentity(t *testing.T) {
	h, sender, _ := newPair(t)
	for name, identity := range map[string]ed25519.PrivateKey{"other": newIdentity(t), "short": sender[:32], "none": nil} {
		if _, err := e2ee.Seal(h, identity, nil); err == nil {
			t.Errorf("%s: sealed with an identity that is not the header's", name)
		}
	}
	h.Recipient = append([]byte{1}, make([]byte, 31)...)
	if _, err := e2ee.Seal(h, sender, nil); !errors.Is(err, e2ee.ErrIdentityKey) {
		t.Errorf("got %v, want the recipient's identity refused", err)
	}
}

func TestVerifyNeverPanics(t *testing.T) {
	identity := newIdentity(t)
	transcript := []byte("signed")
	good := ed25519.Sign(identity, transcript)
	if !e2ee.Verify(public(identity), transcript, good) {
		t.Error("a good signature does not verify")
	}
	for n := range 2 * ed25519.SignatureSize {
		if n != ed25519.PublicKeySize && e2ee.Verify(make([]byte, n), transcript, good) {
			t.Errorf("verified under a key of %d bytes", n)
		}
		if n != ed25519.SignatureSize && e2ee.Verify(public(identity), transcript, append(good, good...)[:n]) {
			t.Errorf("verified a signature of %d bytes", n)
		}
	}
	if e2ee.Verify(nil, nil, nil) {
		t.Error("verified nothing at all")
	}
	// Under the neutral element this one signature fits every message.
	neutral := append([]byte{1}, make([]byte, 31)...)
	constant := append(bytes.Clone(neutral), make([]byte, 32)...)
	if !ed25519.Verify(neutral, transcript, constant) {
		t.Error("the library refuses the neutral element by now")
	}
	if e2ee.Verify(neutral, transcript, constant) {
		t.Error("the constant signature verifies under the neutral element")
	}
}

// TestRefusalsSayNothing looks for message and key in the text for the log.
func TestRefusalsSayNothing(t *testing.T) {
	v := loadVectors(t)
	for _, r := range v.Refused {
		_, err := v.receive(t, &r.Frame)
		if err == nil || strings.Contains(err.Error(), r.Frame.Content) || strings.Contains(err.Error(), r.Frame.EncryptedKey) {
			t.Errorf("%s: got %v", r.Name, err)
		}
	}
	cause := errors.New("cause")
	err := fmt.Errorf("deliver: %w", &e2ee.RefusedError{Check: e2ee.CheckUnwrap, Err: cause})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "unwrap") {
		t.Errorf("got %v, want the check and its cause", err)
	}
}

func TestUnpadTakesOnlyWhatPadMakes(t *testing.T) {
	for n := range 300 {
		for _, last := range []byte{0, 0x80, 'x'} {
			message := bytes.Repeat([]byte{last}, n)
			got, ok := e2ee.Unpad(e2ee.Pad(message))
			if !ok || !bytes.Equal(got, message) {
				t.Fatalf("%d bytes of %x: got %x, %v", n, last, got, ok)
			}
		}
	}
	for name, padded := range map[string][]byte{
		"empty":       {},
		"zeros":       make([]byte, 32),
		"no marker":   append(bytes.Repeat([]byte{1}, 31), 0),
		"too short":   append([]byte{0x80}, make([]byte, 30)...),
		"a step more": append(e2ee.Pad([]byte("x")), make([]byte, 4)...),
		"no Padmé":    append(bytes.Repeat([]byte{1}, 33), 0x80),
	} {
		if _, ok := e2ee.Unpad(padded); ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

// directFrame is a direct frame as a recipient gets it.
type directFrame struct {
	Type         string `json:"type"`
	ID           string `json:"id"`
	From         string `json:"from"`
	To           string `json:"to"`
	Seq          uint64 `json:"seq"`
	ServerTime   string `json:"server_time"`
	Content      []byte `json:"content"`
	EncryptedKey []byte `json:"encrypted_key"`
	Nonce        []byte `json:"encryption_nonce"`
	KeyVersion   uint64 `json:"key_version"`
	Timestamp    string `json:"timestamp"`
	Signature    []byte `json:"signature"`
}

// longestFrame is the longest frame that a message of n bytes can be delivered in.
func longestFrame(t *testing.T, n int) int {
	t.Helper()
	when := "2026-01-31T12:00:00.000Z"
	data, err := json.Marshal(directFrame{
		Type: "direct", ID: strings.Repeat("i", 64), From: strings.Repeat("f", 63), To: strings.Repeat("t", 63),
		Seq: wire.MaxInteger, KeyVersion: wire.MaxInteger, ServerTime: when, Timestamp: when,
		Content: make([]byte, len(e2ee.Pad(make([]byte, n)))+16), EncryptedKey: make([]byte, e2ee.EncryptedKeySize),
		Nonce: make([]byte, e2ee.NonceSize), Signature: make([]byte, e2ee.SignatureSize),
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(data)
}

func TestMaxMessage(t *testing.T) {
	if got := e2ee.MaxMessage(wire.DefaultMaxFrameBytes); got != 47_103 {
		t.Errorf("64 KiB: got %d, want 47103", got)
	}
	for _, limit := range []int{math.MinInt, -1, 0, 500, e2ee.DirectOverhead + 63} {
		if got := e2ee.MaxMessage(limit); got != 0 {
			t.Errorf("%d: got %d, want 0", limit, got)
		}
	}
	for limit := e2ee.DirectOverhead + 64; limit < 40_000; limit += 61 {
		n := e2ee.MaxMessage(limit)
		if got := longestFrame(t, n); got > limit {
			t.Fatalf("limit %d: %d bytes make a frame of %d", limit, n, got)
		}
		if got := longestFrame(t, n+1); got <= limit {
			t.Fatalf("limit %d: %d bytes are not the most, one more makes a frame of %d", limit, n, got)
		}
	}
}
