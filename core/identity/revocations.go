package identity

import (
	"context"
	"sync"
	"time"

	"github.com/plugboard/plugboard/core"
)

// revocations are the sessions that were ended before their time, by sid.
type revocations struct {
	mu    sync.RWMutex
	until map[string]time.Time // when the last token of the session is over
}

func newRevocations(list []core.Revocation) *revocations {
	r := &revocations{until: make(map[string]time.Time, len(list))}
	for _, v := range list {
		r.until[v.SessionID] = v.ExpiresAt
	}
	return r
}

func (r *revocations) has(sessionID string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.until[sessionID]
	return ok
}

func (r *revocations) add(sessionID string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until[sessionID] = until
}

func (r *revocations) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, until := range r.until {
		if now.After(until) {
			delete(r.until, id)
		}
	}
}

// Logout revokes the session of p: durably, then for everybody who asks here,
// then Options.OnRevoked is called. Repeating it changes nothing. The faults are
// those of storage; the session then goes on.
func (s *Service) Logout(ctx context.Context, p core.Principal) error {
	err := s.logout(ctx, p)
	s.metrics.count(opLogout, outcome(err))
	return err
}

func (s *Service) logout(ctx context.Context, p core.Principal) error {
	// Tokens are taken until their expiry and the leeway; so long it must be known.
	until := p.ExpiresAt.Add(leeway + time.Second)
	ctx, cancel := writing(ctx)
	defer cancel()
	err := s.o.Store.Revoke(ctx, &core.Revocation{
		SessionID: p.SessionID, UserID: p.UserID, RevokedAt: storedTime(s.o.Now()), ExpiresAt: storedTime(until),
	})
	if err != nil {
		return core.StoreFault(err)
	}
	s.revoked.add(p.SessionID, until)
	s.o.Logger.Info().Str("user", p.UserID).Str("session", p.SessionID).Msg("Session revoked")
	s.o.OnRevoked(p.UserID, p.SessionID)
	return nil
}

// storedTime is t as a store keeps it.
func storedTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
