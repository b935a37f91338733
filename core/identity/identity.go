package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/limit"
)

const (
	// MaxTokenTTL is the longest life of a token (docs/e2ee.md §6).
	MaxTokenTTL = time.Hour
	// DefaultFailedPerMinute is how many failed sign-ins per minute one address may
	// make for one user.
	DefaultFailedPerMinute = 10

	// clockSkew is how far ahead of ours a client's clock may be (docs/e2ee.md §2, §5).
	clockSkew = 5 * time.Minute
	// writeTimeout ends writes that go on when their caller has left, because the
	// account cache must hear how they ended.
	writeTimeout = 15 * time.Second
	// forgetInterval is how often revocations that are over are looked for.
	forgetInterval = time.Minute
)

// Store is the part of storage that identity needs.
type Store interface {
	core.Users
	core.Logins
}

// Options are what a Service needs. Store, KeyDir, Issuer and Audience are required.
type Options struct {
	Store Store
	// KeyDir holds the server's keys, mode 0700; made where it is missing, with new keys.
	KeyDir string
	// Issuer and Audience stand in every token and must be equal in those presented.
	Issuer, Audience string
	// TokenTTL is how long a token is good, 1 s … [MaxTokenTTL]; 0 is MaxTokenTTL.
	TokenTTL time.Duration
	// ChallengeTTL is how long a challenge may be answered, 1 s … 1 min; 0 is 1 min.
	ChallengeTTL time.Duration
	// RegistrationOpen lets strangers register.
	RegistrationOpen bool
	// FailedPerMinute is how many failed sign-ins per minute one address (IPv6: one
	// /64) may make for one user; 0 is [DefaultFailedPerMinute].
	FailedPerMinute int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger gets registrations, sign-ins and their ends.
	Logger zerolog.Logger
	// Registerer is where the service registers its metrics until Stop; nil is nowhere.
	Registerer prometheus.Registerer
	// OnRevoked is called after the revocation of a session was stored, from the
	// goroutine of the one who revoked it. It must not block. nil is nobody.
	OnRevoked func(userID, sessionID string)
}

func (o *Options) complete() error {
	if o.TokenTTL == 0 {
		o.TokenTTL = MaxTokenTTL
	}
	if o.ChallengeTTL == 0 {
		o.ChallengeTTL = time.Minute
	}
	if o.FailedPerMinute == 0 {
		o.FailedPerMinute = DefaultFailedPerMinute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnRevoked == nil {
		o.OnRevoked = func(string, string) {}
	}
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(o.Store != nil, "store: must be given")
	check(o.KeyDir != "", "key directory: must be named")
	check(o.Issuer != "", "issuer: must not be empty")
	check(o.Audience != "", "audience: must not be empty")
	check(o.TokenTTL >= time.Second && o.TokenTTL <= MaxTokenTTL, "token lifetime: must be 1s to 1h")
	check(o.ChallengeTTL >= time.Second && o.ChallengeTTL <= time.Minute, "challenge lifetime: must be 1s to 1m")
	check(o.FailedPerMinute > 0, "failed sign-ins per minute: must be at least 1")
	return errors.Join(errs...)
}

// Service answers for identities. All methods may be called from any goroutine.
type Service struct {
	// Fixed after Open.
	o       Options
	keys    *serverKeys
	decoy   ed25519.PublicKey // stands for the key of users who do not exist
	parser  *jwt.Parser
	metrics *metrics

	accounts *accounts
	tokens   *recent[[32]byte, verified] // by SHA-256 of the token
	revoked  *revocations
	failed   *limit.Keyed // by address and user

	mu     sync.Mutex
	cancel context.CancelFunc // of the goroutine; nil while it does not run
	done   chan struct{}
}

// Open reads the server's keys, making them on the first start, and the
// revocations that still matter. It starts no goroutine. Keys that others can read
// are refused.
func Open(ctx context.Context, o Options) (*Service, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("check identity options: %w", err)
	}
	keys, err := openKeys(o.KeyDir, o.Now())
	if err != nil {
		return nil, fmt.Errorf("open server keys: %w", err)
	}
	decoy, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make decoy key: %w", err)
	}
	list, err := o.Store.ListRevocations(ctx, o.Now().Add(-leeway))
	if err != nil {
		return nil, fmt.Errorf("list revocations: %w", err)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register identity metrics: %w", err)
	}
	return &Service{
		o: o, keys: keys, decoy: decoy, parser: newParser(&o), metrics: m,
		accounts: newAccounts(o.Store, o.Now), tokens: newRecent[[32]byte, verified](maxTokens), revoked: newRevocations(list),
		failed: limit.NewKeyed(float64(o.FailedPerMinute)/60, float64(o.FailedPerMinute)),
	}, nil
}

// Start starts the goroutine that forgets revocations whose tokens are over. A
// second Start before Stop changes nothing.
func (s *Service) Start(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.cancel, s.done = cancel, done
	go func() {
		defer close(done)
		s.forget(ctx)
	}()
	return nil
}

// Stop ends the goroutine, waits for it and takes the metrics back. It is safe
// without Start and when repeated.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.cancel = nil
	s.mu.Unlock()
	s.metrics.unregister()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop identity: %w", ctx.Err())
	}
}

func (s *Service) forget(ctx context.Context) {
	tick := time.NewTicker(forgetInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.revoked.forget(s.o.Now())
		}
	}
}

// Account returns a user with all keys, from memory where it can. The faults are
// unknown_user and those of storage.
func (s *Service) Account(ctx context.Context, userID string) (*core.Account, error) {
	a, err := s.accounts.find(ctx, userID)
	if errors.Is(err, core.ErrNotFound) {
		return nil, unknownUser(userID)
	}
	if err != nil {
		return nil, core.StoreFault(err)
	}
	return a, nil
}

// writing is a context for a write that must be seen to its end.
func writing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
}
