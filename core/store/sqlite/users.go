package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Times are stored in microseconds; time.Time.UnixMicro cuts what is finer.
func fromMicros(v int64) time.Time { return time.UnixMicro(v).UTC() }

const (
	hasUserSQL    = `SELECT 1 FROM users WHERE user_id = ?`
	insertUserSQL = `INSERT INTO users (user_id, username, public_key, roles, created_at) VALUES (?, ?, ?, ?, ?)`
	insertBoxSQL  = `INSERT INTO mailboxes (user_id) VALUES (?)`
	insertKeySQL  = `INSERT INTO encryption_keys (user_id, version, x25519_public_key, created_at, signature, published_at)
		VALUES (?, ?, ?, ?, ?, ?)`
	lastKeySQL = `SELECT max(version) FROM encryption_keys WHERE user_id = ?`

	findAccountSQL = `SELECT u.username, u.public_key, u.roles, u.created_at,
			k.version, k.x25519_public_key, k.created_at, k.signature, k.published_at
		FROM users u JOIN encryption_keys k ON k.user_id = u.user_id
		WHERE u.user_id = ? ORDER BY k.version DESC`
	countUsersSQL = `SELECT count(*) FROM users`
	listUsersSQL  = `SELECT user_id, username, public_key, roles, created_at FROM users WHERE user_id > ? ORDER BY user_id LIMIT ?`
)

// CreateUser stores a user, an empty mailbox and the first key, whose version
// must be 1 ([core.ErrKeyVersion]). A user without roles gets [core.RoleUser].
func (s *Store) CreateUser(ctx context.Context, u *core.User, k *core.EncryptionKey) error {
	return s.write(ctx, func(t *tx) error { return createUser(t, u, k) })
}

func createUser(t *tx, u *core.User, k *core.EncryptionKey) error {
	exists, err := t.has(hasUserSQL, u.ID)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	if exists {
		return core.ErrExists
	}
	if k.Version != 1 {
		return core.ErrKeyVersion
	}
	roles := u.Roles
	if len(roles) == 0 {
		roles = []string{core.RoleUser}
	}
	text, err := wire.Marshal(roles)
	if err != nil {
		return fmt.Errorf("encode roles: %w", err)
	}
	if _, err := t.exec(insertUserSQL, u.ID, u.Username, []byte(u.PublicKey), string(text), u.CreatedAt.UnixMicro()); err != nil {
		return fmt.Errorf("insert user: %w", err)
	}
	if _, err := t.exec(insertBoxSQL, u.ID); err != nil {
		return fmt.Errorf("insert mailbox: %w", err)
	}
	return insertKey(t, u.ID, k)
}

func insertKey(t *tx, userID string, k *core.EncryptionKey) error {
	_, err := t.exec(insertKeySQL, userID, k.Version, k.Public, k.CreatedAt, k.Signature, k.PublishedAt.UnixMicro())
	if err != nil {
		return fmt.Errorf("insert encryption key: %w", err)
	}
	return nil
}

// AddKey stores the next version of a user's key.
func (s *Store) AddKey(ctx context.Context, userID string, k *core.EncryptionKey) error {
	return s.write(ctx, func(t *tx) error { return addKey(t, userID, k) })
}

func addKey(t *tx, userID string, k *core.EncryptionKey) error {
	var last sql.Null[uint64]
	if err := t.row(lastKeySQL, userID).Scan(&last); err != nil {
		return fmt.Errorf("find last encryption key: %w", err)
	}
	switch {
	case !last.Valid: // every user has a first key
		return core.ErrNotFound
	case k.Version != last.V+1:
		return core.ErrKeyVersion
	}
	return insertKey(t, userID, k)
}

// FindAccount returns the user with all keys, newest first.
func (s *Store) FindAccount(ctx context.Context, userID string) (*core.Account, error) {
	a := &core.Account{User: core.User{ID: userID}}
	err := s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, findAccountSQL, userID)
		if err != nil {
			return err
		}
		return scanAll(rows, func() error { return scanKey(rows, a) })
	})
	if err != nil {
		return nil, wrapRead("find account", err)
	}
	if len(a.Keys) == 0 {
		return nil, core.ErrNotFound
	}
	return a, nil
}

func scanKey(rows *sql.Rows, a *core.Account) error {
	var (
		k                  core.EncryptionKey
		roles              string
		created, published int64
	)
	err := rows.Scan(&a.Username, (*[]byte)(&a.PublicKey), &roles, &created, &k.Version, &k.Public, &k.CreatedAt, &k.Signature, &published)
	if err != nil {
		return err
	}
	a.CreatedAt, k.PublishedAt = fromMicros(created), fromMicros(published)
	a.Keys = append(a.Keys, k)
	return scanRoles(roles, &a.User)
}

func scanRoles(text string, u *core.User) error {
	u.Roles = nil
	if err := wire.Unmarshal([]byte(text), &u.Roles); err != nil {
		return fmt.Errorf("decode roles of %q: %w", u.ID, err)
	}
	return nil
}

// CountUsers counts the registered users.
func (s *Store) CountUsers(ctx context.Context) (n int, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		return s.readers.QueryRowContext(ctx, countUsersSQL).Scan(&n)
	})
	return n, wrapRead("count users", err)
}

// ListUsers returns up to limit users whose id sorts behind after, bytewise.
func (s *Store) ListUsers(ctx context.Context, after string, limit int) (users []core.User, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		rows, err := s.readers.QueryContext(ctx, listUsersSQL, after, max(0, limit))
		if err != nil {
			return err
		}
		return scanAll(rows, func() error {
			var (
				u       core.User
				roles   string
				created int64
			)
			if err := rows.Scan(&u.ID, &u.Username, (*[]byte)(&u.PublicKey), &roles, &created); err != nil {
				return err
			}
			u.CreatedAt = fromMicros(created)
			if err := scanRoles(roles, &u); err != nil {
				return err
			}
			users = append(users, u)
			return nil
		})
	})
	if err != nil {
		return nil, wrapRead("list users", err)
	}
	return users, nil
}

// errEnough ends scanAll early without an error.
var errEnough = errors.New("enough")

// scanAll calls scan for each row and closes rows.
func scanAll(rows *sql.Rows, scan func() error) error {
	defer func() { _ = rows.Close() }() // what it could tell, Err tells
	for rows.Next() {
		if err := scan(); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return rows.Err()
}

// wrapRead names what was read; the contract's own answers pass as they are.
func wrapRead(what string, err error) error {
	if err == nil || isRefusal(err) || errors.Is(err, core.ErrClosed) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
