// Command worker is a plugin that is replaced and killed while it works.
package main

import (
	"context"

	"github.com/plugboard/plugboard/sdk"
)

// version is set by the linker.
var version = "1.0.0"

type job struct {
	N int `json:"n" jsonschema:"said back"`
}

type done struct {
	N       int    `json:"n"`
	Version string `json:"version"`
}

func work(_ context.Context, _ sdk.Call, j job) (done, error) { return done{j.N, version}, nil }

func main() {
	commands := []sdk.Command{
		sdk.Handle("worker", "Says its number back", work),
		sdk.Handle("worker.again", "Says its number back, as often as it is asked", work, sdk.Idempotent()),
	}
	if version != "1.0.0" {
		commands = append(commands, sdk.Handle("worker.extra", "Came with a later version", work))
	}
	sdk.Serve(sdk.Plugin{Name: "worker", Version: version, Summary: "Works", Commands: commands})
}
