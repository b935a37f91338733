package hostsvc

import (
	"slices"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// The capabilities of docs/plugin.md §2.
const (
	CapabilityServer    = "server"
	CapabilityUsers     = "users"
	CapabilityCommands  = "commands"
	CapabilityKV        = "kv"
	CapabilitySend      = "send"
	CapabilityBroadcast = "broadcast"
	// CapabilityNet lets the plugin's process use the network. No request belongs to
	// it; the sandbox grants it.
	CapabilityNet = "net"
)

// capabilities in the order in which they are told.
var capabilities = [...]string{
	CapabilityServer, CapabilityUsers, CapabilityCommands, CapabilityKV, CapabilitySend, CapabilityBroadcast, CapabilityNet,
}

// ValidCapability reports whether name is a capability of the contract: what a
// plugin may say in its description that it needs.
func ValidCapability(name string) bool { return slices.Contains(capabilities[:], name) }

// Offered reports whether this server has what the capability stands for: all of
// them.
func Offered(capability string) bool { return ValidCapability(capability) }

// kind is a kind of request, and the capability that it needs.
type kind struct{ name, capability string }

// unknownKind is a request that this server does not know.
var unknownKind = kind{name: "unknown"}

// kindOf tells the kind, by the name of its member in HostRequest.
func kindOf(req *pluginpb.HostRequest) kind {
	switch req.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		return kind{"server_info", CapabilityServer}
	case *pluginpb.HostRequest_CountUsers:
		return kind{"count_users", CapabilityUsers}
	case *pluginpb.HostRequest_ListUsers:
		return kind{"list_users", CapabilityUsers}
	case *pluginpb.HostRequest_ListCommands:
		return kind{"list_commands", CapabilityCommands}
	case *pluginpb.HostRequest_KvGet:
		return kind{"kv_get", CapabilityKV}
	case *pluginpb.HostRequest_KvPut:
		return kind{"kv_put", CapabilityKV}
	case *pluginpb.HostRequest_KvDelete:
		return kind{"kv_delete", CapabilityKV}
	case *pluginpb.HostRequest_KvList:
		return kind{"kv_list", CapabilityKV}
	case *pluginpb.HostRequest_Send:
		return kind{"send", CapabilitySend}
	case *pluginpb.HostRequest_Broadcast:
		return kind{"broadcast", CapabilityBroadcast}
	}
	return unknownKind
}

// The two codes of a HostError beside those of docs/protocol.md §5.
const (
	codeNotFound         fault.Code = "not_found"
	codeRevisionConflict fault.Code = "revision_conflict"
)

// told reports whether a HostError may have the code, by the contract.
func told(code fault.Code) bool {
	switch code {
	case codeNotFound, codeRevisionConflict, fault.Forbidden, fault.InvalidRequest, fault.UnknownUser, fault.MailboxFull, fault.TooLarge,
		fault.RateLimited, fault.Overloaded, fault.StorageUnavailable, fault.ShuttingDown:
		return true
	}
	return false // internal among them: it is made here and nowhere else
}
