package core

import (
	"crypto/ed25519"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// The roles that a user may have.
const (
	RoleUser  = "user"
	RoleAdmin = "admin"
)

// User is a registered identity.
type User struct {
	ID        string
	Username  string
	PublicKey ed25519.PublicKey
	Roles     []string
	CreatedAt time.Time
}

// EncryptionKey is one published version of a user's X25519 key, signed by the
// user's identity (docs/e2ee.md §2).
type EncryptionKey struct {
	Version   uint64
	Public    []byte
	CreatedAt string // as signed, by the client's clock
	Signature []byte
	// PublishedAt is when the server took it, by the server's clock: the 24 hours
	// in which the version before is still accepted count from here.
	PublishedAt time.Time
}

// Account is a user with every encryption key that they ever published, newest
// first, at least one. It is immutable: caches hand the same value to many.
type Account struct {
	User
	Keys []EncryptionKey
}

// Current is the newest encryption key.
func (a *Account) Current() EncryptionKey { return a.Keys[0] }

// Key is the encryption key of a version.
func (a *Account) Key(version uint64) (EncryptionKey, bool) {
	for _, k := range a.Keys {
		if k.Version == version {
			return k, true
		}
	}
	return EncryptionKey{}, false
}

// KeyGrace is how long after a rotation the version before is still accepted
// (docs/e2ee.md §2).
const KeyGrace = 24 * time.Hour

// Accepts reports whether a message sealed to version may be stored at now: the
// current version, or the one before within [KeyGrace] of the rotation.
func (a *Account) Accepts(version uint64, now time.Time) bool {
	current := a.Current()
	if version == current.Version {
		return true
	}
	_, known := a.Key(version)
	return known && version+1 == current.Version && now.Sub(current.PublishedAt) <= KeyGrace
}

// Bundle is the key bundle of one of the account's keys.
func (a *Account) Bundle(k EncryptionKey) e2ee.Bundle {
	return e2ee.Bundle{
		UserID: a.ID, PublicKey: a.PublicKey, EncryptionKey: k.Public,
		KeyVersion: k.Version, CreatedAt: k.CreatedAt, Signature: k.Signature,
	}
}

// UserKeys is the account's current bundle as the protocol carries it.
func (a *Account) UserKeys() wire.UserKeys {
	k := a.Current()
	return wire.UserKeys{
		UserID: a.ID, Username: a.Username, PublicKey: a.PublicKey, X25519PublicKey: k.Public,
		KeyVersion: k.Version, CreatedAt: k.CreatedAt, KeySignature: k.Signature,
	}
}

// Principal is who a verified token speaks for.
type Principal struct {
	UserID    string
	Username  string
	Roles     []string
	SessionID string // the token's sid; revocation is by this
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// Remote is where a request came from, after trusted proxies were taken into
// account.
type Remote struct {
	// Addr is the peer's IP address without port, as text.
	Addr string
	// Host is the server's name as the peer dialled it: lower case, without the
	// scheme's default port (docs/e2ee.md §1). It is one of the configured names.
	Host string
	// UserAgent is the peer's own word, at most 256 bytes.
	UserAgent string
}
