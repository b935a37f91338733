package e2ee_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// hexBytes is a binary value that the vectors give in hex.
type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// user is an actor of the vectors with private keys.
type user struct {
	UserID        string   `json:"user_id"`
	Seed          hexBytes `json:"ed25519_seed"`
	Private       hexBytes `json:"x25519_private"`
	PublicKey     []byte   `json:"public_key"`
	EncryptionKey []byte   `json:"x25519_public_key"`
	KeyVersion    uint64   `json:"key_version"`
	CreatedAt     string   `json:"created_at"`
	KeySignature  []byte   `json:"key_signature"`
	KeyTranscript hexBytes `json:"key_transcript"`
}

func (u *user) identity() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(u.Seed) }

func (u *user) bundle() *e2ee.Bundle {
	return &e2ee.Bundle{UserID: u.UserID, PublicKey: u.PublicKey, EncryptionKey: u.EncryptionKey,
		KeyVersion: u.KeyVersion, CreatedAt: u.CreatedAt, Signature: u.KeySignature}
}

func (u *user) encryptionKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(u.Private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// frame is a direct frame; its binary members stay text, because refusing bad
// base64 is part of what is tested.
type frame struct {
	ID           string `json:"id"`
	From         string `json:"from"`
	To           string `json:"to"`
	Timestamp    string `json:"timestamp"`
	KeyVersion   uint64 `json:"key_version"`
	Content      string `json:"content"`
	EncryptedKey string `json:"encrypted_key"`
	Nonce        string `json:"encryption_nonce"`
	Signature    string `json:"signature"`
}

func (f *frame) envelope() (*e2ee.Envelope, error) {
	var e e2ee.Envelope
	for _, part := range []struct {
		to   *[]byte
		from string
	}{{&e.EncryptedKey, f.EncryptedKey}, {&e.Nonce, f.Nonce}, {&e.Content, f.Content}, {&e.Signature, f.Signature}} {
		b, err := wire.DecodeBase64(part.from)
		if err != nil {
			return nil, err
		}
		*part.to = b
	}
	return &e, nil
}

type direct struct {
	Frame            frame    `json:"frame"`
	EphemeralPrivate hexBytes `json:"ephemeral_private"`
	MessageKey       hexBytes `json:"message_key"`
	Header           hexBytes `json:"header"`
	HeaderHash       hexBytes `json:"header_hash"`
	ContentKey       hexBytes `json:"content_key"`
	KeyCommitment    hexBytes `json:"key_commitment"`
	WrapInfo         hexBytes `json:"wrap_info"`
	ContentAAD       hexBytes `json:"content_aad"`
	Plaintext        hexBytes `json:"plaintext"`
	Padded           hexBytes `json:"padded"`
	Transcript       hexBytes `json:"transcript"`
}

// signed holds the members of all the other signatures of the vectors.
type signed struct {
	From       string   `json:"from"`
	To         string   `json:"to"`
	ID         string   `json:"id"`
	Host       string   `json:"host"`
	UserID     string   `json:"user_id"`
	Username   string   `json:"username"`
	Timestamp  string   `json:"timestamp"`
	ExpiresAt  string   `json:"expires_at"`
	Content    string   `json:"content"`
	Command    string   `json:"command"`
	Params     *string  `json:"params"`
	Challenge  []byte   `json:"challenge"`
	Signature  []byte   `json:"signature"`
	Transcript hexBytes `json:"transcript"`
}

type vectors struct {
	Alice, Bob, Mallory user
	Direct              []direct `json:"direct"`
	Refused             []struct {
		Name  string `json:"name"`
		Check string `json:"check"`
		Frame frame  `json:"frame"`
	} `json:"refused"`
	Bundles []struct {
		Accept        bool   `json:"accept"`
		Bundle        user   `json:"bundle"`
		PinnedVersion uint64 `json:"pinned_version"`
		Why           string `json:"why"`
	} `json:"bundles"`
	RefusedIdentityKeys   []hexBytes `json:"refused_identity_keys"`
	RefusedEncryptionKeys []hexBytes `json:"refused_encryption_keys"`
	Padding               []struct {
		Plaintext int `json:"plaintext"`
		Padded    int `json:"padded"`
	} `json:"padding"`
	Registration        signed            `json:"registration"`
	Login               signed            `json:"login"`
	Broadcast           signed            `json:"broadcast"`
	Server              signed            `json:"server"`
	ServerWithoutParams signed            `json:"server_without_params"`
	Receipt             signed            `json:"receipt"`
	SafetyNumber        map[string]string `json:"safety_number"`
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("testdata/e2ee-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// sender finds the actor that a frame claims to come from.
func (v *vectors) sender(name string) *user {
	if name == v.Mallory.UserID {
		return &v.Mallory
	}
	return &v.Alice
}

// header is what bob's client makes of a frame and its own memory.
func (v *vectors) header(f *frame) *e2ee.Header {
	return &e2ee.Header{From: f.From, To: f.To, ID: f.ID, Timestamp: f.Timestamp, KeyVersion: f.KeyVersion,
		Sender: v.sender(f.From).PublicKey, Recipient: v.Bob.PublicKey, EncryptionKey: v.Bob.EncryptionKey}
}

// receive is a recipient's client, bob's: the checks of docs/e2ee.md §3 in their
// order, with those that Open does not make.
func (v *vectors) receive(t testing.TB, f *frame) ([]byte, error) {
	t.Helper()
	if f.To != v.Bob.UserID {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckTo}
	}
	if f.From != v.Alice.UserID && f.From != v.Mallory.UserID {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckPin}
	}
	if f.KeyVersion != v.Bob.KeyVersion {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckKeyVersion}
	}
	e, err := f.envelope()
	if err != nil {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckShape, Err: err}
	}
	return e2ee.Open(v.header(f), v.Bob.encryptionKey(t), e)
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", what, got, want)
	}
}

func wantRefused(t *testing.T, err error, want e2ee.Check) {
	t.Helper()
	var refused *e2ee.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("got error %v, want a refusal at %q", err, want)
		return
	}
	if refused.Check != want {
		t.Errorf("got %v, want a refusal at %q", err, want)
	}
}

func TestVectorsDirect(t *testing.T) {
	v := loadVectors(t)
	if len(v.Direct) != 7 {
		t.Fatalf("got %d messages, want 7", len(v.Direct))
	}
	for _, d := range v.Direct {
		t.Run(d.Frame.ID, func(t *testing.T) {
			h := v.header(&d.Frame)
			hash := h.Hash()
			wantBytes(t, "header", e2ee.HeaderTranscript(h), d.Header)
			wantBytes(t, "header hash", hash[:], d.HeaderHash)
			contentKey, commitment, err := e2ee.DeriveKeys(d.MessageKey, hash)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "content key", contentKey, d.ContentKey)
			wantBytes(t, "key commitment", commitment, d.KeyCommitment)
			wantBytes(t, "wrap info", e2ee.WrapInfo(hash), d.WrapInfo)
			wantBytes(t, "padded", e2ee.Pad(d.Plaintext), d.Padded)
			e, err := d.Frame.envelope()
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "content aad", e2ee.ContentAAD(hash, e.EncryptedKey), d.ContentAAD)
			transcript := e.Transcript(hash)
			wantBytes(t, "transcript", transcript, d.Transcript)
			if len(transcript) != 147 {
				t.Errorf("transcript: got %d bytes, want 147", len(transcript))
			}
			if err := e.Verify(h); err != nil {
				t.Errorf("verify: %v", err)
			}
			messageKey, err := e2ee.Unwrap(v.Bob.encryptionKey(t), hash, e.EncryptedKey)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "message key", messageKey, d.MessageKey)
			got, err := v.receive(t, &d.Frame)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "message", got, d.Plaintext)
		})
	}
}

// checks maps the vectors' names of checks that are finer than, or named unlike,
// those of docs/e2ee.md §3.
var checks = map[string]e2ee.Check{
	"encrypted_key":   e2ee.CheckShape,
	"nonce":           e2ee.CheckShape,
	"content":         e2ee.CheckShape,
	"signature shape": e2ee.CheckShape,
	"content open":    e2ee.CheckContent,
}

func TestVectorsRefused(t *testing.T) {
	v := loadVectors(t)
	if len(v.Refused) != 32 {
		t.Fatalf("got %d frames, want 32", len(v.Refused))
	}
	for _, r := range v.Refused {
		t.Run(r.Name, func(t *testing.T) {
			want, finer := checks[r.Check]
			if !finer {
				want = e2ee.Check(r.Check)
			}
			got, err := v.receive(t, &r.Frame)
			wantRefused(t, err, want)
			if got != nil {
				t.Errorf("a refused message gave its reader %d bytes", len(got))
			}
		})
	}
}

func TestVectorsBundles(t *testing.T) {
	v := loadVectors(t)
	for _, u := range []*user{&v.Alice, &v.Bob, &v.Mallory} {
		b := u.bundle()
		wantBytes(t, u.UserID+": transcript", e2ee.BundleTranscript(b), u.KeyTranscript)
		if err := b.Verify(); err != nil {
			t.Errorf("%s: %v", u.UserID, err)
		}
		b.Signature = nil
		b.Sign(u.identity())
		wantBytes(t, u.UserID+": signature", b.Signature, u.KeySignature)
	}
	why := map[string]error{
		"rollback: version below the pinned one": e2ee.ErrRollback,
		"signed by another identity":             e2ee.ErrBundleSignature,
	}
	for _, c := range v.Bundles {
		pin := e2ee.Pin{PublicKey: v.Bob.PublicKey, KeyVersion: c.PinnedVersion, EncryptionKey: v.Bob.EncryptionKey}
		_, err := c.Bundle.bundle().Check("bob", pin)
		switch {
		case c.Accept && err != nil:
			t.Errorf("good bundle refused: %v", err)
		case !c.Accept && (why[c.Why] == nil || !errors.Is(err, why[c.Why])):
			t.Errorf("%s: got %v, want %v", c.Why, err, why[c.Why])
		}
	}
}

func TestVectorsRefusedKeys(t *testing.T) {
	v := loadVectors(t)
	if len(v.RefusedIdentityKeys) != 14 || len(v.RefusedEncryptionKeys) != 9 {
		t.Fatalf("got %d and %d keys, want 14 and 9", len(v.RefusedIdentityKeys), len(v.RefusedEncryptionKeys))
	}
	for _, key := range v.RefusedIdentityKeys {
		if err := e2ee.CheckIdentityKey(key); !errors.Is(err, e2ee.ErrIdentityKey) {
			t.Errorf("identity key %x: got %v, want it refused", []byte(key), err)
		}
	}
	for _, key := range v.RefusedEncryptionKeys {
		if err := e2ee.CheckEncryptionKey(key); !errors.Is(err, e2ee.ErrEncryptionKey) {
			t.Errorf("encryption key %x: got %v, want it refused", []byte(key), err)
		}
		h := v.header(&v.Direct[0].Frame)
		h.EncryptionKey = key
		if _, err := e2ee.Seal(h, v.Alice.identity(), nil); !errors.Is(err, e2ee.ErrEncryptionKey) {
			t.Errorf("seal to %x: got %v, want it refused", []byte(key), err)
		}
	}
	for _, u := range []*user{&v.Alice, &v.Bob, &v.Mallory} {
		if err := e2ee.CheckIdentityKey(u.PublicKey); err != nil {
			t.Errorf("%s: %v", u.UserID, err)
		}
		if err := e2ee.CheckEncryptionKey(u.EncryptionKey); err != nil {
			t.Errorf("%s: %v", u.UserID, err)
		}
	}
}

func TestVectorsPadding(t *testing.T) {
	for _, p := range loadVectors(t).Padding {
		if got := len(e2ee.Pad(make([]byte, p.Plaintext))); got != p.Padded {
			t.Errorf("%d bytes: got %d padded, want %d", p.Plaintext, got, p.Padded)
		}
	}
}

func TestVectorsSignatures(t *testing.T) {
	v := loadVectors(t)
	message, err := v.Direct[0].Frame.envelope()
	if err != nil {
		t.Fatal(err)
	}
	reg, log, bc, rec := v.Registration, v.Login, v.Broadcast, v.Receipt
	command := func(s signed) []byte {
		var params []byte
		if s.Params != nil {
			params = []byte(*s.Params)
		}
		return e2ee.CommandTranscript(s.Host, s.From, s.ID, s.Timestamp, s.Command, params)
	}
	for name, c := range map[string]struct {
		want   signed
		got    []byte
		signer *user
	}{
		"register":  {reg, e2ee.RegisterTranscript(reg.Host, v.Alice.bundle(), reg.Username, reg.Timestamp), &v.Alice},
		"login":     {log, e2ee.LoginTranscript(log.Host, log.UserID, log.Challenge, log.ExpiresAt), &v.Alice},
		"broadcast": {bc, e2ee.BroadcastTranscript(bc.From, bc.ID, bc.Timestamp, bc.Content), &v.Alice},
		"server":    {v.Server, command(v.Server), &v.Alice},
		"server without params": {
			v.ServerWithoutParams, command(v.ServerWithoutParams), &v.Alice},
		"receipt": {rec, e2ee.ReceiptTranscript(rec.From, rec.To, rec.ID, message.Signature, rec.Timestamp), &v.Bob},
	} {
		t.Run(name, func(t *testing.T) {
			wantBytes(t, "transcript", c.got, c.want.Transcript)
			wantBytes(t, "signature", ed25519.Sign(c.signer.identity(), c.got), c.want.Signature)
			if !e2ee.Verify(c.signer.PublicKey, c.got, c.want.Signature) {
				t.Error("the signature does not verify")
			}
			if e2ee.Verify(v.Mallory.PublicKey, c.got, c.want.Signature) {
				t.Error("the signature verifies under a stranger's key")
			}
		})
	}
}

func TestVectorsSafetyNumber(t *testing.T) {
	v := loadVectors(t)
	var want string
	for i, digit := range v.SafetyNumber["alice"] + v.SafetyNumber["bob"] {
		if i > 0 && i%5 == 0 {
			want += " "
		}
		want += string(digit)
	}
	if got := e2ee.SafetyNumber("alice", v.Alice.PublicKey, "bob", v.Bob.PublicKey); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := e2ee.SafetyNumber("bob", v.Bob.PublicKey, "alice", v.Alice.PublicKey); got != want {
		t.Errorf("from the other side: got %s, want %s", got, want)
	}
}
