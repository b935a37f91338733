package pluginpb_test

import (
	"strings"
	"testing"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

func TestEachHalfRefusesTheOther(t *testing.T) {
	server := pluginpb.ServerPlugins(pluginpb.UnimplementedPluginServer{})[pluginpb.PluginName].(plugin.GRPCPlugin)
	client := pluginpb.ClientPlugins()[pluginpb.PluginName].(plugin.GRPCPlugin)
	if _, err := server.GRPCClient(t.Context(), nil, nil); err == nil {
		t.Error("the plugin's half dispensed a client")
	}
	if err := client.GRPCServer(nil, nil); err == nil {
		t.Error("the server's half served a plugin")
	}
	g := grpc.NewServer(pluginpb.ServerOptions()...)
	defer g.Stop()
	if err := server.GRPCServer(nil, g); err != nil {
		t.Fatal(err)
	}
	if _, ok := g.GetServiceInfo()["plugboard.plugin.v1.Plugin"]; !ok {
		t.Errorf("got services %v, want plugboard.plugin.v1.Plugin", g.GetServiceInfo())
	}
	got, err := client.GRPCClient(t.Context(), nil, nil)
	if _, ok := got.(pluginpb.PluginClient); !ok || err != nil {
		t.Errorf("got %T, %v, want a PluginClient", got, err)
	}
}

// The names are on the wire and in other people's plugins: they never change within
// version 1.
func TestTheContractsNames(t *testing.T) {
	h := pluginpb.Handshake()
	if h.ProtocolVersion != 1 || h.MagicCookieKey != "PLUGBOARD_PLUGIN" || h.MagicCookieValue != "plugboard.plugin.v1" || pluginpb.PluginName != "plugboard" {
		t.Errorf("got %+v, %s", h, pluginpb.PluginName)
	}
	if got := string(pluginpb.File_plugin_proto.Package()); got != h.MagicCookieValue || !strings.HasSuffix(got, ".v1") {
		t.Errorf("got package %s, want %s", got, h.MagicCookieValue)
	}
}
