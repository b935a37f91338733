package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const (
	// MaxTokenBytes is the length above which a token is refused unread (docs/e2ee.md §6).
	MaxTokenBytes = 2048

	leeway      = 30 * time.Second
	maxTokens   = 32768
	idBytes     = 16              // 128 random bits for sid and jti
	maxUnixTime = 253402300799    // the last second of the year 9999
	minIDText   = idBytes*8/6 + 1 // characters of 128 bits in base64
)

// tokenShape is docs/e2ee.md §6.4. Without flags $ is the end of the text, so a
// line break at the end does not pass.
var tokenShape = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

var errClaims = errors.New("claims break a rule")

// claims are the payload of a token: all eight members, once each, and no other.
type claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	SessionID string `json:"sid"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
}

// UnmarshalJSON reads strictly, because the JWT library's own parser takes the
// last of two claims of a name, names in any case, and times as text.
func (c *claims) UnmarshalJSON(data []byte) error {
	type plain claims
	return json.Unmarshal(data, (*plain)(c), json.RejectUnknownMembers(true))
}

func date(unix int64) (*jwt.NumericDate, error) {
	if unix == 0 {
		return nil, nil
	}
	if unix < 0 || unix > maxUnixTime {
		return nil, fmt.Errorf("%w: time out of range", errClaims)
	}
	return jwt.NewNumericDate(time.Unix(unix, 0)), nil
}

// GetExpirationTime and its like are what the JWT library validates.
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.Expires) }

// GetIssuedAt returns iat.
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error) { return date(c.IssuedAt) }

// GetNotBefore returns nbf.
func (c *claims) GetNotBefore() (*jwt.NumericDate, error) { return date(c.NotBefore) }

// GetIssuer returns iss.
func (c *claims) GetIssuer() (string, error) { return c.Issuer, nil }

// GetSubject returns sub.
func (c *claims) GetSubject() (string, error) { return c.Subject, nil }

// GetAudience returns aud.
func (c *claims) GetAudience() (jwt.ClaimStrings, error) { return jwt.ClaimStrings{c.Audience}, nil }

// Validate is called by the JWT library after its own checks.
func (c *claims) Validate() error {
	switch {
	case !wire.ValidUserID(c.Subject):
		return fmt.Errorf("%w: sub", errClaims)
	case len(c.SessionID) < minIDText || !wire.ValidID(c.SessionID):
		return fmt.Errorf("%w: sid", errClaims)
	case len(c.ID) < minIDText || !wire.ValidID(c.ID):
		return fmt.Errorf("%w: jti", errClaims)
	case c.IssuedAt == 0 || c.NotBefore == 0:
		return fmt.Errorf("%w: iat and nbf must be there", errClaims)
	case c.Expires-c.IssuedAt > int64(MaxTokenTTL/time.Second):
		return fmt.Errorf("%w: longer than a token may live", errClaims)
	}
	return nil
}

// verified is what remains of a token whose signature and claims were checked.
type verified struct {
	userID, sessionID string
	issuedAt, expires time.Time
}

func newParser(o *Options) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(o.Now),
	)
}

// tokenHeader is the first segment of every token under a key. Each key has
// exactly one, so that a known header is looked up and never parsed.
func tokenHeader(kid string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"` + kid + `","typ":"JWT"}`))
}

func (s *Service) issue(v verified) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims{
		Issuer: s.o.Issuer, Audience: s.o.Audience, Subject: v.userID, SessionID: v.sessionID, ID: newID(),
		IssuedAt: v.issuedAt.Unix(), NotBefore: v.issuedAt.Unix(), Expires: v.expires.Unix(),
	})
	t.Header["kid"] = s.keys.kid
	token, err := t.SignedString(s.keys.signing)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// newID makes 128 random bits of text in the grammar of ids.
func newID() string {
	b := make([]byte, idBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}

// Authenticate returns who a token speaks for: docs/e2ee.md §6.4, in that order.
// The faults are authentication_failed, token_expired, token_revoked and those of
// storage. A token that was verified is remembered by its digest until it expires;
// revocation and the account are looked at every time.
func (s *Service) Authenticate(ctx context.Context, token string) (core.Principal, error) {
	p, err := s.authenticate(ctx, token)
	s.metrics.count(opToken, outcome(err))
	return p, err
}

func (s *Service) authenticate(ctx context.Context, token string) (core.Principal, error) {
	if len(token) > MaxTokenBytes {
		return core.Principal{}, badToken()
	}
	digest, now := sha256.Sum256([]byte(token)), s.o.Now()
	v, ok := s.tokens.get(digest, now)
	if !ok {
		var err error
		if v, err = s.verify(token); err != nil {
			return core.Principal{}, err
		}
		s.tokens.put(digest, v, v.expires.Add(leeway))
	}
	if s.revoked.has(v.sessionID) {
		return core.Principal{}, fault.New(fault.TokenRevoked, "The token's session was ended; sign in again.")
	}
	account, err := s.accounts.find(ctx, v.userID)
	if errors.Is(err, core.ErrNotFound) {
		return core.Principal{}, badToken()
	}
	if err != nil {
		return core.Principal{}, core.StoreFault(err)
	}
	return core.Principal{
		UserID: account.ID, Username: account.Username, Roles: account.Roles,
		SessionID: v.sessionID, IssuedAt: v.issuedAt, ExpiresAt: v.expires,
	}, nil
}

func (s *Service) verify(token string) (verified, error) {
	if !tokenShape.MatchString(token) {
		return verified{}, badToken()
	}
	header, _, _ := strings.Cut(token, ".")
	key, known := s.keys.byHeader[header]
	if !known {
		return verified{}, badToken()
	}
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return key, nil })
	if err != nil {
		return verified{}, tokenFault(err)
	}
	return verified{
		userID: strings.Clone(c.Subject), sessionID: strings.Clone(c.SessionID),
		issuedAt: time.Unix(c.IssuedAt, 0).UTC(), expires: time.Unix(c.Expires, 0).UTC(),
	}, nil
}

// tokenFault tells a good token that is too old, which its owner may know, from
// everything else.
func tokenFault(err error) error {
	for _, other := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenNotValidYet, jwt.ErrTokenRequiredClaimMissing, errClaims,
	} {
		if errors.Is(err, other) {
			return badToken()
		}
	}
	if errors.Is(err, jwt.ErrTokenExpired) {
		return fault.New(fault.TokenExpired, "The token's time is over; sign in again.")
	}
	return badToken()
}

func badToken() error {
	return fault.New(fault.AuthenticationFailed, "The token was not accepted; sign in again.")
}
