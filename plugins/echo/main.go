// Command echo is the plugin behind the command of the same name: it says its
// params back. Its params and result are any JSON object, so it shows how a plugin
// works without a schema of its own.
package main

import (
	"context"
	"encoding/json"

	"github.com/plugboard/plugboard/sdk"
)

func echo(_ context.Context, _ sdk.Call, params json.RawMessage) (json.RawMessage, error) {
	return params, nil
}

func plugin() sdk.Plugin {
	hello := map[string]string{"text": "hello"}
	return sdk.Plugin{
		Name:    "echo",
		Version: "1.0.0",
		Summary: "Says back what it is told",
		Commands: []sdk.Command{
			sdk.Handle("echo", "Says its params back", echo,
				sdk.ReadOnly(),
				sdk.Idempotent(),
				sdk.Describe("The params may be any JSON object; the result is the same object, byte for byte."),
				sdk.Example(hello, hello),
			),
		},
	}
}

func main() { sdk.Serve(plugin()) }
