package e2ee_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk/e2ee"
)

// newBundle makes a signed bundle of bob's with a fresh encryption key.
func newBundle(tb testing.TB, seed byte, version uint64) *e2ee.Bundle {
	tb.Helper()
	u := user{Seed: bytes.Repeat([]byte{seed}, 32)}
	key, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		tb.Fatal(err)
	}
	b := &e2ee.Bundle{UserID: "bob", PublicKey: public(u.identity()), EncryptionKey: key.PublicKey().Bytes(),
		KeyVersion: version, CreatedAt: "2026-01-31T11:00:00.000Z"}
	b.Sign(u.identity())
	return b
}

func wantCheck(t *testing.T, b *e2ee.Bundle, pin e2ee.Pin, want error) e2ee.Pin {
	t.Helper()
	got, err := b.Check("bob", pin)
	if !errors.Is(err, want) {
		t.Fatalf("version %d: got %v, want %v", b.KeyVersion, err, want)
	}
	if want != nil {
		if diff := cmp.Diff(pin, got); diff != "" {
			t.Errorf("a refused bundle changed the pin (-want +got):\n%s", diff)
		}
	}
	return got
}

// TestCheckThroughALife follows one peer from first sight to a changed identity.
func TestCheckThroughALife(t *testing.T) {
	first, third := newBundle(t, 1, 1), newBundle(t, 1, 3)
	pin := wantCheck(t, first, e2ee.Pin{}, nil)
	want := e2ee.Pin{PublicKey: first.PublicKey, KeyVersion: 1, EncryptionKey: first.EncryptionKey}
	if diff := cmp.Diff(want, pin); diff != "" {
		t.Errorf("first sight (-want +got):\n%s", diff)
	}
	pin.Verified = true
	pin = wantCheck(t, first, pin, nil)
	pin = wantCheck(t, third, pin, nil)
	if !pin.Verified || pin.KeyVersion != 3 {
		t.Errorf("got %+v, want version 3, still verified", pin)
	}
	wantCheck(t, first, pin, e2ee.ErrRollback)
	wantCheck(t, newBundle(t, 1, 3), pin, e2ee.ErrKeyReplaced)
	changed := newBundle(t, 2, 4)
	wantCheck(t, changed, pin, e2ee.ErrIdentityChanged)
	accepted := wantCheck(t, changed, e2ee.Pin{}, nil)
	if accepted.Verified {
		t.Error("a new identity starts verified")
	}
	if _, err := first.Check("alice", e2ee.Pin{}); !errors.Is(err, e2ee.ErrWrongUser) {
		t.Errorf("got %v, want another user's bundle refused", err)
	}
}

// TestCheckOrder gives bundles that are wrong in several ways: the first in the
// order of docs/e2ee.md §2 is named.
func TestCheckOrder(t *testing.T) {
	pin := wantCheck(t, newBundle(t, 1, 5), e2ee.Pin{}, nil)
	b := newBundle(t, 2, 1)
	b.Signature[0] ^= 1
	if _, err := b.Check("alice", pin); !errors.Is(err, e2ee.ErrWrongUser) {
		t.Errorf("got %v, want the user first", err)
	}
	wantCheck(t, b, pin, e2ee.ErrIdentityChanged)
	b = newBundle(t, 1, 1)
	b.Signature[0] ^= 1
	wantCheck(t, b, pin, e2ee.ErrBundleSignature)
}

func TestPinSharesNoMemory(t *testing.T) {
	b := newBundle(t, 1, 1)
	pin := wantCheck(t, b, e2ee.Pin{}, nil)
	b.PublicKey[0] ^= 1
	b.EncryptionKey[0] ^= 1
	if bytes.Equal(pin.PublicKey, b.PublicKey) || bytes.Equal(pin.EncryptionKey, b.EncryptionKey) {
		t.Error("changing the bundle changed the pin")
	}
}

// TestMarkNeedsAKey shows that a pin without an identity cannot be verified.
func TestMarkNeedsAKey(t *testing.T) {
	if pin := wantCheck(t, newBundle(t, 1, 1), e2ee.Pin{Verified: true}, nil); pin.Verified {
		t.Error("a key seen for the first time is marked as verified")
	}
}

func TestBundleVerifyRefuses(t *testing.T) {
	identity := user{Seed: bytes.Repeat([]byte{1}, 32)}
	for name, c := range map[string]struct {
		change func(*e2ee.Bundle)
		want   error
	}{
		"user id":              {func(b *e2ee.Bundle) { b.UserID = "Bob" }, e2ee.ErrBundleShape},
		"long user id":         {func(b *e2ee.Bundle) { b.UserID = strings.Repeat("b", 64) }, e2ee.ErrBundleShape},
		"version 0":            {func(b *e2ee.Bundle) { b.KeyVersion = 0 }, e2ee.ErrBundleShape},
		"version 2^53":         {func(b *e2ee.Bundle) { b.KeyVersion = 1 << 53 }, e2ee.ErrBundleShape},
		"created_at":           {func(b *e2ee.Bundle) { b.CreatedAt = "2026-01-31T11:00:00Z" }, e2ee.ErrBundleShape},
		"short identity":       {func(b *e2ee.Bundle) { b.PublicKey = b.PublicKey[:31] }, e2ee.ErrIdentityKey},
		"no identity":          {func(b *e2ee.Bundle) { b.PublicKey = nil }, e2ee.ErrIdentityKey},
		"short encryption key": {func(b *e2ee.Bundle) { b.EncryptionKey = b.EncryptionKey[:31] }, e2ee.ErrEncryptionKey},
		"another's identity":   {func(b *e2ee.Bundle) { b.PublicKey = newBundle(t, 2, 1).PublicKey }, e2ee.ErrBundleSignature},
		"zero encryption key":  {func(b *e2ee.Bundle) { b.EncryptionKey = make([]byte, 32) }, e2ee.ErrEncryptionKey},
		"neutral as identity":  {func(b *e2ee.Bundle) { b.PublicKey = append([]byte{1}, make([]byte, 31)...) }, e2ee.ErrIdentityKey},
		"identity above p":     {func(b *e2ee.Bundle) { b.PublicKey = append([]byte{0xee}, bytes.Repeat([]byte{0xff}, 31)...) }, e2ee.ErrIdentityKey},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, 1, 1)
			c.change(b)
			b.Sign(identity.identity()) // signed as it is: only the check named may refuse it
			if err := b.Verify(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	b := newBundle(t, 1, 1)
	b.Signature = b.Signature[:63]
	if err := b.Verify(); !errors.Is(err, e2ee.ErrBundleShape) {
		t.Errorf("short signature: got %v", err)
	}
}

// TestIdentityKeyCanonical walks over the last values of y below 2^255: those from
// the prime on are refused, with both signs.
func TestIdentityKeyCanonical(t *testing.T) {
	for low := range 256 {
		for _, sign := range []byte{0, 0x80} {
			key := bytes.Repeat([]byte{0xff}, 32)
			key[0], key[31] = byte(low), 0x7f|sign
			refused := e2ee.CheckIdentityKey(key) != nil
			// p − 1 ends in ec and is of order 2.
			if want := low >= 0xec; refused != want {
				t.Errorf("%x: refused %v, want %v", key, refused, want)
			}
		}
	}
}

func TestSafetyNumberSeparates(t *testing.T) {
	a, b := newBundle(t, 1, 1).PublicKey, newBundle(t, 2, 1).PublicKey
	number := e2ee.SafetyNumber("alice", a, "bob", b)
	if groups := strings.Split(number, " "); len(groups) != 12 || len(number) != 71 {
		t.Errorf("got %q, want twelve groups of five", number)
	}
	for name, other := range map[string]string{
		"keys swapped": e2ee.SafetyNumber("alice", b, "bob", a),
		"other user":   e2ee.SafetyNumber("alice", a, "bobby", b),
		"other key":    e2ee.SafetyNumber("alice", a, "bob", a),
	} {
		if other == number {
			t.Errorf("%s: the same number", name)
		}
	}
	if e2ee.SafetyNumber("a", a, "a", b) != e2ee.SafetyNumber("a", b, "a", a) {
		t.Error("one user's two keys: the sides differ")
	}
}
