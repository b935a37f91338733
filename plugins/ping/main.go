// Command ping is the plugin behind the command of the same name: it answers with
// the time, as a sign of life of everything between the client and a plugin.
package main

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/sdk"
)

type pong struct {
	Pong bool      `json:"pong" jsonschema:"always true"`
	Time time.Time `json:"time" jsonschema:"when the plugin answered, by its clock"`
}

func ping(context.Context, sdk.Call, struct{}) (pong, error) {
	return pong{Pong: true, Time: time.Now()}, nil
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "ping",
		Version: "1.0.0",
		Summary: "Answers with the time",
		Commands: []sdk.Command{
			sdk.Handle("ping", "Answers with the time", ping,
				sdk.ReadOnly(),
				sdk.Idempotent(),
				sdk.Example(struct{}{}, pong{Pong: true, Time: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}),
			),
		},
	}
}

func main() { sdk.Serve(plugin()) }
