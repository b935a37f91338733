package identity

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// rotationInterval is the least time between two rotations (docs/e2ee.md §2).
const rotationInterval = time.Hour

// keyVersionDetails are the details of a key_version fault.
type keyVersionDetails struct {
	KeyVersion uint64 `json:"key_version"` // the current one
}

// PublishKey takes the next version of the caller's encryption key (docs/e2ee.md
// §2). The current key published again is no error, so that a lost answer can be
// repeated. A registration is not a rotation: the first one may follow at once,
// since a client that lost or mistrusts its first key must not wait; every other
// comes at least an hour after the one before, by the server's clock. The faults
// are key_version with the current version in the details, invalid_request,
// invalid_signature, stale_timestamp, rate_limited and those of storage.
func (s *Service) PublishKey(ctx context.Context, p core.Principal, k *wire.KeyUpload) error {
	repeated, err := s.publishKey(ctx, p.UserID, k)
	text := outcome(err)
	if repeated {
		text = outcomeRepeated
	}
	s.metrics.count(opPublish, text)
	if err == nil && !repeated {
		s.o.Logger.Info().Str("user", p.UserID).Str("session", p.SessionID).Uint64("key_version", k.KeyVersion).Msg("Encryption key published")
	}
	return err
}

func (s *Service) publishKey(ctx context.Context, userID string, k *wire.KeyUpload) (repeated bool, err error) {
	account, err := s.Account(ctx, userID)
	if err != nil {
		return false, err
	}
	if isCurrent(account, k) {
		return true, nil
	}
	if err := s.checkRotation(account, k); err != nil {
		return false, err
	}
	return s.addKey(ctx, account, k)
}

func (s *Service) addKey(ctx context.Context, account *core.Account, k *wire.KeyUpload) (repeated bool, err error) {
	key := core.EncryptionKey{
		Version: k.KeyVersion, Public: bytes.Clone(k.X25519PublicKey), CreatedAt: k.CreatedAt,
		Signature: bytes.Clone(k.KeySignature), PublishedAt: storedTime(s.o.Now()),
	}
	ctx, cancel := writing(ctx)
	defer cancel()
	err = s.o.Store.AddKey(ctx, account.ID, &key)
	if err == nil {
		s.accounts.wrote(&core.Account{User: account.User, Keys: append([]core.EncryptionKey{key}, account.Keys...)})
		return false, nil
	}
	s.accounts.changed(account.ID)
	switch {
	case errors.Is(err, core.ErrNotFound):
		return false, unknownUser(account.ID)
	case !errors.Is(err, core.ErrKeyVersion):
		return false, core.StoreFault(err)
	}
	// Somebody was quicker: the same request on another connection, or another one.
	if account, err = s.Account(ctx, account.ID); err != nil {
		return false, err
	}
	if isCurrent(account, k) {
		return true, nil
	}
	return false, wrongVersion(account)
}

func isCurrent(a *core.Account, k *wire.KeyUpload) bool {
	c := a.Current()
	return c.Version == k.KeyVersion && bytes.Equal(c.Public, k.X25519PublicKey) && c.CreatedAt == k.CreatedAt && bytes.Equal(c.Signature, k.KeySignature)
}

func (s *Service) checkRotation(a *core.Account, k *wire.KeyUpload) error {
	current, now := a.Current(), s.o.Now()
	if k.KeyVersion != current.Version+1 {
		return wrongVersion(a)
	}
	b := a.Bundle(core.EncryptionKey{Version: k.KeyVersion, Public: k.X25519PublicKey, CreatedAt: k.CreatedAt, Signature: k.KeySignature})
	if err := bundleFault(b.Verify()); err != nil {
		return err
	}
	at, err := checkKeyTime(k.CreatedAt, now)
	if err != nil {
		return err
	}
	if before, err := wire.ParseTime(current.CreatedAt); err == nil && !at.After(before) {
		return fault.Newf(fault.InvalidRequest, `Member "created_at" must be later than that of key version %d, %s.`, current.Version, current.CreatedAt)
	}
	if wait := rotationInterval - now.Sub(current.PublishedAt); current.Version > 1 && wait > 0 {
		return fault.New(fault.RateLimited, "At most one rotation of the encryption key an hour.").WithRetryAfter(wait)
	}
	return nil
}

func wrongVersion(a *core.Account) error {
	current := a.Current().Version
	return fault.Newf(fault.KeyVersion, `Member "key_version" must be %d, the one after the current version.`, current+1).
		WithDetails(keyVersionDetails{KeyVersion: current})
}
