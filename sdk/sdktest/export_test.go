package sdktest

import (
	"testing"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// Open is a session with a plugin that somebody else connected to.
func Open(t testing.TB, client pluginpb.PluginClient, opts ...Option) *Instance {
	return open(t, client, optionsOf(opts))
}
