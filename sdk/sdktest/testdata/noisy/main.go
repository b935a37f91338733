// Command noisy prints wherever a plugin should not, and hangs where it should not.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

type params struct {
	Text string `json:"text"`
}

// early is what a package that was set up before Serve would print to.
var early = os.Stdout

func noisy(_ context.Context, _ sdk.Call, p params) (params, error) {
	fmt.Println("1|1|unix|/nowhere|grpc|")
	_, _ = fmt.Fprintln(early, "1|1|unix|/nowhere|grpc|")
	_, _ = fmt.Fprintln(os.Stderr, "on standard error")
	child := exec.Command("echo", "from a child")
	child.Stdout = early
	if err := child.Run(); err != nil {
		return params{}, err
	}
	return p, nil
}

func main() {
	sdk.Serve(sdk.Plugin{
		Name: "noisy", Version: "1.0.0", Summary: "Prints everywhere",
		Commands: []sdk.Command{
			sdk.Handle("noisy", "Says its params back and prints", noisy),
			sdk.Handle("noisy.hang", "Never returns", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
				select {}
			}),
			sdk.Handle("noisy.large", "Answers more than fits", func(context.Context, sdk.Call, struct{}) ([]byte, error) {
				return make([]byte, pluginpb.MaxMessageBytes), nil
			}),
			sdk.Handle("noisy.die", "Says why and ends the process", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
				_, _ = fmt.Fprintln(os.Stderr, "last words")
				os.Exit(9)
				return struct{}{}, nil
			}),
			sdk.Handle("noisy.dir", "Tells its runtime directory", func(context.Context, sdk.Call, struct{}) (string, error) {
				return os.Getenv(pluginpb.EnvRuntimeDir), nil
			}),
		},
	})
}
