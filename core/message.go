package core

import (
	"time"

	"github.com/plugboard/plugboard/sdk/wire"
)

// Message is a direct message as it is stored. The binary members stay in the
// base64 in which they came: they are checked on the way in and leave as sent.
type Message struct {
	From, To, ID string
	// Seq is the place in the recipient's mailbox, 1, 2, 3, … without gaps; the
	// store gives it in the transaction that stores the message.
	Seq        uint64
	Timestamp  string // the sender's, as signed; it decides nothing
	ServerTime time.Time
	// KeyVersion is 0 for a message that is not sealed.
	KeyVersion      uint64
	Content         string
	EncryptedKey    string
	EncryptionNonce string
	Signature       string
	// Digest is SHA-256 of the transcript that the signature covers: what makes
	// two messages of one id the same or a conflict (docs/e2ee.md §4).
	Digest [32]byte
}

// Frame is the message as its recipient gets it.
func (m *Message) Frame() *wire.Direct {
	return &wire.Direct{
		ID: m.ID, From: m.From, To: m.To, Seq: m.Seq, ServerTime: wire.FormatTime(m.ServerTime), Timestamp: m.Timestamp,
		KeyVersion: m.KeyVersion, Content: m.Content, EncryptedKey: m.EncryptedKey, EncryptionNonce: m.EncryptionNonce, Signature: m.Signature,
	}
}

// Mailbox is the durable state of a user's stored messages.
type Mailbox struct {
	// LastSeq is the seq of the newest message, 0 where there has been none.
	LastSeq uint64
	// AckedSeq is up to where the user has acknowledged.
	AckedSeq uint64
}

// Stored says where and when a message was committed; a repeated one gets the
// answer of the first time.
type Stored struct {
	Seq        uint64
	ServerTime time.Time
	// Repeated: the same message had been stored before.
	Repeated bool
}

// Receipt is the durable fact that a recipient acknowledged a message.
type Receipt struct {
	Seq      uint64
	From, To string // of the message: the receipt goes to From
	ID       string
	// Timestamp is the recipient's where it signed, else the server's, in the
	// protocol's form.
	Timestamp string
	Signature string // base64, empty where the recipient sent none
}

// Frame is the receipt as the message's sender gets it.
func (r *Receipt) Frame() *wire.Receipt {
	return &wire.Receipt{ID: r.ID, To: r.To, Status: wire.StatusDelivered, Timestamp: r.Timestamp, Signature: r.Signature}
}

// Committed is the hint that follows a commit: the user's mailbox now reaches
// Seq. Message is the one stored under Seq where the publisher has it at hand.
// A lost hint costs latency, never a message.
type Committed struct {
	UserID  string
	Seq     uint64
	Message *Message
}

// Bus carries hints between the node that commits and the nodes that deliver.
// On a single node it is delivery itself.
type Bus interface {
	// Publish never blocks.
	Publish(c Committed)
}
