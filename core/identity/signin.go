package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/netip"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// SignIn verifies an answered challenge and makes a token (docs/e2ee.md §6.2, §6.3).
// A challenge is good for one sign-in on all nodes together. The faults are
// authentication_failed with the same words for every cause, rate_limited after
// too many failures of one address for one user, existing or not, and those of
// storage, after which the same answer may be sent again.
func (s *Service) SignIn(ctx context.Context, r *wire.LoginRequest, remote core.Remote) (wire.SignIn, error) {
	key, now := addressKey(remote.Addr)+" "+r.UserID, s.o.Now()
	var answer wire.SignIn
	var err error
	// The token is taken before the work, so that parallel attempts count too, and
	// given back when nobody failed to prove who they are.
	if ok, retry := s.failed.Allow(key, now); !ok {
		err = fault.New(fault.RateLimited, "Too many failed sign-ins for this user from your address; wait before the next.").WithRetryAfter(retry)
	} else if answer, err = s.signIn(ctx, r, remote); fault.CodeOf(err) != fault.AuthenticationFailed {
		s.failed.Refund(key, now)
	}
	s.metrics.count(opSignIn, outcome(err))
	return answer, err
}

func (s *Service) signIn(ctx context.Context, r *wire.LoginRequest, remote core.Remote) (wire.SignIn, error) {
	challengeExpires, ok := s.openChallenge(r.UserID, r.Challenge)
	if !ok {
		return wire.SignIn{}, signInFailed()
	}
	if err := s.verifyAnswer(ctx, r, remote.Host, challengeExpires); err != nil {
		return wire.SignIn{}, err
	}
	// Tokens count in whole seconds; what is stored and told is what the token says.
	issued := s.o.Now().UTC().Truncate(time.Second)
	v := verified{userID: r.UserID, sessionID: newID(), issuedAt: issued, expires: issued.Add(s.o.TokenTTL.Truncate(time.Second))}
	token, err := s.issue(v)
	if err != nil {
		return wire.SignIn{}, err
	}
	login := &core.Login{SessionID: v.sessionID, UserID: v.userID, IssuedAt: v.issuedAt, ExpiresAt: v.expires, Remote: remote}
	err = s.o.Store.CreateLogin(ctx, login, sha256.Sum256(r.Challenge), challengeExpires)
	if errors.Is(err, core.ErrExists) || errors.Is(err, core.ErrNotFound) {
		return wire.SignIn{}, signInFailed()
	}
	if err != nil {
		return wire.SignIn{}, core.StoreFault(err)
	}
	s.o.Logger.Info().Str("user", v.userID).Str("session", v.sessionID).Str("remote", remote.Addr).Msg("Signed in")
	return wire.SignIn{Token: token, ExpiresAt: wire.FormatTime(v.expires), SessionID: v.sessionID}, nil
}

// verifyAnswer does the same work whether or not the user exists.
func (s *Service) verifyAnswer(ctx context.Context, r *wire.LoginRequest, host string, expires time.Time) error {
	account, err := s.accounts.find(ctx, r.UserID)
	if err != nil && !errors.Is(err, core.ErrNotFound) {
		return core.StoreFault(err)
	}
	key, exists := s.decoy, false
	if account != nil {
		key, exists = account.PublicKey, true
	}
	transcript := e2ee.LoginTranscript(host, r.UserID, r.Challenge, wire.FormatTime(expires))
	if !e2ee.Verify(key, transcript, r.Signature) || !exists {
		return signInFailed()
	}
	return nil
}

func signInFailed() error {
	return fault.New(fault.AuthenticationFailed, "The sign-in was not accepted; ask for a new challenge and sign it with the user's identity key for the host that you dialled.")
}

// addressKey is the address under which failures are counted: IPv6 by /64, which
// is what one subscriber has.
func addressKey(addr string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return addr
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	prefix, err := ip.Prefix(64)
	if err != nil {
		return addr
	}
	return prefix.String()
}
