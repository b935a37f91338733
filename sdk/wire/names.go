package wire

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/plugboard/plugboard/sdk/fault"
)

// The protocol's fixed names and sizes (docs/protocol.md §1, §3).
const (
	// Protocol is the WebSocket subprotocol and the name in the welcome frame.
	Protocol = "plugboard.v1"
	// BearerPrefix starts the second subprotocol by which a browser hands over its token.
	BearerPrefix = "bearer."
	// ReservedUser is the one user_id that nobody can register.
	ReservedUser = "server"
	// DefaultMaxFrameBytes is the frame size limit where the operator sets none.
	DefaultMaxFrameBytes = 64 << 10
	// MaxBodyBytes is the limit of an HTTP body.
	MaxBodyBytes = 64 << 10
	// MaxInteger is the largest integer that every JSON parser holds exactly: 2^53 − 1.
	MaxInteger = 1<<53 - 1
	// TimeFormat is the one form of a time: RFC 3339, UTC, milliseconds.
	TimeFormat = "2006-01-02T15:04:05.000Z"
	// MaxMessagesPage is the most messages that one GET /messages answers.
	MaxMessagesPage = 500
)

const (
	ruleUserID   = "must match ^[a-z0-9][a-z0-9._-]{0,62}$"
	ruleID       = "must be 1 to 64 of the characters A-Z a-z 0-9 _ -"
	ruleTime     = "must be a UTC time with milliseconds such as 2026-01-31T12:00:00.000Z"
	ruleCommand  = "must match ^[a-z][a-z0-9_]{0,62}$, or two such parts joined by a dot"
	ruleBase64   = "must be canonical base64 with padding (RFC 4648 §4)"
	ruleUsername = "must be 1 to 128 bytes of UTF-8 without control characters"
)

// ValidUserID reports whether s is in the grammar of user ids. The reserved name
// is in the grammar; registration refuses it.
func ValidUserID(s string) bool {
	if s == "" || len(s) > 63 || !lowerOrDigit(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !lowerOrDigit(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ValidID reports whether s may be the id of a message or request.
func ValidID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !lowerOrDigit(c) && (c < 'A' || c > 'Z') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ValidCommand reports whether s is a command name: a plugin's own name, or
// plugin.command.
func ValidCommand(s string) bool {
	first, rest, two := strings.Cut(s, ".")
	return validCommandPart(first) && (!two || validCommandPart(rest))
}

func validCommandPart(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if !lowerOrDigit(s[i]) && s[i] != '_' {
			return false
		}
	}
	return true
}

// ValidUsername reports whether s may be shown as a person's name.
func ValidUsername(s string) bool {
	if s == "" || len(s) > 128 || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || (r >= 0x7f && r < 0xa0) {
			return false
		}
	}
	return true
}

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// FormatTime writes t as the protocol does, cutting below the millisecond.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeFormat) }

// ParseTime reads the protocol's one form of a time. Other spellings of the same
// instant are refused, because the string itself enters signatures.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(TimeFormat, s)
	if err != nil || len(s) != len(TimeFormat) || t.Format(TimeFormat) != s {
		return time.Time{}, fault.New(fault.InvalidRequest, "A timestamp "+ruleTime+".")
	}
	return t, nil
}

// EncodeBase64 writes binary as the protocol does: RFC 4648 §4, padded.
func EncodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// DecodeBase64 reads canonical base64 only: no line breaks, blanks, missing
// padding or unused bits that are set (docs/e2ee.md §1).
func DecodeBase64(s string) ([]byte, error) {
	// Strict() still skips line breaks, so they are refused by hand.
	if strings.ContainsAny(s, "\r\n") {
		return nil, fault.New(fault.InvalidRequest, "A binary value "+ruleBase64+".")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "A binary value "+ruleBase64+".")
	}
	return b, nil
}
