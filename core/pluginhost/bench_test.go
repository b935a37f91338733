package pluginhost_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	benchParams   = `{"text":"hello, world"}`
	benchInFlight = 64
)

// BenchmarkInvoke is a call through a slot to a plugin process and back. Compare it
// with BenchmarkBareStream of the same run, which is the floor.
func BenchmarkInvoke(b *testing.B) {
	w := newWorld(b, "good").start(func(o *pluginhost.Options) { o.MaxConcurrent = benchInFlight })
	invoker := w.catalogue.invokers["good"]
	call := &core.Call{ID: "call-1", Command: "good", Params: []byte(benchParams), Caller: core.Caller{UserID: "alice", Roles: []string{"user"}}}
	none := func(core.Progress) {}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := invoker.Invoke(b.Context(), call, none); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64 in flight", func(b *testing.B) {
		b.ReportAllocs()
		var left atomic.Int64
		left.Store(int64(b.N))
		var wg sync.WaitGroup
		for range benchInFlight {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := invoker.Invoke(b.Context(), call, none); err != nil && fault.CodeOf(err) != fault.Overloaded {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// BenchmarkBareStream is the same messages over go-plugin's connection with nothing
// around them: one goroutine that sends, one that receives.
func BenchmarkBareStream(b *testing.B) {
	path := filepath.Join(b.TempDir(), "good")
	if err := os.Link(testBinary, path); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Args[0] = "good"
	cmd.Env = []string{"GOMAXPROCS=1"}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: pluginpb.Handshake(), Plugins: pluginpb.ClientPlugins(), Cmd: cmd, SkipHostEnv: true, AutoMTLS: true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, GRPCDialOptions: pluginpb.DialOptions(), Logger: hclog.NewNullLogger(),
	})
	b.Cleanup(client.Kill)
	stream := openBareStream(b, client)
	send := func(id string) {
		if err := stream.Send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: &pluginpb.Call{
			CallId: id, Command: "good", Params: []byte(benchParams), Caller: &pluginpb.Caller{UserId: "alice", Roles: []string{"user"}}, TimeoutMs: 30_000,
		}}}); err != nil {
			b.Error(err)
		}
	}
	recv := func() {
		if m, err := stream.Recv(); err != nil || m.GetResult() == nil {
			b.Errorf("got %v, %v, want a result", m, err)
		}
	}
	b.Run("serial", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			send(strconv.Itoa(i))
			recv()
		}
	})
	b.Run("64 in flight", func(b *testing.B) {
		window := make(chan struct{}, benchInFlight)
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range b.N {
				window <- struct{}{}
				send(strconv.Itoa(i))
			}
		})
		for range b.N {
			recv()
			<-window
		}
		wg.Wait()
	})
}

func openBareStream(b *testing.B, client *plugin.Client) pluginpb.Plugin_SessionClient {
	b.Helper()
	protocol, err := client.Client()
	if err != nil {
		b.Fatal(err)
	}
	raw, err := protocol.Dispense(pluginpb.PluginName)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	stream, err := raw.(pluginpb.PluginClient).Session(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if err := stream.Send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{}}}); err != nil {
		b.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetReady() == nil {
		b.Fatalf("got %v, %v, want ready", m, err)
	}
	return stream
}
