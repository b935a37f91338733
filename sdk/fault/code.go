package fault

import "net/http"

// Code names a kind of failure for programs. The set is closed and a code never
// changes its meaning (docs/protocol.md §5).
type Code string

// The codes of protocol version 1. Each states what a client may do next.
const (
	// BadJSON: the frame or body is not one strict JSON object (docs/e2ee.md §1). Do not repeat it as it is.
	BadJSON Code = "bad_json"
	// InvalidRequest: a member is missing or breaks its rule; the message names both. Do not repeat it as it is.
	InvalidRequest Code = "invalid_request"
	// UnknownType: the frame's type is none that a client may send. Do not repeat it.
	UnknownType Code = "unknown_type"
	// TooLarge: frame, body or result above the limit that the welcome frame tells. Do not repeat it as it is.
	TooLarge Code = "too_large"
	// UnknownUser: no such user. Do not repeat it until they have registered.
	UnknownUser Code = "unknown_user"
	// UserExists: the name is taken. Choose another.
	UserExists Code = "user_exists"
	// RegistrationClosed: this server takes no registrations. Ask its operator.
	RegistrationClosed Code = "registration_closed"
	// AuthenticationFailed: the sign-in or token was not accepted, whatever the cause. Sign in anew.
	AuthenticationFailed Code = "authentication_failed"
	// TokenExpired: the token's time is over. Sign in anew.
	TokenExpired Code = "token_expired"
	// TokenRevoked: the token's session was ended. Sign in anew if that was not you.
	TokenRevoked Code = "token_revoked"
	// Forbidden: signed in, but not allowed to. Do not repeat it.
	Forbidden Code = "forbidden"
	// RateLimited: too fast. Repeat it after retry_after_ms.
	RateLimited Code = "rate_limited"
	// InvalidSignature: the signature does not verify over the transcript. Do not repeat it as it is.
	InvalidSignature Code = "invalid_signature"
	// SignatureRequired: this command runs only when signed. Sign it and repeat it.
	SignatureRequired Code = "signature_required"
	// EncryptionRequired: this server stores only sealed direct messages. Seal it and repeat it.
	EncryptionRequired Code = "encryption_required"
	// StaleTimestamp: the timestamp is out of range. Sign or seal anew under the same id.
	StaleTimestamp Code = "stale_timestamp"
	// KeyVersion: not an acceptable version of the encryption key. Fetch the bundle, seal anew under the same id.
	KeyVersion Code = "key_version"
	// IDConflict: the id was used with other contents. Choose another id.
	IDConflict Code = "id_conflict"
	// MailboxFull: the recipient has too many undelivered messages. Repeat it later.
	MailboxFull Code = "mailbox_full"
	// UnknownCommand: no such command, or none that this user may run. Ask for the list.
	UnknownCommand Code = "unknown_command"
	// InvalidParams: params do not fit the command's schema; details lists pointer and message. Mend and repeat.
	InvalidParams Code = "invalid_params"
	// CommandFailed: the command's author refused, in the author's words. It depends on the command.
	CommandFailed Code = "command_failed"
	// CommandTimeout: the command did not answer in time; whether it took effect is unknown unless it is idempotent.
	CommandTimeout Code = "command_timeout"
	// CommandCancelled: the client cancelled it or left.
	CommandCancelled Code = "command_cancelled"
	// PluginUnavailable: the command's plugin crashed or is not running. Repeat it shortly if it is idempotent.
	PluginUnavailable Code = "plugin_unavailable"
	// Overloaded: a bounded queue of the server is full. Repeat it later.
	Overloaded Code = "overloaded"
	// StorageUnavailable: nothing was stored. Repeat it later under the same id.
	StorageUnavailable Code = "storage_unavailable"
	// ShuttingDown: the server is draining. Reconnect and repeat it.
	ShuttingDown Code = "shutting_down"
	// Internal: our mistake; the reference in the message finds it in the server's log.
	Internal Code = "internal"
)

// row is the one table behind Valid, Temporary and HTTPStatus.
func (c Code) row() (status int, temporary, ok bool) {
	switch c {
	case BadJSON, InvalidRequest, UnknownType, StaleTimestamp, InvalidParams, InvalidSignature:
		return http.StatusBadRequest, false, true
	case TooLarge:
		return http.StatusRequestEntityTooLarge, false, true
	case UnknownUser, UnknownCommand:
		return http.StatusNotFound, false, true
	case UserExists, KeyVersion, IDConflict:
		return http.StatusConflict, false, true
	case AuthenticationFailed, TokenExpired, TokenRevoked:
		return http.StatusUnauthorized, false, true
	case RegistrationClosed, Forbidden, SignatureRequired, EncryptionRequired:
		return http.StatusForbidden, false, true
	case RateLimited:
		return http.StatusTooManyRequests, true, true
	case CommandFailed:
		return http.StatusUnprocessableEntity, false, true
	case CommandCancelled:
		return 499, false, true // nginx's code for a client that left; no registered status says it
	case CommandTimeout:
		return http.StatusGatewayTimeout, false, true
	case PluginUnavailable:
		return http.StatusBadGateway, true, true
	case MailboxFull, Overloaded, StorageUnavailable, ShuttingDown:
		return http.StatusServiceUnavailable, true, true
	case Internal:
		return http.StatusInternalServerError, false, true
	}
	return http.StatusInternalServerError, false, false
}

// Valid reports whether c is one of the closed set.
func (c Code) Valid() bool {
	_, _, ok := c.row()
	return ok
}

// Temporary reports whether the same request, unchanged, may succeed later.
func (c Code) Temporary() bool {
	_, temporary, _ := c.row()
	return temporary
}

// HTTPStatus is the status under which the code travels in a problem document
// (RFC 9457); a code outside the set is 500.
func (c Code) HTTPStatus() int {
	status, _, _ := c.row()
	return status
}
