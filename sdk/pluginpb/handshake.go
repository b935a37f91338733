package pluginpb

import (
	"context"
	"errors"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

const (
	// ProtocolVersion is the major version of the plugin contract, as the
	// go-plugin handshake line tells it and the proto package names it.
	ProtocolVersion = 1

	// MagicCookieKey names the environment variable by which a plugin knows that a
	// server started it. It is no secret and protects nothing: without it the
	// binary explains itself to the person at the terminal.
	MagicCookieKey = "PLUGBOARD_PLUGIN"

	// MagicCookieValue is what the variable MagicCookieKey holds.
	MagicCookieValue = "plugboard.plugin.v1"

	// PluginName is the one entry of the go-plugin map on both sides.
	PluginName = "plugboard"

	// MaxMessageBytes bounds one message of Describe or Session, in either
	// direction (docs/plugin.md §2). Both sides set it for sending and receiving.
	MaxMessageBytes = 4 << 20

	// EnvLifelineFD names the variable with the number of an inherited file
	// descriptor, the reading end of a pipe whose writing end only the server
	// holds. End of file there means the server is gone: the plugin exits at once.
	// Unset: there is no lifeline.
	EnvLifelineFD = "PLUGBOARD_LIFELINE_FD"

	// EnvRuntimeDir names the variable with the absolute path of the plugin's own
	// directory (0700), which the server made and removes. Unset: there is none.
	EnvRuntimeDir = "PLUGBOARD_RUNTIME_DIR"
)

// Handshake is the go-plugin handshake of this contract, the same on both sides.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  ProtocolVersion,
		MagicCookieKey:   MagicCookieKey,
		MagicCookieValue: MagicCookieValue,
	}
}

// ClientPlugins is the go-plugin set of the server that starts plugins. Dispense
// of [PluginName] returns a [PluginClient] on the process's connection.
func ClientPlugins() plugin.PluginSet {
	return plugin.PluginSet{PluginName: &clientPlugin{}}
}

// ServerPlugins is the go-plugin set of the plugin process, which serves srv.
func ServerPlugins(srv PluginServer) plugin.PluginSet {
	return plugin.PluginSet{PluginName: &serverPlugin{server: srv}}
}

// DialOptions are the options of every client connection to a plugin: one limit
// on message size, both ways.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithDefaultCallOptions(
		grpc.MaxCallRecvMsgSize(MaxMessageBytes),
		grpc.MaxCallSendMsgSize(MaxMessageBytes),
	)}
}

// ServerOptions are the options of every gRPC server in a plugin: one limit on
// message size, both ways.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
	}
}

// clientPlugin and serverPlugin are the two halves that go-plugin wants in one
// type; split, so that a half that does not exist cannot be called silently.
type clientPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (*clientPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("serve plugin: this side only calls plugins")
}

func (*clientPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewPluginClient(conn), nil
}

type serverPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server PluginServer
}

func (p *serverPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	RegisterPluginServer(s, p.server)
	return nil
}

func (*serverPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("call plugin: this side only serves")
}

var (
	_ plugin.GRPCPlugin = (*clientPlugin)(nil)
	_ plugin.GRPCPlugin = (*serverPlugin)(nil)
)
