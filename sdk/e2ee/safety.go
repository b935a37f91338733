package e2ee

import (
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"strings"
)

// safetyIterations makes the search for a second key with the same digits costly.
const safetyIterations = 5200

const (
	safetyGroups     = 6 // of each half
	safetyGroupBytes = 5
)

// SafetyNumber returns the 60 digits that two users compare to see that each has
// the other's real identity key: twelve groups of five with single blanks between
// them (docs/e2ee.md §7). It is the same from both sides. It takes some
// milliseconds on purpose and is for people, not for the path of a message.
func SafetyNumber(userA string, keyA ed25519.PublicKey, userB string, keyB ed25519.PublicKey) string {
	a, b := safetyHalf(userA, keyA), safetyHalf(userB, keyB)
	// Two keys of one user have no order by name; by digits both sides still agree.
	if userA > userB || userA == userB && a > b {
		a, b = b, a
	}
	return a + " " + b
}

func safetyHalf(userID string, key ed25519.PublicKey) string {
	h := []byte(newTranscript(labelSafetyNumber).text(userID).bytes(key))
	for range safetyIterations {
		sum := sha512.Sum512(append(h, key...))
		h = append(h[:0], sum[:]...)
	}
	groups := make([]string, safetyGroups)
	for i := range groups {
		var n uint64
		for _, b := range h[i*safetyGroupBytes:][:safetyGroupBytes] {
			n = n<<8 | uint64(b)
		}
		groups[i] = fmt.Sprintf("%05d", n%100000)
	}
	return strings.Join(groups, " ")
}
