// Command listcommands is the plugin behind the command of the same name: it lists
// what the calling user may run, in the form of GET /commands.
package main

import (
	"context"

	"github.com/plugboard/plugboard/sdk"
)

type list struct {
	Commands []sdk.CommandInfo `json:"commands" jsonschema:"what the caller may run, by name"`
}

func listcommands(ctx context.Context, call sdk.Call, _ struct{}) (list, error) {
	commands, err := call.Host.ListCommands(ctx)
	return list{Commands: commands}, err
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "listcommands",
		Version: "1.0.0",
		Summary: "Lists the commands",
		Needs:   []sdk.Capability{sdk.CapabilityCommands},
		Commands: []sdk.Command{
			sdk.Handle("listcommands", "Lists the commands that the caller may run", listcommands,
				sdk.ReadOnly(),
				sdk.Idempotent(),
				sdk.Describe("Each command comes with its plugin, version, description, the JSON Schemas of its params and "+
					"result, its examples, and whether it streams or must be signed."),
			),
		},
	}
}

func main() { sdk.Serve(plugin()) }
