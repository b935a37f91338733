package wire

import (
	"bytes"
	"crypto/ed25519"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk/fault"
)

// RegisterRequest is the body of POST /auth/register (docs/protocol.md §2).
// Byte slices are base64 on the wire.
type RegisterRequest struct {
	UserID          string `json:"user_id"`
	Username        string `json:"username"`
	PublicKey       []byte `json:"public_key"`
	X25519PublicKey []byte `json:"x25519_public_key"`
	KeyVersion      uint64 `json:"key_version"`
	CreatedAt       string `json:"created_at"`
	KeySignature    []byte `json:"key_signature"`
	Timestamp       string `json:"timestamp"`
	Signature       []byte `json:"signature"`
}

// Registered is the answer to a registration.
type Registered struct {
	UserID    string `json:"user_id"`
	Username  string `json:"username"`
	CreatedAt string `json:"created_at"`
}

// LoginRequest is the body of POST /auth/login, and with Challenge and Signature
// that of POST /auth/login?verify=true.
type LoginRequest struct {
	UserID    string `json:"user_id"`
	Challenge []byte `json:"challenge,omitempty"`
	Signature []byte `json:"signature,omitempty"`
}

// Challenge is what a client signs to sign in (docs/e2ee.md §6).
type Challenge struct {
	Challenge []byte `json:"challenge"`
	ExpiresAt string `json:"expires_at"`
}

// SignIn is the answer to a verified sign-in.
type SignIn struct {
	Token     string `json:"token"`
	ExpiresAt string `json:"expires_at"`
	SessionID string `json:"session_id"`
}

// UserKeys is a user's key bundle, the answer to GET /auth/users/{user_id}.
type UserKeys struct {
	UserID          string `json:"user_id"`
	Username        string `json:"username"`
	PublicKey       []byte `json:"public_key"`
	X25519PublicKey []byte `json:"x25519_public_key"`
	KeyVersion      uint64 `json:"key_version"`
	CreatedAt       string `json:"created_at"`
	KeySignature    []byte `json:"key_signature"`
}

// KeyUpload is the body of PUT /auth/keys.
type KeyUpload struct {
	X25519PublicKey []byte `json:"x25519_public_key"`
	KeyVersion      uint64 `json:"key_version"`
	CreatedAt       string `json:"created_at"`
	KeySignature    []byte `json:"key_signature"`
}

// ActiveUser is one row of GET /active-users.
type ActiveUser struct {
	UserID         string `json:"user_id"`
	Username       string `json:"username"`
	ConnectedSince string `json:"connected_since"`
}

// ActiveUsers is a page of the users who are connected now. Next is the value of
// ?after= for the following page, empty on the last.
type ActiveUsers struct {
	Users []ActiveUser `json:"users"`
	Total int          `json:"total"`
	Next  string       `json:"next,omitempty"`
}

// MessagesPage is the answer to GET /messages: direct frames as they are
// delivered on a WebSocket.
type MessagesPage struct {
	Messages []jsontext.Value `json:"messages"`
	LastSeq  uint64           `json:"last_seq"`
}

// CommandInfo describes one command, in GET /commands and as listcommands
// answers.
type CommandInfo struct {
	Name              string           `json:"name"`
	Plugin            string           `json:"plugin"`
	Version           string           `json:"version"`
	Summary           string           `json:"summary"`
	Description       string           `json:"description,omitempty"`
	Params            jsontext.Value   `json:"params"`
	Result            jsontext.Value   `json:"result,omitempty"`
	Examples          []CommandExample `json:"examples,omitempty"`
	Streaming         bool             `json:"streaming"`
	SignatureRequired bool             `json:"signature_required"`
}

// CommandExample is one worked example of a command.
type CommandExample struct {
	Params jsontext.Value `json:"params"`
	Result jsontext.Value `json:"result,omitempty"`
}

// CommandList is the answer to GET /commands.
type CommandList struct {
	Commands []CommandInfo `json:"commands"`
}

// CommandResult is the answer to POST /commands/{name}.
type CommandResult struct {
	ID        string         `json:"id"`
	Command   string         `json:"command"`
	Result    jsontext.Value `json:"result"`
	ElapsedMS float64        `json:"elapsed_ms"`
}

// Problem is the body of every HTTP error: RFC 9457 with our code beside the
// standard members.
type Problem struct {
	Type         string         `json:"type"`
	Title        string         `json:"title"`
	Status       int            `json:"status"`
	Detail       string         `json:"detail"`
	Code         fault.Code     `json:"code"`
	RetryAfterMS uint64         `json:"retry_after_ms,omitzero"`
	Details      jsontext.Value `json:"details,omitempty"`
}

// NewProblem is what a stranger may see of e.
func NewProblem(e *fault.Error) Problem {
	return Problem{
		Type: "about:blank", Title: http.StatusText(e.Code.HTTPStatus()), Status: e.Code.HTTPStatus(), Detail: e.Message,
		Code: e.Code, RetryAfterMS: milliseconds(e.RetryAfter), Details: jsontext.Value(e.Details),
	}
}

// DecodeRegister reads and checks the form of a registration body; the keys and
// signatures are identity's to verify. Errors are *fault.Error.
func DecodeRegister(data []byte) (*RegisterRequest, error) {
	o, err := parseObject(data, []string{
		"user_id", "username", "public_key", "x25519_public_key", "key_version", "created_at", "key_signature", "timestamp", "signature",
	})
	if err != nil {
		return nil, err
	}
	r := &RegisterRequest{
		UserID: o.required("user_id"), Username: o.required("username"), PublicKey: o.binary("public_key", ed25519.PublicKeySize),
		X25519PublicKey: o.binary("x25519_public_key", 32), KeyVersion: o.requiredInteger("key_version"), CreatedAt: o.required("created_at"),
		KeySignature: o.binary("key_signature", ed25519.SignatureSize), Timestamp: o.required("timestamp"), Signature: o.binary("signature", ed25519.SignatureSize),
	}
	if err := o.result(); err != nil {
		return nil, err
	}
	var c check
	c.that(ValidUserID(r.UserID), "user_id", ruleUserID)
	c.that(r.UserID != ReservedUser, "user_id", "must not be the reserved name "+ReservedUser)
	c.that(ValidUsername(r.Username), "username", ruleUsername)
	c.that(r.KeyVersion == 1, "key_version", "must be 1 in a registration")
	c.that(validTime(r.CreatedAt), "created_at", ruleTime)
	c.that(validTime(r.Timestamp), "timestamp", ruleTime)
	return r, c.err
}

// DecodeLogin reads the body of either step of a sign-in; verify asks for the
// members of the second. Errors are *fault.Error.
func DecodeLogin(data []byte, verify bool) (*LoginRequest, error) {
	o, err := parseObject(data, []string{"user_id", "challenge", "signature"})
	if err != nil {
		return nil, err
	}
	r := &LoginRequest{UserID: o.required("user_id")}
	if verify {
		r.Challenge, r.Signature = o.binary("challenge", -1), o.binary("signature", -1)
	}
	if err := o.result(); err != nil {
		return nil, err
	}
	var c check
	c.that(ValidUserID(r.UserID), "user_id", ruleUserID)
	return r, c.err
}

// DecodeKeyUpload reads the body of PUT /auth/keys. Errors are *fault.Error.
func DecodeKeyUpload(data []byte) (*KeyUpload, error) {
	o, err := parseObject(data, []string{"x25519_public_key", "key_version", "created_at", "key_signature"})
	if err != nil {
		return nil, err
	}
	k := &KeyUpload{
		X25519PublicKey: o.binary("x25519_public_key", 32), KeyVersion: o.requiredInteger("key_version"),
		CreatedAt: o.required("created_at"), KeySignature: o.binary("key_signature", ed25519.SignatureSize),
	}
	if err := o.result(); err != nil {
		return nil, err
	}
	var c check
	c.that(k.KeyVersion >= 1, "key_version", "must be a whole number from 1 to 9007199254740991")
	c.that(validTime(k.CreatedAt), "created_at", ruleTime)
	return k, c.err
}

// DecodeParams checks that data is one strict JSON object that may be a
// command's params, and returns it without surrounding blanks. An empty body is
// the empty object.
func DecodeParams(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return []byte("{}"), nil
	}
	if _, err := parseObject(data, nil); err != nil {
		return nil, err
	}
	return bytes.Trim(data, " \t\r\n"), nil
}

// Marshal encodes an HTTP body of this package.
func Marshal(v any) ([]byte, error) { return json.Marshal(v, json.FormatNilSliceAsNull(false)) }

// Unmarshal decodes an answer of the server, for clients: unknown members are
// passed over, as the protocol asks (docs/protocol.md, conventions), and binary
// values must be canonical base64 (docs/e2ee.md §1), which the library does not hold
// them to.
func Unmarshal(data []byte, v any) error {
	return json.Unmarshal(data, v, json.WithUnmarshalers(json.UnmarshalFromFunc(readBinary)))
}

func readBinary(d *jsontext.Decoder, b *[]byte) error {
	var s string
	if err := json.UnmarshalDecode(d, &s); err != nil {
		return err
	}
	var err error
	*b, err = DecodeBase64(s)
	return err
}
