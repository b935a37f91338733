package pluginhost

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// attachGeneration connects to a plugin that somebody else started, under a
// debugger for example. Its process is not ours: it is neither watched nor ended,
// and nothing it does is timed.
func attachGeneration(ctx context.Context, l launch, at core.PluginAttachment) (*generation, error) {
	if at.Network != "unix" || at.Address == "" {
		return nil, &refusal{fmt.Errorf("attach to %s %q: want a unix socket", at.Network, at.Address)}
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	g := newGeneration(l)
	g.attached, g.pid = true, at.PID
	g.process = newProcess(l.plugin, sandbox.Command{}, "", g.out) // never started
	err := g.dial(ctx, l, at)
	if err != nil {
		g.close(err)
		return nil, &refusal{fmt.Errorf("attach to %s: %w", at.Address, err)}
	}
	for i := range g.description.commands {
		g.description.commands[i].Untimed = true
	}
	return g, nil
}

func (g *generation) dial(ctx context.Context, l launch, at core.PluginAttachment) error {
	var err error
	g.conn, err = grpc.NewClient("unix:"+at.Address, append(pluginpb.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	return g.introduce(ctx, pluginpb.NewPluginClient(g.conn), l)
}
