package e2ee_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
)

// transcripts makes one of every label from the same text in every place.
func transcripts(s string) map[string][]byte {
	b := &e2ee.Bundle{UserID: s, PublicKey: []byte(s), EncryptionKey: []byte(s), KeyVersion: 1, CreatedAt: s}
	h := &e2ee.Header{From: s, To: s, ID: s, Timestamp: s, KeyVersion: 1,
		Sender: []byte(s), Recipient: []byte(s), EncryptionKey: []byte(s)}
	e := &e2ee.Envelope{EncryptedKey: []byte(s), Nonce: []byte(s), Content: []byte(s)}
	return map[string][]byte{
		"encryption-key": e2ee.BundleTranscript(b),
		"register":       e2ee.RegisterTranscript(s, b, s, s),
		"login":          e2ee.LoginTranscript(s, s, []byte(s), s),
		"challenge":      e2ee.ChallengeTranscript(s, 1, []byte(s)),
		"header":         e2ee.HeaderTranscript(h),
		"wrap":           e2ee.WrapInfo(h.Hash()),
		"content":        e2ee.ContentAAD(h.Hash(), []byte(s)),
		"direct":         e.Transcript(h.Hash()),
		"direct-plain":   e2ee.PlainTranscript(s, s, s, s, s),
		"broadcast":      e2ee.BroadcastTranscript(s, s, s, s),
		"server":         e2ee.CommandTranscript(s, s, s, s, s, []byte(s)),
		"receipt":        e2ee.ReceiptTranscript(s, s, s, []byte(s), s),
	}
}

// hostile texts try to look like lengths, labels and whole transcripts.
func hostile() []string {
	texts := []string{"", "\x00\x00\x00\x00", "alice", "plugboard/v1/direct", strings.Repeat("\x00", 64), strings.Repeat("x", 700)}
	for _, t := range transcripts("a") {
		texts = append(texts, string(t))
	}
	return texts
}

// TestTranscriptsOfTwoLabelsDiffer reads every transcript back to its own label,
// with the number of fields that the label fixes: so no two can be equal, whatever
// the fields hold.
func TestTranscriptsOfTwoLabelsDiffer(t *testing.T) {
	count := map[string]int{"encryption-key": 5, "register": 7, "login": 4, "challenge": 3, "header": 8, "wrap": 1,
		"content": 2, "direct": 4, "direct-plain": 5, "broadcast": 4, "server": 6, "receipt": 5}
	owner := map[string]string{}
	for _, text := range hostile() {
		for label, transcript := range transcripts(text) {
			parts := fields(t, transcript)
			if parts[0] != "plugboard/v1/"+label || len(parts)-1 != count[label] {
				t.Errorf("%s: reads back as %q with %d fields, want %d", label, parts[0], len(parts)-1, count[label])
			}
			if first, ok := owner[string(transcript)]; ok && first != label {
				t.Errorf("%s and %s are equal for %.40q", first, label, text)
			}
			owner[string(transcript)] = label
		}
	}
}

// TestFieldsCannotRun shows that a byte moved from one field to the next makes
// another transcript.
func TestFieldsCannotRun(t *testing.T) {
	for name, pair := range map[string][2][]byte{
		"broadcast": {e2ee.BroadcastTranscript("ab", "c", "t", "x"), e2ee.BroadcastTranscript("a", "bc", "t", "x")},
		"login":     {e2ee.LoginTranscript("h", "u", []byte("cd"), "e"), e2ee.LoginTranscript("h", "u", []byte("c"), "de")},
		"server": {e2ee.CommandTranscript("h", "f", "i", "t", "ab", []byte("{}")),
			e2ee.CommandTranscript("h", "f", "i", "ta", "b", []byte("{}"))},
		"absent and null params": {e2ee.CommandTranscript("h", "f", "i", "t", "c", nil),
			e2ee.CommandTranscript("h", "f", "i", "t", "c", []byte("null"))},
		"challenge": {e2ee.ChallengeTranscript("u", 1, []byte("r")), e2ee.ChallengeTranscript("u", 256, []byte("r"))},
	} {
		if string(pair[0]) == string(pair[1]) {
			t.Errorf("%s: different fields make one transcript", name)
		}
	}
}

// TestRegisterBindsBothKeys covers what the vector cannot: that each field counts.
func TestRegisterBindsBothKeys(t *testing.T) {
	v := loadVectors(t)
	base := e2ee.RegisterTranscript("h", v.Alice.bundle(), "Alice", "t")
	for name, change := range map[string]func(*e2ee.Bundle){
		"user":           func(b *e2ee.Bundle) { b.UserID = "bob" },
		"identity":       func(b *e2ee.Bundle) { b.PublicKey = v.Bob.PublicKey },
		"encryption key": func(b *e2ee.Bundle) { b.EncryptionKey = v.Bob.EncryptionKey },
		"key version":    func(b *e2ee.Bundle) { b.KeyVersion++ },
	} {
		b := v.Alice.bundle()
		change(b)
		if string(e2ee.RegisterTranscript("h", b, "Alice", "t")) == string(base) {
			t.Errorf("%s does not enter the signature", name)
		}
	}
}

// fields reads a transcript back: its label and fields.
func fields(t *testing.T, transcript []byte) []string {
	t.Helper()
	var parts []string
	for len(transcript) > 0 {
		if len(transcript) < 4 {
			t.Fatalf("%d bytes behind the last field", len(transcript))
		}
		n := int(binary.BigEndian.Uint32(transcript))
		if len(transcript) < 4+n {
			t.Fatalf("field of %d bytes in %d", n, len(transcript)-4)
		}
		parts = append(parts, string(transcript[4:4+n]))
		transcript = transcript[4+n:]
	}
	return parts
}
