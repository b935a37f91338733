package wire

import (
	"math"
	"strconv"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
)

// Welcome is the server's first frame on every connection (docs/protocol.md §3).
type Welcome struct {
	Protocol       string
	UserID         string
	SessionID      string
	ServerTime     string
	Server         string
	Node           string
	LastSeq        uint64
	AckedSeq       uint64
	HeartbeatMS    uint64
	TokenExpiresAt string
	Limits         Limits
}

// Limits are what the server holds this client to.
type Limits struct {
	MaxFrameBytes uint64
	Rate, Burst   float64
}

// The statuses of an [Ack].
const (
	// StatusStored: the direct message is committed under Seq.
	StatusStored = "stored"
	// StatusSent: the broadcast was queued for Recipients connections.
	StatusSent = "sent"
	// StatusOK: the auth took effect.
	StatusOK = "ok"
)

// Ack is the server's final answer to a direct, broadcast or auth frame.
type Ack struct {
	ID, Status string
	Seq        uint64
	Timestamp  string
	Recipients *uint64
}

// Receipt tells a sender that its message was acknowledged by the recipient.
type Receipt struct {
	ID, To    string
	Status    string
	Timestamp string
	Signature string
}

// StatusDelivered is the one status of a [Receipt].
const StatusDelivered = "delivered"

// Progress is part of a streaming command's answer.
type Progress struct {
	ID      string
	Data    []byte // raw JSON
	Percent *float64
}

// Response is a command's one successful answer.
type Response struct {
	ID, Command string
	Result      []byte // raw JSON
	Elapsed     time.Duration
}

// ErrorFrame is the one, last answer when a frame failed.
type ErrorFrame struct {
	ID    string
	Fault *fault.Error
}

// The codes of a [Notice].
const (
	NoticeTokenExpiring   = "token_expiring" //nolint:gosec // a code, not a credential
	NoticeDraining        = "draining"
	NoticeCommandsChanged = "commands_changed"
)

// Notice is news about the connection that nobody asked for.
type Notice struct {
	Code, Message string
	// ReconnectAfter accompanies draining.
	ReconnectAfter time.Duration
	// ExpiresAt accompanies token_expiring.
	ExpiresAt string
}

var serverMembers = []string{
	"type", "id", "from", "to", "seq", "server_time", "timestamp", "content", "encrypted_key", "encryption_nonce",
	"key_version", "signature", "status", "recipients", "data", "percent", "command", "result", "elapsed_ms", "code",
	"message", "retry_after_ms", "details", "reconnect_after_ms", "expires_at", "protocol", "user_id", "session_id",
	"server", "node", "last_seq", "acked_seq", "heartbeat_ms", "token_expires_at", "limits",
}

var limitMembers = []string{"max_frame_bytes", "rate", "burst"}

// DecodeServer reads a server's frame, as strictly as the server reads a
// client's. A type that this version does not know is an unknown_type error,
// which a client passes over: that is how the protocol grows. The frame keeps
// parts of data.
func DecodeServer(data []byte) (Frame, error) {
	o, err := parseObject(data, serverMembers)
	if err != nil {
		return nil, err
	}
	var f Frame
	switch o.required("type") {
	case TypeWelcome:
		f = readWelcome(o)
	case TypeAck:
		f = readAck(o)
	case TypeDirect:
		d := readDirect(o)
		d.Seq, d.ServerTime = o.requiredInteger("seq"), o.text("server_time")
		if d.Seq == 0 {
			o.fail("seq", "must be at least 1")
		}
		f = d
	case TypeBroadcast:
		b := readBroadcast(o)
		b.ServerTime = o.text("server_time")
		f = b
	case TypeReceipt:
		f = &Receipt{ID: o.required("id"), To: o.required("to"), Status: o.text("status"), Timestamp: o.text("timestamp"), Signature: o.text("signature")}
	case TypeProgress:
		data, _ := o.raw("data")
		f = &Progress{ID: o.required("id"), Data: data, Percent: o.number("percent")}
	case TypeResponse:
		f = readResponse(o)
	case TypeError:
		f = readError(o)
	case TypeNotice:
		f = &Notice{
			Code: o.required("code"), Message: o.text("message"), ExpiresAt: o.text("expires_at"),
			ReconnectAfter: o.milliseconds("reconnect_after_ms"),
		}
	default:
		if o.err == nil {
			return nil, fault.New(fault.UnknownType, "The frame's type is not known to this version of the protocol.")
		}
	}
	if err := o.result(); err != nil {
		return nil, err
	}
	return f, nil
}

func readWelcome(o *object) *Welcome {
	w := &Welcome{
		Protocol: o.required("protocol"), UserID: o.required("user_id"), SessionID: o.text("session_id"), ServerTime: o.text("server_time"),
		Server: o.text("server"), Node: o.text("node"), LastSeq: o.integer("last_seq"), AckedSeq: o.integer("acked_seq"),
		HeartbeatMS: o.integer("heartbeat_ms"), TokenExpiresAt: o.text("token_expires_at"),
	}
	if raw, ok := o.raw("limits"); ok {
		l, err := parseObject(raw, limitMembers)
		if err != nil {
			o.fail("limits", "must be an object")
			return w
		}
		w.Limits.MaxFrameBytes = l.integer("max_frame_bytes")
		if n := l.number("rate"); n != nil {
			w.Limits.Rate = *n
		}
		if n := l.number("burst"); n != nil {
			w.Limits.Burst = *n
		}
		if l.err != nil && o.err == nil {
			o.err = l.err
		}
	}
	return w
}

func readAck(o *object) *Ack {
	a := &Ack{ID: o.text("id"), Status: o.required("status"), Seq: o.integer("seq"), Timestamp: o.text("timestamp")}
	if _, ok := o.raw("recipients"); ok {
		n := o.integer("recipients")
		a.Recipients = &n
	}
	return a
}

// maxElapsedMS is a hundred days, longer than any command runs.
const maxElapsedMS = 100 * 24 * 3600 * 1000

func readResponse(o *object) *Response {
	result, _ := o.raw("result")
	r := &Response{ID: o.required("id"), Command: o.text("command"), Result: result}
	if ms := o.number("elapsed_ms"); ms != nil {
		// Rounded, or reading and writing would lose a microsecond each time; bounded,
		// or a foreign number could turn negative.
		r.Elapsed = time.Duration(math.Round(min(max(*ms, 0), maxElapsedMS)*1000)) * time.Microsecond
	}
	return r
}

func readError(o *object) *ErrorFrame {
	e := fault.New(fault.Code(o.required("code")), o.text("message"))
	e.RetryAfter = o.milliseconds("retry_after_ms")
	if raw, ok := o.raw("details"); ok {
		e.Details = raw
	}
	return &ErrorFrame{ID: o.text("id"), Fault: e}
}

// Type is "welcome".
func (*Welcome) Type() string { return TypeWelcome }

// Type is "ack".
func (*Ack) Type() string { return TypeAck }

// Type is "receipt".
func (*Receipt) Type() string { return TypeReceipt }

// Type is "progress".
func (*Progress) Type() string { return TypeProgress }

// Type is "response".
func (*Response) Type() string { return TypeResponse }

// Type is "error".
func (*ErrorFrame) Type() string { return TypeError }

// Type is "notice".
func (*Notice) Type() string { return TypeNotice }

// Append writes the welcome with every member, zero or not.
func (f *Welcome) Append(dst []byte) []byte {
	w := open(dst, TypeWelcome)
	w.text("protocol", f.Protocol)
	w.text("user_id", f.UserID)
	w.text("session_id", f.SessionID)
	w.text("server_time", f.ServerTime)
	w.text("server", f.Server)
	w.text("node", f.Node)
	w.integer("last_seq", f.LastSeq)
	w.integer("acked_seq", f.AckedSeq)
	w.integer("heartbeat_ms", f.HeartbeatMS)
	w.text("token_expires_at", f.TokenExpiresAt)
	w.name("limits")
	w.buf = append(w.buf, `{"max_frame_bytes":`...)
	w.buf = strconv.AppendUint(w.buf, f.Limits.MaxFrameBytes, 10)
	w.number("rate", &f.Limits.Rate)
	w.number("burst", &f.Limits.Burst)
	w.buf = append(w.buf, '}')
	return w.close()
}

// Append writes the ack.
func (f *Ack) Append(dst []byte) []byte {
	w := open(dst, TypeAck)
	w.optional("id", f.ID)
	w.text("status", f.Status)
	w.optionalInteger("seq", f.Seq)
	w.text("timestamp", f.Timestamp)
	if f.Recipients != nil {
		w.integer("recipients", *f.Recipients)
	}
	return w.close()
}

// Append writes the receipt.
func (f *Receipt) Append(dst []byte) []byte {
	w := open(dst, TypeReceipt)
	w.text("id", f.ID)
	w.text("to", f.To)
	w.text("status", f.Status)
	w.text("timestamp", f.Timestamp)
	w.optional("signature", f.Signature)
	return w.close()
}

// Append writes the progress, its data untouched.
func (f *Progress) Append(dst []byte) []byte {
	w := open(dst, TypeProgress)
	w.text("id", f.ID)
	w.raw("data", f.Data)
	w.number("percent", f.Percent)
	return w.close()
}

// Append writes the response, its result untouched. Elapsed is written in
// milliseconds with three decimals.
func (f *Response) Append(dst []byte) []byte {
	w := open(dst, TypeResponse)
	w.text("id", f.ID)
	w.text("command", f.Command)
	w.raw("result", f.Result)
	ms := float64(f.Elapsed.Microseconds()) / 1000
	w.number("elapsed_ms", &ms)
	return w.close()
}

// Append writes what a stranger may see of the fault: never its cause.
func (f *ErrorFrame) Append(dst []byte) []byte {
	w := open(dst, TypeError)
	w.optional("id", f.ID)
	w.text("code", string(f.Fault.Code))
	w.text("message", f.Fault.Message)
	w.optionalInteger("retry_after_ms", milliseconds(f.Fault.RetryAfter))
	w.raw("details", f.Fault.Details)
	return w.close()
}

// Append writes the notice.
func (f *Notice) Append(dst []byte) []byte {
	w := open(dst, TypeNotice)
	w.text("code", f.Code)
	w.text("message", f.Message)
	w.optionalInteger("reconnect_after_ms", milliseconds(f.ReconnectAfter))
	w.optional("expires_at", f.ExpiresAt)
	return w.close()
}

// milliseconds rounds up, so that a short wait never becomes none.
func milliseconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Millisecond - 1) / time.Millisecond)
}
