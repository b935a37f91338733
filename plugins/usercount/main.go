// Command usercount is the plugin behind the command of the same name: it counts
// the users who are connected and those who exist.
package main

import (
	"context"

	"github.com/plugboard/plugboard/sdk"
)

func usercount(ctx context.Context, call sdk.Call, _ struct{}) (sdk.UserCount, error) {
	return call.Host.CountUsers(ctx)
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "usercount",
		Version: "1.0.0",
		Summary: "Counts the users",
		Needs:   []sdk.Capability{sdk.CapabilityUsers},
		Commands: []sdk.Command{
			sdk.Handle("usercount", "Counts the users who are connected and all who exist", usercount,
				sdk.ReadOnly(),
				sdk.Idempotent(),
				sdk.Example(struct{}{}, sdk.UserCount{Connected: 2, Registered: 5}),
			),
		},
	}
}

func main() { sdk.Serve(plugin()) }
