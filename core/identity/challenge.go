package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// A challenge is 0x01, the expiry in milliseconds, random bytes and a MAC over
// these and the user (docs/e2ee.md §6.1).
const (
	challengeForm   = 0x01
	challengeRandom = 16
	challengeBody   = 1 + 8 + challengeRandom
	challengeBytes  = challengeBody + sha256.Size
)

// Challenge makes what userID signs to sign in. Nothing is looked up and nothing
// is stored, so the answer does not depend on whether there is such a user.
func (s *Service) Challenge(userID string) (wire.Challenge, error) {
	expires := s.o.Now().Add(s.o.ChallengeTTL).UTC().Truncate(time.Millisecond)
	c := make([]byte, 1, challengeBytes)
	c[0] = challengeForm
	c = binary.BigEndian.AppendUint64(c, uint64(expires.UnixMilli())) // #nosec G115 -- after 1970
	c = c[:challengeBody]
	_, _ = rand.Read(c[1+8:]) // never fails (crypto/rand)
	return wire.Challenge{Challenge: append(c, s.challengeMAC(userID, c)...), ExpiresAt: wire.FormatTime(expires)}, nil
}

func (s *Service) challengeMAC(userID string, body []byte) []byte {
	mac := hmac.New(sha256.New, s.keys.challenge)
	mac.Write(e2ee.ChallengeTranscript(userID, binary.BigEndian.Uint64(body[1:]), body[1+8:]))
	return mac.Sum(nil)
}

// openChallenge returns the expiry of a challenge that this server made for
// userID and that may still be answered.
func (s *Service) openChallenge(userID string, c []byte) (expires time.Time, ok bool) {
	if len(c) != challengeBytes || c[0] != challengeForm {
		return time.Time{}, false
	}
	if !hmac.Equal(s.challengeMAC(userID, c[:challengeBody]), c[challengeBody:]) {
		return time.Time{}, false
	}
	expires = time.UnixMilli(int64(binary.BigEndian.Uint64(c[1:]))).UTC() // #nosec G115 -- written by us
	return expires, s.o.Now().Before(expires)
}
