package wire

// Close is why a connection ends: the code and reason of the closing handshake
// and whether the client should come back by itself (docs/protocol.md §6).
type Close struct {
	Code      int
	Reason    string
	Reconnect bool
}

// The closes of the protocol. They are values and never change.
var (
	CloseNormal       = Close{1000, "bye", false}
	CloseGoingAway    = Close{1001, "server going away", true}
	CloseFraming      = Close{1002, "framing error", true}
	CloseBinary       = Close{1003, "binary frames are not part of the protocol", false}
	CloseNotUTF8      = Close{1007, "text frame is not UTF-8", false}
	ClosePolicy       = Close{1008, "policy violation", false}
	CloseTooLarge     = Close{1009, "frame too large", false}
	CloseInternal     = Close{1011, "internal error", true}
	CloseRestart      = Close{1012, "server restarting", true}
	CloseSlowConsumer = Close{1013, "outbound queue full", true}
	CloseTokenExpired = Close{4001, "token expired", true}
	CloseTokenRevoked = Close{4002, "token revoked", false}
)

// ShouldReconnect reports whether a client that was closed with code should come
// back by itself. Codes of other layers (1005, 1006, a proxy's) are accidents of
// the network: yes.
func ShouldReconnect(code int) bool {
	for _, c := range []Close{CloseNormal, CloseBinary, CloseNotUTF8, ClosePolicy, CloseTooLarge, CloseTokenRevoked} {
		if c.Code == code {
			return false
		}
	}
	return true
}
