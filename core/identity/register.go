package identity

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Register makes a user (docs/protocol.md §2, docs/e2ee.md §2, §5). The same
// registration sent again gets the first answer with created false, however old
// and even when registration is closed. The faults are invalid_request,
// invalid_signature, stale_timestamp, user_exists, registration_closed and those
// of storage.
func (s *Service) Register(ctx context.Context, r *wire.RegisterRequest, remote core.Remote) (answer wire.Registered, created bool, err error) {
	account, created, err := s.register(ctx, r, remote)
	text := outcome(err)
	if err == nil && !created {
		text = outcomeRepeated
	}
	s.metrics.count(opRegister, text)
	if err != nil {
		return wire.Registered{}, false, err
	}
	if created {
		s.o.Logger.Info().Str("user", account.ID).Str("remote", remote.Addr).Msg("User registered")
	}
	return wire.Registered{UserID: account.ID, Username: account.Username, CreatedAt: wire.FormatTime(account.CreatedAt)}, created, nil
}

func (s *Service) register(ctx context.Context, r *wire.RegisterRequest, remote core.Remote) (_ *core.Account, created bool, err error) {
	if err := checkRegistration(r, remote.Host); err != nil {
		return nil, false, err
	}
	existing, err := s.accounts.find(ctx, r.UserID)
	if err != nil && !errors.Is(err, core.ErrNotFound) {
		return nil, false, core.StoreFault(err)
	}
	if existing != nil && sameRegistration(existing, r) {
		return existing, false, nil
	}
	// A closed server tells nobody who exists.
	if !s.o.RegistrationOpen {
		return nil, false, fault.New(fault.RegistrationClosed, "This server takes no registrations; ask its operator.")
	}
	if existing != nil {
		return nil, false, userExists(r.UserID)
	}
	if err := s.checkRegistrationTimes(r); err != nil {
		return nil, false, err
	}
	return s.createUser(ctx, r)
}

func (s *Service) createUser(ctx context.Context, r *wire.RegisterRequest) (_ *core.Account, created bool, err error) {
	now := storedTime(s.o.Now())
	account := &core.Account{
		User: core.User{ID: r.UserID, Username: r.Username, PublicKey: bytes.Clone(r.PublicKey), Roles: []string{core.RoleUser}, CreatedAt: now},
		Keys: []core.EncryptionKey{{
			Version: 1, Public: bytes.Clone(r.X25519PublicKey), CreatedAt: r.CreatedAt, Signature: bytes.Clone(r.KeySignature), PublishedAt: now,
		}},
	}
	ctx, cancel := writing(ctx)
	defer cancel()
	err = s.o.Store.CreateUser(ctx, &account.User, &account.Keys[0])
	if err == nil {
		s.accounts.wrote(account)
		return account, true, nil
	}
	s.accounts.changed(r.UserID)
	if !errors.Is(err, core.ErrExists) {
		return nil, false, core.StoreFault(err)
	}
	existing, err := s.accounts.find(ctx, r.UserID)
	if err != nil {
		return nil, false, core.StoreFault(err)
	}
	if !sameRegistration(existing, r) {
		return nil, false, userExists(r.UserID)
	}
	return existing, false, nil
}

// checkRegistration checks all that needs neither store nor clock.
func checkRegistration(r *wire.RegisterRequest, host string) error {
	switch {
	case !wire.ValidUserID(r.UserID) || r.UserID == wire.ReservedUser:
		return fault.New(fault.InvalidRequest, `Member "user_id" must match ^[a-z0-9][a-z0-9._-]{0,62}$ and must not be a reserved name.`)
	case !wire.ValidUsername(r.Username):
		return fault.New(fault.InvalidRequest, `Member "username" must be 1 to 128 bytes of UTF-8 without control characters.`)
	case r.KeyVersion != 1:
		return fault.New(fault.InvalidRequest, `Member "key_version" must be 1 in a registration.`)
	}
	b := &e2ee.Bundle{
		UserID: r.UserID, PublicKey: r.PublicKey, EncryptionKey: r.X25519PublicKey,
		KeyVersion: r.KeyVersion, CreatedAt: r.CreatedAt, Signature: r.KeySignature,
	}
	if err := bundleFault(b.Verify()); err != nil {
		return err
	}
	if !e2ee.Verify(r.PublicKey, e2ee.RegisterTranscript(host, b, r.Username, r.Timestamp), r.Signature) {
		return fault.Newf(fault.InvalidSignature, `Member "signature" does not verify over this registration for host %q with "public_key".`, host)
	}
	return nil
}

func (s *Service) checkRegistrationTimes(r *wire.RegisterRequest) error {
	now := s.o.Now()
	at, err := wire.ParseTime(r.Timestamp)
	if err != nil {
		return err
	}
	if d := at.Sub(now); d > clockSkew || d < -clockSkew {
		return fault.Newf(fault.StaleTimestamp, `Member "timestamp" must be within 5 minutes of the server's clock, which says %s.`, wire.FormatTime(now))
	}
	_, err = checkKeyTime(r.CreatedAt, now)
	return err
}

// checkKeyTime checks that a key was not made in the future.
func checkKeyTime(createdAt string, now time.Time) (time.Time, error) {
	at, err := wire.ParseTime(createdAt)
	if err != nil {
		return time.Time{}, err
	}
	if at.Sub(now) > clockSkew {
		return time.Time{}, fault.Newf(fault.StaleTimestamp, `Member "created_at" must be at most 5 minutes ahead of the server's clock, which says %s.`, wire.FormatTime(now))
	}
	return at, nil
}

// sameRegistration compares with what was registered, whatever was published since.
func sameRegistration(a *core.Account, r *wire.RegisterRequest) bool {
	k, ok := a.Key(1)
	return ok && a.Username == r.Username && bytes.Equal(a.PublicKey, r.PublicKey) && bytes.Equal(k.Public, r.X25519PublicKey) &&
		k.CreatedAt == r.CreatedAt && bytes.Equal(k.Signature, r.KeySignature)
}

// bundleFault says why a bundle is refused.
func bundleFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, e2ee.ErrIdentityKey):
		return fault.New(fault.InvalidRequest, `Member "public_key" must be an Ed25519 public key of 32 bytes in canonical form, and not of low order.`).WithCause(err)
	case errors.Is(err, e2ee.ErrEncryptionKey):
		return fault.New(fault.InvalidRequest, `Member "x25519_public_key" must be an X25519 public key of 32 bytes, and not of low order.`).WithCause(err)
	case errors.Is(err, e2ee.ErrBundleSignature):
		return fault.New(fault.InvalidSignature, `Member "key_signature" does not verify over this key with the identity key.`).WithCause(err)
	}
	return fault.New(fault.InvalidRequest, `A member of the key bundle is malformed: "key_version", "created_at" or "key_signature".`).WithCause(err)
}

func userExists(userID string) error {
	return fault.Newf(fault.UserExists, "The user_id %q is taken; choose another.", userID)
}

func unknownUser(userID string) error {
	return fault.Newf(fault.UnknownUser, "There is no user %.80q.", userID)
}
