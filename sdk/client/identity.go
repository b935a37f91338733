package client

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Identity is a user's keys and what their client must remember: pins of peers and
// the place in the mailbox. It lives in one file of mode 0600 beside a journal of
// messages that were dealt with (docs/e2ee.md §8). Its methods may be called from
// any goroutine, and several processes may use one file at once.
type Identity struct {
	path string

	mu    sync.Mutex
	state identityState
	seen  map[string]string // sender and id → digest of the message, of this process and those before
}

// identityState is the file. It never reaches a log: the type prints as its user.
type identityState struct {
	Version    int             `json:"version"`
	UserID     string          `json:"user_id"`
	Username   string          `json:"username"`
	Seed       []byte          `json:"ed25519_seed"`
	Keys       []encryptionKey `json:"encryption_keys"` // newest last
	Peers      map[string]pin  `json:"peers"`
	Registered bool            `json:"registered"`
}

type encryptionKey struct {
	Version   uint64 `json:"version"`
	Private   []byte `json:"x25519_private"`
	CreatedAt string `json:"created_at"`
}

type pin struct {
	PublicKey     []byte `json:"public_key"`
	KeyVersion    uint64 `json:"key_version"`
	EncryptionKey []byte `json:"x25519_public_key"`
	Verified      bool   `json:"verified"`
}

// stateVersion is the version of the file's form.
const stateVersion = 1

// CreateIdentity makes new keys for a user and stores them at path, which must not
// exist yet. username is shown to others; empty is the user id.
func CreateIdentity(path, userID, username string) (*Identity, error) {
	if !wire.ValidUserID(userID) || userID == wire.ReservedUser {
		return nil, fault.Newf(fault.InvalidRequest, "%q cannot be a user id: it must match ^[a-z0-9][a-z0-9._-]{0,62}$ and not be %q.", userID, wire.ReservedUser)
	}
	if username == "" {
		username = userID
	}
	if !wire.ValidUsername(username) {
		return nil, fault.New(fault.InvalidRequest, "A username must be 1 to 128 bytes of UTF-8 without control characters.")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make identity key: %w", err)
	}
	ek, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		return nil, fmt.Errorf("make encryption key: %w", err)
	}
	i := &Identity{path: path, seen: make(map[string]string), state: identityState{
		Version: stateVersion, UserID: userID, Username: username, Seed: private.Seed(), Peers: make(map[string]pin),
		Keys: []encryptionKey{{Version: 1, Private: ek.Bytes(), CreatedAt: wire.FormatTime(time.Now())}},
	}}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make identity directory: %w", err)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("create identity %s: %w", path, os.ErrExist)
	}
	return i, writeFile(path, &i.state)
}

// OpenIdentity reads an identity. A file that others may read is refused.
func OpenIdentity(path string) (*Identity, error) {
	state, err := readState(path)
	if err != nil {
		return nil, err
	}
	i := &Identity{path: path, state: *state}
	if i.seen, err = readJournal(i.journal()); err != nil {
		return nil, err
	}
	return i, nil
}

func readState(path string) (*identityState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open identity: %s may be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	var s identityState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("open identity %s: the file is damaged: %w", path, err)
	}
	switch {
	case s.Version != stateVersion:
		return nil, fmt.Errorf("open identity %s: its form is version %d, this program reads %d", path, s.Version, stateVersion)
	case len(s.Seed) != ed25519.SeedSize || len(s.Keys) == 0 || !wire.ValidUserID(s.UserID):
		return nil, fmt.Errorf("open identity %s: the file is incomplete", path)
	}
	if s.Peers == nil {
		s.Peers = make(map[string]pin)
	}
	return &s, nil
}

// UserID is whom the identity speaks for.
func (i *Identity) UserID() string { return i.state.UserID }

// Username is what others are shown.
func (i *Identity) Username() string { return i.state.Username }

// Path is the identity's file.
func (i *Identity) Path() string { return i.path }

// PublicKey is the identity key's public half.
func (i *Identity) PublicKey() ed25519.PublicKey {
	public, _ := i.signer().Public().(ed25519.PublicKey) // always that type
	return public
}

// String hides the keys.
func (i *Identity) String() string { return "identity of " + i.state.UserID }

// GoString hides the keys from %#v.
func (i *Identity) GoString() string { return i.String() }

// Registered reports whether a server took the registration.
func (i *Identity) Registered() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state.Registered
}

func (i *Identity) signer() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(i.state.Seed) }

// bundle is the newest key bundle, signed.
func (i *Identity) bundle() (*e2ee.Bundle, error) {
	i.mu.Lock()
	newest := i.state.Keys[len(i.state.Keys)-1]
	i.mu.Unlock()
	private, err := ecdh.X25519().NewPrivateKey(newest.Private)
	if err != nil {
		return nil, fmt.Errorf("read encryption key: %w", err)
	}
	b := &e2ee.Bundle{
		UserID: i.UserID(), PublicKey: i.PublicKey(), EncryptionKey: private.PublicKey().Bytes(),
		KeyVersion: newest.Version, CreatedAt: newest.CreatedAt,
	}
	b.Sign(i.signer())
	return b, nil
}

// encryptionKey is the private key of a version, nil where there is none.
func (i *Identity) encryptionKey(version uint64) *ecdh.PrivateKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.state.Keys {
		if k.Version == version {
			private, err := ecdh.X25519().NewPrivateKey(k.Private)
			if err != nil {
				return nil
			}
			return private
		}
	}
	return nil
}

// Pin is what is remembered of a peer; the zero value where there is nothing.
func (i *Identity) Pin(userID string) e2ee.Pin {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state.Peers[userID].pin()
}

func (p pin) pin() e2ee.Pin {
	return e2ee.Pin{PublicKey: p.PublicKey, KeyVersion: p.KeyVersion, EncryptionKey: p.EncryptionKey, Verified: p.Verified}
}

// setPin remembers a peer. check decides on the newest pin of the file, which
// another process may have moved on meanwhile.
func (i *Identity) setPin(userID string, check func(e2ee.Pin) (e2ee.Pin, error)) (next e2ee.Pin, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	err = i.updateLocked(func(s *identityState) (changed bool, err error) {
		now := s.Peers[userID]
		if next, err = check(now.pin()); err != nil || same(now, next) {
			return false, err
		}
		s.Peers[userID] = pin{PublicKey: next.PublicKey, KeyVersion: next.KeyVersion, EncryptionKey: next.EncryptionKey, Verified: next.Verified}
		return true, nil
	})
	return next, err
}

func same(a pin, b e2ee.Pin) bool {
	return a.KeyVersion == b.KeyVersion && a.Verified == b.Verified && bytes.Equal(a.PublicKey, b.PublicKey) && bytes.Equal(a.EncryptionKey, b.EncryptionKey)
}

func (i *Identity) setRegistered() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.updateLocked(func(s *identityState) (bool, error) { s.Registered = true; return true, nil })
}

// updateLocked changes the file under its lock, starting from what is in it now,
// so that two processes cannot undo each other's changes.
func (i *Identity) updateLocked(change func(*identityState) (changed bool, err error)) error {
	unlock, err := lockFile(i.path)
	if err != nil {
		return err
	}
	defer unlock()
	state, err := readState(i.path)
	if err != nil {
		return err
	}
	changed, err := change(state)
	if err != nil {
		return err
	}
	if changed {
		if err := writeFile(i.path, state); err != nil {
			return err
		}
	}
	// User and seed never change, and are read without the lock.
	i.state.Keys, i.state.Peers, i.state.Registered = state.Keys, state.Peers, state.Registered
	return nil
}

// errSeen: the message was dealt with before.
var errSeen = errors.New("message was seen before")

func seenKey(from, id string) string { return from + "\n" + id }

// checkSeen is nil for a message never seen, errSeen for one delivered again, and
// a refusal for another one under an id that was seen (docs/e2ee.md §3, §4).
func (i *Identity) checkSeen(f *wire.Direct) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	digest, seen := i.seen[seenKey(f.From, f.ID)]
	switch {
	case !seen:
		return nil
	case digest == "" || digest == digestOf(f):
		return errSeen
	}
	return &e2ee.RefusedError{Check: e2ee.CheckReplay, Err: errors.New("another message was seen under this id")}
}

// record notes durably that a message was dealt with: seen where refused is nil,
// put aside otherwise. It may be acknowledged after that and not before.
func (i *Identity) record(f *wire.Direct, refused error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := journalLine{From: f.From, ID: f.ID, Seq: f.Seq, Message: digestOf(f)}
	if refused != nil {
		l.Refused = refused.Error()
	}
	if err := appendJournal(i.journal(), l); err != nil {
		return err
	}
	if refused == nil {
		i.seen[seenKey(f.From, f.ID)] = l.Message
	}
	return nil
}

// digestOf tells messages apart: by the signature, or by the text where there is
// none.
func digestOf(f *wire.Direct) string {
	told := f.Signature
	if told == "" {
		told = f.Content
	}
	sum := sha256.Sum256([]byte(told))
	return wire.EncodeBase64(sum[:])
}

func (i *Identity) journal() string { return i.path + ".seen" }
