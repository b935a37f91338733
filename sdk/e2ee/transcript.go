package e2ee

import (
	"crypto/sha256"
	"encoding/binary"
)

// labelPrefix stands before every label, so that nothing signed for another
// protocol or another version of this one fits.
const labelPrefix = "plugboard/v1/"

// The labels of docs/e2ee.md §1. Each one fixes the number and order of its fields.
const (
	labelEncryptionKey = "encryption-key"
	labelRegister      = "register"
	labelLogin         = "login"
	labelChallenge     = "challenge"
	labelHeader        = "header"
	labelWrap          = "wrap"
	labelMessageKeys   = "message-keys"
	labelContent       = "content"
	labelDirect        = "direct"
	labelDirectPlain   = "direct-plain"
	labelBroadcast     = "broadcast"
	labelServer        = "server"
	labelReceipt       = "receipt"
	labelSafetyNumber  = "safety-number"
)

// transcript is T of docs/e2ee.md §1 being written: the label and then the
// fields, each after its length in four bytes, so that it reads back in one way.
type transcript []byte

// transcriptCapacity holds all but transcripts with long names without growing.
const transcriptCapacity = 320

func newTranscript(label string) transcript {
	return make(transcript, 0, transcriptCapacity).text(labelPrefix + label)
}

func (t transcript) text(s string) transcript {
	return append(binary.BigEndian.AppendUint32(t, uint32(len(s))), s...)
}

func (t transcript) bytes(b []byte) transcript {
	return append(binary.BigEndian.AppendUint32(t, uint32(len(b))), b...)
}

func (t transcript) uint64(n uint64) transcript {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(t, 8), n)
}

func (t transcript) digest(b []byte) transcript {
	d := sha256.Sum256(b)
	return t.bytes(d[:])
}

// RegisterTranscript returns what a registration's signature covers
// (docs/e2ee.md §5). The host is the one that the client dialled: lower case,
// with ":port" only where it is not the scheme's default. Of the bundle the user
// id, both keys and the key version enter; timestamp is that of the request.
func RegisterTranscript(host string, b *Bundle, username, timestamp string) []byte {
	return newTranscript(labelRegister).text(host).text(b.UserID).text(username).
		bytes(b.PublicKey).bytes(b.EncryptionKey).uint64(b.KeyVersion).text(timestamp)
}

// LoginTranscript returns what a sign-in's signature covers (docs/e2ee.md §5,
// §6): the challenge is decoded, expiresAt is the string that came with it.
func LoginTranscript(host, userID string, challenge []byte, expiresAt string) []byte {
	return newTranscript(labelLogin).text(host).text(userID).bytes(challenge).text(expiresAt)
}

// ChallengeTranscript returns what a server's MAC over a sign-in challenge covers
// (docs/e2ee.md §6). The expiry counts milliseconds since 1970.
func ChallengeTranscript(userID string, expiryMillis uint64, random []byte) []byte {
	return newTranscript(labelChallenge).text(userID).uint64(expiryMillis).bytes(random)
}

// BroadcastTranscript returns what a broadcast's signature covers (docs/e2ee.md §5).
func BroadcastTranscript(from, id, timestamp, content string) []byte {
	return newTranscript(labelBroadcast).text(from).text(id).text(timestamp).digest([]byte(content))
}

// CommandTranscript returns what a command's signature covers (docs/e2ee.md §5,
// label "server"). The params are the bytes of the JSON value exactly as they
// stand in the frame and nil where the member is absent; a value that was decoded
// and encoded again does not verify.
func CommandTranscript(host, from, id, timestamp, command string, params []byte) []byte {
	return newTranscript(labelServer).text(host).text(from).text(id).text(timestamp).text(command).digest(params)
}

// ReceiptTranscript returns what a recipient's receipt signs (docs/e2ee.md §5):
// from, to, id and messageSignature are those of the message, so that from is not
// the one who signs; timestamp is that of the receipt.
func ReceiptTranscript(from, to, id string, messageSignature []byte, timestamp string) []byte {
	return newTranscript(labelReceipt).text(from).text(to).text(id).digest(messageSignature).text(timestamp)
}

// PlainTranscript stands for a direct message that is not sealed. Nothing signs
// it: the server digests it to tell a repeated message from another one under the
// same id (docs/e2ee.md §4). The label is reserved in docs/e2ee.md §1, so the
// digest can never be that of a sealed message.
func PlainTranscript(from, to, id, timestamp, content string) []byte {
	return newTranscript(labelDirectPlain).text(from).text(to).text(id).text(timestamp).digest([]byte(content))
}
