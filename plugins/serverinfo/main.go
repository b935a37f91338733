// Command serverinfo is the plugin behind the command of the same name: it tells
// what the server is and which plugins it runs. It shows how a plugin asks the
// server, with a capability that the operator has to grant.
package main

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/sdk"
)

type info struct {
	Name          string            `json:"name" jsonschema:"the server's product name"`
	Version       string            `json:"version" jsonschema:"the server's version"`
	StartedAt     time.Time         `json:"started_at" jsonschema:"when the server started, by its clock"`
	UptimeSeconds float64           `json:"uptime_seconds" jsonschema:"how long it has been running"`
	GoVersion     string            `json:"go_version" jsonschema:"the Go release it was built with"`
	Protocol      string            `json:"protocol" jsonschema:"the client protocol it speaks"`
	Connections   int               `json:"connections" jsonschema:"client connections open now"`
	Plugins       []sdk.PluginState `json:"plugins" jsonschema:"its plugins and their states"`
}

func serverinfo(ctx context.Context, call sdk.Call, _ struct{}) (info, error) {
	s, err := call.Host.ServerInfo(ctx)
	if err != nil {
		return info{}, err
	}
	return info{
		Name:          s.Name,
		Version:       s.Version,
		StartedAt:     s.StartedAt,
		UptimeSeconds: s.Uptime.Seconds(),
		GoVersion:     s.GoVersion,
		Protocol:      s.Protocol,
		Connections:   s.Connections,
		Plugins:       s.Plugins,
	}, nil
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Name:    "serverinfo",
		Version: "1.0.0",
		Summary: "Tells what the server is and which plugins it runs",
		Needs:   []sdk.Capability{sdk.CapabilityServer},
		Commands: []sdk.Command{
			sdk.Handle("serverinfo", "Tells what the server is and which plugins it runs", serverinfo,
				sdk.ReadOnly(),
				sdk.Idempotent(),
			),
		},
	}
}

func main() { sdk.Serve(plugin()) }
