package wire

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/plugboard/plugboard/sdk/fault"
)

// The types of frames (docs/protocol.md §4).
const (
	TypeDirect    = "direct"
	TypeBroadcast = "broadcast"
	TypeServer    = "server"
	TypeCancel    = "cancel"
	TypeAck       = "ack"
	TypeAuth      = "auth"
	TypeWelcome   = "welcome"
	TypeReceipt   = "receipt"
	TypeProgress  = "progress"
	TypeResponse  = "response"
	TypeError     = "error"
	TypeNotice    = "notice"
)

// Frame is one text frame in either direction.
type Frame interface {
	// Type is the frame's type member.
	Type() string
	// Append writes the frame as one JSON object behind dst.
	Append(dst []byte) []byte
}

// ClientFrame is a frame that a client sends.
type ClientFrame interface {
	Frame
	// RequestID is the id under which the frame is answered, "" where it has none.
	RequestID() string
	// Validate holds every member against its rule, without looking at anything
	// but the frame; the error is a *fault.Error.
	Validate() error
}

// Direct is a message for one user, in both directions. The server adds From, Seq
// and ServerTime; everything else stays as the sender's client wrote it, because
// it is signed. Binary members stay base64 here; [Direct.Sealed] decodes them.
type Direct struct {
	ID, From, To    string
	Seq             uint64
	ServerTime      string
	Content         string
	EncryptedKey    string
	EncryptionNonce string
	KeyVersion      uint64
	Timestamp       string
	Signature       string
}

// Broadcast is a public message to all who are connected now. The server adds
// From and ServerTime.
type Broadcast struct {
	ID, From   string
	Content    string
	ServerTime string
	Timestamp  string
	Signature  string
}

// Command asks the server to run a command: the frame of type "server".
type Command struct {
	ID      string
	Command string
	// Params is the raw JSON exactly as it stood in the frame, nil where absent:
	// signatures cover these bytes.
	Params    []byte
	Timestamp string
	Signature string
}

// Cancel stops the running command that was asked for under ID.
type Cancel struct{ ID string }

// MailboxAck says, cumulatively, that every direct message up to Seq has arrived:
// the client's frame of type "ack".
type MailboxAck struct {
	Seq      uint64
	Receipts []SignedReceipt
}

// SignedReceipt proves to a sender that its message was opened (docs/e2ee.md §5).
type SignedReceipt struct {
	Seq       uint64
	Timestamp string
	Signature string
}

// Auth hands over a fresh token of the same user on an open connection.
type Auth struct {
	ID    string
	Token string
}

// clientMembers are all names that a client's frame may use. Case variants of
// any of them are refused in every frame.
var clientMembers = []string{
	"type", "id", "to", "content", "timestamp", "signature", "encrypted_key", "encryption_nonce", "key_version",
	"command", "params", "seq", "receipts", "token", "from",
}

var receiptMembers = []string{"seq", "timestamp", "signature"}

// DecodeClient reads a client's frame. The id is returned as far as it could be
// read, also beside an error, so that the error frame can carry it. Errors are
// *fault.Error with bad_json, invalid_request or unknown_type. The frame keeps
// parts of data.
func DecodeClient(data []byte) (f ClientFrame, id string, err error) {
	o, err := parseObject(data, clientMembers)
	if err != nil {
		return nil, "", err
	}
	if raw, ok := o.raw("id"); ok && kindOf(raw) == '"' {
		if id = o.text("id"); !ValidID(id) {
			id = ""
		}
	}
	kind := o.required("type")
	if err := o.result(); err != nil {
		return nil, id, err
	}
	switch kind {
	case TypeDirect:
		f = readDirect(o)
	case TypeBroadcast:
		f = readBroadcast(o)
	case TypeServer:
		f = readCommand(o)
	case TypeCancel:
		f = &Cancel{ID: o.required("id")}
	case TypeAck:
		f = readMailboxAck(o)
	case TypeAuth:
		f = &Auth{ID: o.text("id"), Token: o.required("token")}
	default:
		return nil, id, fault.New(fault.UnknownType, "The frame's type must be one of direct, broadcast, server, cancel, ack, auth.")
	}
	if err := o.result(); err != nil {
		return nil, id, err
	}
	return f, id, nil
}

func readDirect(o *object) *Direct {
	return &Direct{
		ID: o.required("id"), From: o.text("from"), To: o.required("to"), Content: o.required("content"),
		EncryptedKey: o.text("encrypted_key"), EncryptionNonce: o.text("encryption_nonce"),
		KeyVersion: o.integer("key_version"), Timestamp: o.required("timestamp"), Signature: o.text("signature"),
	}
}

func readBroadcast(o *object) *Broadcast {
	return &Broadcast{
		ID: o.required("id"), From: o.text("from"), Content: o.required("content"),
		Timestamp: o.required("timestamp"), Signature: o.text("signature"),
	}
}

func readCommand(o *object) *Command {
	c := &Command{ID: o.required("id"), Command: o.required("command"), Timestamp: o.text("timestamp"), Signature: o.text("signature")}
	if raw, ok := o.raw("params"); ok {
		if k := kindOf(raw); k != '{' && k != 'n' {
			o.fail("params", "must be an object")
		}
		c.Params = raw
	}
	return c
}

func readMailboxAck(o *object) *MailboxAck {
	a := &MailboxAck{Seq: o.requiredInteger("seq")}
	o.list("receipts", receiptMembers, func(r *object) {
		a.Receipts = append(a.Receipts, SignedReceipt{
			Seq: r.requiredInteger("seq"), Timestamp: r.required("timestamp"), Signature: r.required("signature"),
		})
	})
	return a
}

// Type is "direct".
func (*Direct) Type() string { return TypeDirect }

// Type is "broadcast".
func (*Broadcast) Type() string { return TypeBroadcast }

// Type is "server".
func (*Command) Type() string { return TypeServer }

// Type is "cancel".
func (*Cancel) Type() string { return TypeCancel }

// Type is "ack".
func (*MailboxAck) Type() string { return TypeAck }

// Type is "auth".
func (*Auth) Type() string { return TypeAuth }

// RequestID is the message's id.
func (d *Direct) RequestID() string { return d.ID }

// RequestID is the message's id.
func (b *Broadcast) RequestID() string { return b.ID }

// RequestID is the request's id.
func (c *Command) RequestID() string { return c.ID }

// RequestID is "": a cancel is answered by the end of what it cancels, which
// has the id.
func (*Cancel) RequestID() string { return "" }

// RequestID is "": a mailbox acknowledgement has no id.
func (*MailboxAck) RequestID() string { return "" }

// RequestID is the optional id of an auth frame.
func (a *Auth) RequestID() string { return a.ID }

// check collects the first broken rule.
type check struct{ err error }

func (c *check) that(ok bool, member, rule string) {
	if !ok && c.err == nil {
		c.err = fault.Newf(fault.InvalidRequest, "Member %q %s.", member, rule)
	}
}

func validTime(s string) bool {
	_, err := ParseTime(s)
	return err == nil
}

// validSignature wants an Ed25519 signature: 64 bytes are 88 characters.
func validSignature(s string) bool { return validBinary(s, 64, 64) }

func validBinary(s string, least, most int) bool {
	b, err := DecodeBase64(s)
	return err == nil && len(b) >= least && len(b) <= most
}

// IsSealed reports whether the message claims to be sealed, by any member that
// only a sealed one has.
func (d *Direct) IsSealed() bool {
	return d.EncryptedKey != "" || d.EncryptionNonce != "" || d.KeyVersion != 0 || d.Signature != ""
}

// Validate checks names, timestamp form and, of a sealed message, the sizes of
// docs/e2ee.md §3.
func (d *Direct) Validate() error {
	var c check
	c.that(ValidID(d.ID), "id", ruleID)
	c.that(ValidUserID(d.To), "to", ruleUserID)
	c.that(d.From == "" || ValidUserID(d.From), "from", ruleUserID)
	c.that(validTime(d.Timestamp), "timestamp", ruleTime)
	if d.IsSealed() {
		c.that(d.KeyVersion >= 1, "key_version", "must be a whole number from 1 to 9007199254740991")
		c.that(validBinary(d.EncryptedKey, 112, 112), "encrypted_key", "must be 112 bytes in canonical base64")
		c.that(validBinary(d.EncryptionNonce, 12, 12), "encryption_nonce", "must be 12 bytes in canonical base64")
		c.that(validSignature(d.Signature), "signature", "must be 64 bytes in canonical base64")
		c.that(validBinary(d.Content, 48, math.MaxInt), "content", "must be at least 48 bytes in canonical base64")
	}
	return c.err
}

// Sealed is the binary part of a sealed message, decoded.
type Sealed struct {
	EncryptedKey, Nonce, Content, Signature []byte
}

// Sealed decodes the binary members; the error is a *fault.Error where one is
// not canonical base64.
func (d *Direct) Sealed() (*Sealed, error) {
	var s Sealed
	for _, part := range []struct {
		name string
		from string
		to   *[]byte
	}{
		{"encrypted_key", d.EncryptedKey, &s.EncryptedKey},
		{"encryption_nonce", d.EncryptionNonce, &s.Nonce},
		{"content", d.Content, &s.Content},
		{"signature", d.Signature, &s.Signature},
	} {
		b, err := DecodeBase64(part.from)
		if err != nil {
			return nil, fault.Newf(fault.InvalidRequest, "Member %q %s.", part.name, ruleBase64)
		}
		*part.to = b
	}
	return &s, nil
}

// Validate checks names, timestamp form and, where there is one, the signature's size.
func (b *Broadcast) Validate() error {
	var c check
	c.that(ValidID(b.ID), "id", ruleID)
	c.that(b.From == "" || ValidUserID(b.From), "from", ruleUserID)
	c.that(validTime(b.Timestamp), "timestamp", ruleTime)
	c.that(b.Signature == "" || validSignature(b.Signature), "signature", "must be 64 bytes in canonical base64")
	return c.err
}

// Validate checks names, and that a signed command has a timestamp.
func (c *Command) Validate() error {
	var k check
	k.that(ValidID(c.ID), "id", ruleID)
	k.that(ValidCommand(c.Command), "command", ruleCommand)
	k.that(c.Timestamp == "" || validTime(c.Timestamp), "timestamp", ruleTime)
	k.that(c.Signature == "" || validSignature(c.Signature), "signature", "must be 64 bytes in canonical base64")
	k.that(c.Signature == "" || c.Timestamp != "", "timestamp", "is missing, which a signed command needs")
	return k.err
}

// Validate checks the id.
func (c *Cancel) Validate() error {
	var k check
	k.that(ValidID(c.ID), "id", ruleID)
	return k.err
}

// Validate checks the receipts' forms and that none is for a later message.
func (a *MailboxAck) Validate() error {
	var c check
	for _, r := range a.Receipts {
		c.that(r.Seq >= 1 && r.Seq <= a.Seq, "receipts", "must be for messages up to the acknowledged seq")
		c.that(validTime(r.Timestamp), "receipts", "must each have a timestamp that "+ruleTime)
		c.that(validSignature(r.Signature), "receipts", "must each have a signature of 64 bytes in canonical base64")
	}
	return c.err
}

// Validate checks that there is a token and, where there is one, the id.
func (a *Auth) Validate() error {
	var c check
	c.that(a.ID == "" || ValidID(a.ID), "id", ruleID)
	c.that(a.Token != "" && utf8.ValidString(a.Token), "token", "must be a token from POST /auth/login")
	return c.err
}

// Append writes the message; in a client's frame From, Seq and ServerTime are empty
// and stay out.
func (d *Direct) Append(dst []byte) []byte {
	w := open(dst, TypeDirect)
	w.text("id", d.ID)
	w.optional("from", d.From)
	w.text("to", d.To)
	w.optionalInteger("seq", d.Seq)
	w.optional("server_time", d.ServerTime)
	w.text("timestamp", d.Timestamp)
	w.optionalInteger("key_version", d.KeyVersion)
	w.optional("encrypted_key", d.EncryptedKey)
	w.optional("encryption_nonce", d.EncryptionNonce)
	w.text("content", d.Content)
	w.optional("signature", d.Signature)
	return w.close()
}

// Append writes the broadcast.
func (b *Broadcast) Append(dst []byte) []byte {
	w := open(dst, TypeBroadcast)
	w.text("id", b.ID)
	w.optional("from", b.From)
	w.optional("server_time", b.ServerTime)
	w.text("timestamp", b.Timestamp)
	w.text("content", b.Content)
	w.optional("signature", b.Signature)
	return w.close()
}

// Append writes the command, its params untouched.
func (c *Command) Append(dst []byte) []byte {
	w := open(dst, TypeServer)
	w.text("id", c.ID)
	w.text("command", c.Command)
	w.raw("params", c.Params)
	w.optional("timestamp", c.Timestamp)
	w.optional("signature", c.Signature)
	return w.close()
}

// Append writes the cancel.
func (c *Cancel) Append(dst []byte) []byte {
	w := open(dst, TypeCancel)
	w.text("id", c.ID)
	return w.close()
}

// Append writes the acknowledgement.
func (a *MailboxAck) Append(dst []byte) []byte {
	w := open(dst, TypeAck)
	w.integer("seq", a.Seq)
	if len(a.Receipts) > 0 {
		w.name("receipts")
		for i, r := range a.Receipts {
			w.buf = append(w.buf, "[,"[min(i, 1)])
			w.buf = append(w.buf, `{"seq":`...)
			w.buf = strconv.AppendUint(w.buf, r.Seq, 10)
			w.text("timestamp", r.Timestamp)
			w.text("signature", r.Signature)
			w.buf = append(w.buf, '}')
		}
		w.buf = append(w.buf, ']')
	}
	return w.close()
}

// Append writes the token.
func (a *Auth) Append(dst []byte) []byte {
	w := open(dst, TypeAuth)
	w.optional("id", a.ID)
	w.text("token", a.Token)
	return w.close()
}
