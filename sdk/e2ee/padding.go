package e2ee

import "math/bits"

const (
	// minPadded is the least length that a message is padded to.
	minPadded = 32
	// padMarker ends the message; zero bytes follow.
	padMarker = 0x80
)

// padStep is the distance between the lengths that Padmé allows around n ≥ 32
// (docs/e2ee.md §3): it leaves E − S low bits of a length zero.
func padStep(n int) int {
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	return 1 << (e - s)
}

// padme rounds n ≥ 32 up to a length that Padmé allows, which costs 12 % at most.
func padme(n int) int {
	step := padStep(n)
	return (n + step - 1) &^ (step - 1)
}

// pad returns the padded message with room for extra bytes behind it.
func pad(message []byte, extra int) []byte {
	size := padme(max(len(message)+1, minPadded))
	padded := make([]byte, size, size+extra)
	copy(padded, message)
	padded[len(message)] = padMarker
	return padded
}

// unpad takes the padding off and refuses every padding but the one that pad
// makes. The message shares memory with padded. It may take longer for some
// paddings than for others: only what the sender signed gets here, and the answer
// to a message does not depend on it.
func unpad(padded []byte) ([]byte, bool) {
	end := len(padded) - 1
	for end >= 0 && padded[end] == 0 {
		end--
	}
	if end < 0 || padded[end] != padMarker || len(padded) != padme(max(end+1, minPadded)) {
		return nil, false
	}
	return padded[:end:end], true
}

// longestDirect is a direct frame as a recipient gets it, without its binary
// members and with everything else as long as it can be: names and id, and the
// members that the server adds.
const longestDirect = `{"type":"direct",` +
	`"id":"0123456789012345678901234567890123456789012345678901234567890123",` +
	`"from":"012345678901234567890123456789012345678901234567890123456789012",` +
	`"to":"012345678901234567890123456789012345678901234567890123456789012",` +
	`"seq":9007199254740991,"server_time":"2026-01-31T12:00:00.000Z",` +
	`"content":"","encrypted_key":"","encryption_nonce":"","key_version":9007199254740991,` +
	`"timestamp":"2026-01-31T12:00:00.000Z","signature":""}`

// directOverhead is the most that a sealed direct frame holds beside its content.
const directOverhead = len(longestDirect) +
	(EncryptedKeySize+2)/3*4 + (NonceSize+2)/3*4 + (SignatureSize+2)/3*4

// MaxMessage returns how long a message may be, in bytes, for its sealed frame to
// keep within maxFrameBytes, the limit from the welcome frame. It is one less than
// the Padmé length below that limit: 47,103 bytes at 64 KiB (docs/e2ee.md §3). It
// reckons with the longest names and the members that a server adds, so that it
// depends on nothing but the limit and what may be sent may also be delivered. 0
// means that not even an empty message fits; otherwise the result is at least 31.
// Clients ask before they seal.
func MaxMessage(maxFrameBytes int) int {
	if maxFrameBytes < directOverhead {
		return 0
	}
	padded := (maxFrameBytes-directOverhead)/4*3 - tagSize
	if padded < minPadded {
		return 0
	}
	return padded&^(padStep(padded)-1) - 1
}
