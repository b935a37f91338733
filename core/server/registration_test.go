package server_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// application is a registration that a test bends.
type application struct {
	host, username, timestamp, createdAt string
	encryption                           []byte
	bundleSigner, signer                 ed25519.PrivateKey
}

func (p *person) apply(bend func(*application)) *wire.RegisterRequest {
	now := wire.FormatTime(time.Now())
	a := application{p.h.name(), "A name", now, now, p.open.PublicKey().Bytes(), p.sign, p.sign}
	if bend != nil {
		bend(&a)
	}
	b := &e2ee.Bundle{UserID: p.id, PublicKey: p.public(), EncryptionKey: a.encryption, KeyVersion: 1, CreatedAt: a.createdAt}
	b.Sign(a.bundleSigner)
	return &wire.RegisterRequest{
		UserID: p.id, Username: a.username, PublicKey: b.PublicKey, X25519PublicKey: b.EncryptionKey, KeyVersion: 1, CreatedAt: a.createdAt,
		KeySignature: b.Signature, Timestamp: a.timestamp, Signature: ed25519.Sign(a.signer, e2ee.RegisterTranscript(a.host, b, a.username, a.timestamp)),
	}
}

func TestRegistrationByTheRules(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.stranger("alice")
	first := alice.apply(nil)
	status, created := h.do("POST", "/auth/register", "", first)
	var told map[string]any
	if err := json.Unmarshal(created, &told); err != nil || status != http.StatusCreated || len(told) != 3 || told["user_id"] != "alice" || told["username"] != "A name" {
		t.Fatalf("got %d %s, want 201 with user_id, username and created_at", status, created)
	}
	if _, err := wire.ParseTime(fmt.Sprint(told["created_at"])); err != nil {
		t.Errorf("created_at: %v", err)
	}
	for range 2 {
		if status, again := h.do("POST", "/auth/register", "", first); status != http.StatusOK || !bytes.Equal(again, created) {
			t.Errorf("the same again: got %d %s, want 200 %s", status, again, created)
		}
	}
	for name, other := range map[string]*wire.RegisterRequest{
		"other username": alice.apply(func(a *application) { a.username = "Another"; a.createdAt = first.CreatedAt }),
		"other key":      alice.apply(func(a *application) { a.encryption = h.stranger("x").open.PublicKey().Bytes() }),
		"other identity": h.stranger("alice").apply(nil),
	} {
		status, body := h.do("POST", "/auth/register", "", other)
		if h.wantProblem(status, body, http.StatusConflict, fault.UserExists); t.Failed() {
			t.Fatal(name)
		}
	}

	mallory := h.stranger("mallory")
	at := func(d time.Duration) string { return wire.FormatTime(time.Now().Add(d)) }
	for name, c := range map[string]struct {
		bend   func(*application)
		status int
		code   fault.Code
	}{
		"other host":         {func(a *application) { a.host = "other.example" }, 400, fault.InvalidSignature},
		"other signer":       {func(a *application) { a.signer = alice.sign }, 400, fault.InvalidSignature},
		"bundle of another":  {func(a *application) { a.bundleSigner = alice.sign }, 400, fault.InvalidSignature},
		"old":                {func(a *application) { a.timestamp = at(-6 * time.Minute) }, 400, fault.StaleTimestamp},
		"ahead":              {func(a *application) { a.timestamp = at(6 * time.Minute) }, 400, fault.StaleTimestamp},
		"key ahead":          {func(a *application) { a.createdAt = at(6 * time.Minute) }, 400, fault.StaleTimestamp},
		"no such day":        {func(a *application) { a.timestamp = "2026-02-30T12:00:00.000Z" }, 400, fault.InvalidRequest},
		"no milliseconds":    {func(a *application) { a.timestamp = "2026-02-20T12:00:00Z" }, 400, fault.InvalidRequest},
		"offset":             {func(a *application) { a.timestamp = "2026-02-20T12:00:00.000+00:00" }, 400, fault.InvalidRequest},
		"empty name":         {func(a *application) { a.username = "" }, 400, fault.InvalidRequest},
		"long name":          {func(a *application) { a.username = strings.Repeat("é", 65) }, 400, fault.InvalidRequest},
		"line break in name": {func(a *application) { a.username = "a\nb" }, 400, fault.InvalidRequest},
		"C1 control in name": {func(a *application) { a.username = "a\u0085b" }, 400, fault.InvalidRequest},
	} {
		status, body := h.do("POST", "/auth/register", "", mallory.apply(c.bend))
		if h.wantProblem(status, body, c.status, c.code); t.Failed() {
			t.Fatal(name)
		}
	}
	for _, id := range []string{"", "Alice", "-a", ".a", "_a", "a b", "ä", "a/b", "server", strings.Repeat("a", 64), "a\x00"} {
		s := h.stranger("x")
		s.id = id
		if status, body := h.do("POST", "/auth/register", "", s.apply(nil)); status != http.StatusBadRequest {
			t.Errorf("user_id %q: got %d %s, want 400", id, status, body)
		}
	}
	for _, id := range []string{"a", "0", "a.b_c-d", strings.Repeat("z", 63)} {
		s := h.stranger(id)
		if status, body := h.do("POST", "/auth/register", "", s.apply(func(a *application) { a.username = strings.Repeat("é", 64) })); status != http.StatusCreated {
			t.Errorf("user_id %q: got %d %s, want 201", id, status, body)
		}
	}
}

// Every member of a registration is there, once, of its type, and in canonical
// base64 where it is binary.
func TestRegistrationsThatAreMalformed(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	data, err := wire.Marshal(h.stranger("mallory").apply(nil))
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprint(members["public_key"])
	bad := map[string]string{
		"nothing": "", "no JSON": "{", "a list": "[" + good + "]", "two values": good + good, "null": "null",
		"version 2": strings.Replace(good, `"key_version":1`, `"key_version":2`, 1), "version 0": strings.Replace(good, `"key_version":1`, `"key_version":0`, 1),
		"version as text": strings.Replace(good, `"key_version":1`, `"key_version":"1"`, 1), "version as fraction": strings.Replace(good, `"key_version":1`, `"key_version":1.0`, 1),
		"version with exponent": strings.Replace(good, `"key_version":1`, `"key_version":1e0`, 1),
		"twice":                 strings.Replace(good, `{`, `{"user_id":"mallory",`, 1), "case variant": strings.Replace(good, `{`, `{"User_ID":"alice",`, 1),
		"unpaired surrogate": strings.Replace(good, `A name`, `\ud800`, 1), "not UTF-8": strings.Replace(good, `A name`, "\xff", 1),
		"unpadded key": strings.Replace(good, key, strings.TrimRight(key, "="), 1), "line break in key": strings.Replace(good, key, key[:8]+`\n`+key[8:], 1),
		"blank in key": strings.Replace(good, key, " "+key, 1), "short key": strings.Replace(good, key, "AAAA", 1),
		"unused bits": strings.Replace(good, key, key[:42]+string(key[42]+1)+"=", 1), "deep": strings.Replace(good, `{`, `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,`, 1),
	}
	for name := range members {
		one := map[string]any{}
		for k, v := range members {
			if k != name {
				one[k] = v
			}
		}
		text, _ := json.Marshal(one)
		bad["without "+name] = string(text)
		one[name] = []int{1}
		text, _ = json.Marshal(one)
		bad["list as "+name] = string(text)
	}
	for name, body := range bad {
		a := h.request("POST", "/auth/register", h.name(), fmt.Sprintf("Content-Length: %d", len(body)), "", body)
		var p wire.Problem
		if err := wire.Unmarshal(a.body, &p); err != nil || a.status != http.StatusBadRequest || p.Code != fault.BadJSON && p.Code != fault.InvalidRequest {
			t.Errorf("%s: got %d %s, want 400", name, a.status, a.body)
		}
	}
	if a := h.request("POST", "/auth/register", h.name(), fmt.Sprintf("Content-Length: %d", len(good)), "", good); a.status != http.StatusCreated {
		t.Errorf("the good one: got %d %s, want 201", a.status, a.body)
	}
}

type refusedKeys struct {
	Identity   []string `json:"refused_identity_keys"`
	Encryption []string `json:"refused_encryption_keys"`
}

func readRefusedKeys(t *testing.T) (k refusedKeys) {
	t.Helper()
	data, err := os.ReadFile("../../sdk/e2ee/testdata/e2ee-vectors.json")
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil || len(k.Identity) == 0 || len(k.Encryption) == 0 {
		t.Fatalf("vectors: %v", err)
	}
	return k
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWeakKeysAreRefused(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	weak := readRefusedKeys(t)
	for _, key := range weak.Identity {
		r := h.stranger("mallory").apply(nil)
		r.PublicKey = unhex(t, key)
		r.KeySignature = append(slices.Clone(r.PublicKey), make([]byte, 32)...) // what verifies under a low-order key: R = A, S = 0
		r.Signature = r.KeySignature
		status, body := h.do("POST", "/auth/register", "", r)
		h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest)
	}
	alice := h.person("alice")
	for _, key := range weak.Encryption {
		status, body := h.do("POST", "/auth/register", "", h.stranger("mallory").apply(func(a *application) { a.encryption = unhex(t, key) }))
		h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest)
		status, body = h.do("PUT", "/auth/keys", alice.token, alice.upload(2, unhex(t, key), time.Now().Add(time.Second), alice.sign))
		h.wantProblem(status, body, http.StatusBadRequest, fault.InvalidRequest)
	}
}

// upload is the next encryption key, as a client would publish it.
func (p *person) upload(version uint64, key []byte, at time.Time, signer ed25519.PrivateKey) *wire.KeyUpload {
	b := &e2ee.Bundle{UserID: p.id, PublicKey: p.public(), EncryptionKey: key, KeyVersion: version, CreatedAt: wire.FormatTime(at)}
	b.Sign(signer)
	return &wire.KeyUpload{X25519PublicKey: key, KeyVersion: version, CreatedAt: b.CreatedAt, KeySignature: b.Signature}
}

func TestEncryptionKeysRotateByTheRules(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	old := alice.keys("bob")
	next, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		t.Fatal(err)
	}
	key, soon := next.PublicKey().Bytes(), time.Now().Add(time.Second)
	for _, c := range []struct {
		name    string
		upload  *wire.KeyUpload
		status  int
		code    fault.Code
		details string
	}{
		{"the version there is, another key", bob.upload(1, key, soon, bob.sign), 409, fault.KeyVersion, `{"key_version":1}`},
		{"one too far", bob.upload(3, key, soon, bob.sign), 409, fault.KeyVersion, `{"key_version":1}`},
		{"signed by another", bob.upload(2, key, soon, alice.sign), 400, fault.InvalidSignature, ""},
		{"of the future", bob.upload(2, key, time.Now().Add(6*time.Minute), bob.sign), 400, fault.StaleTimestamp, ""},
		{"older than the one before", bob.upload(2, key, time.Now().Add(-time.Hour), bob.sign), 400, fault.InvalidRequest, ""},
		{"version 0", bob.upload(0, key, soon, bob.sign), 400, fault.InvalidRequest, ""},
	} {
		status, body := h.do("PUT", "/auth/keys", bob.token, c.upload)
		h.wantProblem(status, body, c.status, c.code)
		var p wire.Problem
		if err := wire.Unmarshal(body, &p); err != nil || string(p.Details) != c.details {
			t.Errorf("%s: got %s, want details %s", c.name, body, c.details)
		}
	}
	second := bob.upload(2, key, soon, bob.sign)
	for range 2 { // a lost answer may be asked for again
		if status, body := h.do("PUT", "/auth/keys", bob.token, second); status != http.StatusOK {
			t.Fatalf("got %d %s, want 200", status, body)
		}
	}
	current := alice.keys("bob")
	if current.KeyVersion != 2 || !bytes.Equal(current.X25519PublicKey, key) || current.CreatedAt != second.CreatedAt || !bytes.Equal(current.KeySignature, second.KeySignature) {
		t.Errorf("got %+v, want version 2 as it was published", current)
	}
	status, body := h.do("PUT", "/auth/keys", bob.token, bob.upload(3, old.X25519PublicKey, soon.Add(time.Second), bob.sign))
	h.wantProblem(status, body, http.StatusTooManyRequests, fault.RateLimited)
	if !bytes.Contains(body, []byte(`"retry_after_ms":`)) {
		t.Errorf("got %s, want a wait", body)
	}

	// Messages to the version before are taken for a day, to others never.
	a := alice.connect()
	a.send(alice.seal("old", old, "to the version before"))
	a.wantStored("old", 1)
	a.send(alice.seal("new", current, "to the current one"))
	a.wantStored("new", 2)
	unknown := alice.seal("unknown", current, "to none")
	unknown.KeyVersion = 3
	a.send(unknown)
	if e := a.wantError("unknown", fault.KeyVersion); string(e.Fault.Details) != `{"key_version":2}` {
		t.Errorf("got details %s, want the current version", e.Fault.Details)
	}
	a.send(alice.seal("unknown", current, "sealed anew under the same id"))
	a.wantStored("unknown", 3)
	for _, odd := range []string{"nobody", "server", "Alice", "a%2Fb", "%00", strings.Repeat("a", 64), "%ff"} {
		status, body := h.do("GET", "/auth/users/"+odd, alice.token, nil)
		h.wantProblem(status, body, http.StatusNotFound, fault.UnknownUser)
	}
}
