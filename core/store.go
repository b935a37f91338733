package core

import (
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
)

// What a store answers when it works but says no. Any other error means that
// storage is in trouble and nothing was changed; see [StoreFault].
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("not found")
	// ErrExists: a row with this key is there already.
	ErrExists = errors.New("exists already")
	// ErrIDConflict: (sender, id) was used with another digest.
	ErrIDConflict = errors.New("id used with other contents")
	// ErrMailboxFull: the recipient has as many unacknowledged messages as allowed.
	ErrMailboxFull = errors.New("mailbox full")
	// ErrKeyVersion: a key's version is not the last one plus 1.
	ErrKeyVersion = errors.New("key version is not the next one")
	// ErrSeq: an acknowledgement beyond the mailbox's last seq.
	ErrSeq = errors.New("seq was never given")
	// ErrRevision: a plugin's key does not have the revision that the write named.
	ErrRevision = errors.New("key has another revision")
	// ErrQuota: a plugin's keys would be more, or larger, than its quota.
	ErrQuota = errors.New("quota reached")
	// ErrBusy: the writer's queue is full; nothing was done.
	ErrBusy = errors.New("writer queue full")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("store closed")
)

// StoreFault is what a client may be told about a store error that its caller
// has no better word for.
func StoreFault(err error) error {
	var f *fault.Error
	switch {
	case err == nil || errors.As(err, &f):
		return err
	case errors.Is(err, ErrBusy):
		return fault.New(fault.Overloaded, "The server is storing as fast as it can; nothing was stored, try again under the same id.").
			WithRetryAfter(250 * time.Millisecond).WithCause(err)
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return fault.New(fault.ShuttingDown, "The server or the connection is closing; try again under the same id.").WithCause(err)
	}
	return fault.New(fault.StorageUnavailable, "The server cannot store at the moment; try again under the same id.").
		WithRetryAfter(time.Second).WithCause(err)
}

// The store's parts follow, each a contract that every engine under core/store
// meets and storetest proves. Rooms declare the parts they need. All methods may
// be called from any goroutine and honour ctx while they wait to be taken up;
// what the writer has taken up is finished whatever ctx does. Writes return
// after the commit. Times are UTC, cut to the microsecond.

// Users holds identities and their encryption keys.
type Users interface {
	// CreateUser stores a user with its first key in one transaction; ErrExists.
	CreateUser(ctx context.Context, u *User, k *EncryptionKey) error
	// FindAccount returns the user with all keys, newest first; ErrNotFound.
	FindAccount(ctx context.Context, userID string) (*Account, error)
	// AddKey stores the next version of a user's key; ErrNotFound, ErrKeyVersion.
	AddKey(ctx context.Context, userID string, k *EncryptionKey) error
}

// UserIndex counts and lists identities.
type UserIndex interface {
	CountUsers(ctx context.Context) (int, error)
	// ListUsers returns up to limit users whose id sorts behind after.
	ListUsers(ctx context.Context, after string, limit int) ([]User, error)
}

// Login is one verified sign-in: what a token's sid names.
type Login struct {
	SessionID string
	UserID    string
	IssuedAt  time.Time
	ExpiresAt time.Time
	Remote    Remote
}

// Revocation says that a token's session was ended before its time.
type Revocation struct {
	SessionID string
	UserID    string
	RevokedAt time.Time
	// ExpiresAt is when the last token of the session is over and the row may go.
	ExpiresAt time.Time
}

// Logins holds sign-ins, spent challenges and revocations.
type Logins interface {
	// CreateLogin spends the challenge and stores the sign-in in one transaction;
	// ErrExists where the challenge was spent before. The digest is remembered
	// until challengeExpires.
	CreateLogin(ctx context.Context, l *Login, challenge [32]byte, challengeExpires time.Time) error
	// Revoke ends a session; repeating it changes nothing.
	Revoke(ctx context.Context, r *Revocation) error
	// ListRevocations returns those whose tokens could still be valid at now.
	ListRevocations(ctx context.Context, now time.Time) ([]Revocation, error)
}

// Mailboxes holds direct messages.
type Mailboxes interface {
	// Append stores a message under the recipient's next seq, given within the
	// transaction; m is not changed. A repeated one (same sender, id and digest)
	// gets the first answer; ErrIDConflict, ErrMailboxFull (limit unacknowledged
	// messages), ErrNotFound (recipient).
	Append(ctx context.Context, m *Message, limit int) (Stored, error)
	// FindStored looks (from, id) up: Stored with Repeated set, ErrIDConflict where
	// the digest differs, ErrNotFound.
	FindStored(ctx context.Context, from, id string, digest [32]byte) (Stored, error)
	// Mailbox returns the user's mailbox; ErrNotFound where the user does not exist.
	Mailbox(ctx context.Context, userID string) (Mailbox, error)
	// Read returns up to limit messages with seq > after, in order, and at most
	// about maxBytes of content, but at least one message where there is one.
	Read(ctx context.Context, userID string, after uint64, limit, maxBytes int) ([]Message, error)
	// Ack moves the acknowledged seq forward and returns the receipts of the
	// messages newly acknowledged, in order; none where seq is not ahead. signed
	// are the recipient's signed receipts, by seq. ErrSeq beyond the last seq.
	Ack(ctx context.Context, userID string, seq uint64, at time.Time, signed map[uint64]Receipt) ([]Receipt, error)
}

// Retention removes what nobody needs any more, in small batches.
type Retention interface {
	// Prune removes messages acknowledged before delivered, and spent challenges,
	// sign-ins, signed command ids, revocations and plugins' entries that ended before
	// now. It returns how many messages went. It stops early when ctx ends.
	Prune(ctx context.Context, now, delivered time.Time) (int, error)
}

// CommandLog remembers who ran what, and the ids of signed commands.
type CommandLog interface {
	// LogRuns appends lines in one transaction.
	LogRuns(ctx context.Context, runs []CommandRun) error
	// SpendSigned remembers (from, id) of a signed command until the given time;
	// ErrIDConflict where it is remembered already.
	SpendSigned(ctx context.Context, from, id string, digest [32]byte, until time.Time) error
}

// KVEntry is one key of a plugin.
type KVEntry struct {
	Key   string
	Value []byte
	// Revision is never 0. It grows with every write of the key.
	Revision uint64
	// ExpiresAt is zero for an entry that stays until it is deleted.
	ExpiresAt time.Time
}

// KVWrite is one write of a plugin's key.
type KVWrite struct {
	Key   string
	Value []byte // not kept, not changed
	// IfRevision, where it is not nil, is the revision that the key must have; 0: the
	// key must not be there.
	IfRevision *uint64
	// ExpiresAt is zero for an entry that stays until it is deleted.
	ExpiresAt time.Time
}

// KVRange is a piece of a plugin's keys, in the order of their bytes.
type KVRange struct {
	// Prefix is what every key begins with; empty: any.
	Prefix string
	// After is a key behind which the piece begins, whether or not it is there.
	After string
	// Limit is how many entries there are at most, at least 1.
	Limit int
	// MaxBytes is about how many bytes of keys and values there are at most; the first
	// entry comes whatever its size.
	MaxBytes int
}

// KVQuota is how much one plugin may keep.
type KVQuota struct {
	Keys  int
	Bytes int64 // of keys and values together
}

// PluginKV holds what plugins keep, the keys of each apart from all others'. What it
// is given is checked already. An entry whose ExpiresAt is not after now is, at once
// and to every method, as if it were not there, and does not count towards the quota.
//
// Revisions come from one counter per plugin that only ever grows: no two writes of a
// plugin get the same, not even when a key was deleted or has expired in between, so
// that a write under a remembered revision can never meet another entry.
type PluginKV interface {
	// KVGet returns the entry of a key; ErrNotFound.
	KVGet(ctx context.Context, plugin, key string, now time.Time) (KVEntry, error)
	// KVPut writes a key and returns its new revision; ErrRevision, ErrQuota, upon
	// which nothing has changed. A write that makes an entry no larger is never
	// refused for the quota.
	KVPut(ctx context.Context, plugin string, w *KVWrite, quota KVQuota, now time.Time) (revision uint64, err error)
	// KVDelete removes a key and reports whether it was there. With ifRevision it is
	// ErrRevision where the key has another one or is not there.
	KVDelete(ctx context.Context, plugin, key string, ifRevision *uint64, now time.Time) (deleted bool, err error)
	// KVList returns a piece of the keys, and whether there are more behind it.
	KVList(ctx context.Context, plugin string, r KVRange, now time.Time) (entries []KVEntry, more bool, err error)
}

// SessionRow is one connection as the sessions table keeps it.
type SessionRow struct {
	ConnID       string
	SessionID    string
	UserID       string
	ConnectedAt  time.Time
	Remote       Remote
	EndedAt      time.Time // zero while it is open
	SentCount    uint64
	ReceiveCount uint64
}

// Sessions is the history of connections.
type Sessions interface {
	// OpenSession appends the row of a new connection.
	OpenSession(ctx context.Context, r *SessionRow) error
	// CloseSession ends the row of a connection.
	CloseSession(ctx context.Context, r *SessionRow) error
}

// Store is everything that an engine provides.
type Store interface {
	Users
	UserIndex
	Logins
	Mailboxes
	Retention
	CommandLog
	PluginKV
	Sessions
	// Check writes and reads a row, for health.
	Check(ctx context.Context) error
	// Close waits for the writer to finish what it took up. Later calls answer
	// ErrClosed.
	Close() error
}
