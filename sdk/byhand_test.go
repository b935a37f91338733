package sdk_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/sdk"
)

func handPlugin() sdk.Plugin {
	p, s := configured()
	p.Homepage, p.License = "https://example.org", "MIT"
	p.Needs = []sdk.Capability{sdk.CapabilityUsers}
	p.Commands = append(p.Commands,
		sdk.Stream("probe.echo", "Echoes", func(_ context.Context, c sdk.Call, in text, progress sdk.ProgressFunc) (text, error) {
			c.Log.Info("Called", "user", c.Caller.UserID, "zone", s.Zone)
			if err := progress(50, "half"); err != nil {
				return in, err
			}
			return in, progress(-1, nil)
		}, sdk.Example(text{"a"}, text{"a"})),
		sdk.Handle("probe.ask", "Asks", func(ctx context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
			_, err := c.Host.CountUsers(ctx)
			return struct{}{}, err
		}),
		sdk.Handle("probe.fail", "Fails", func(context.Context, sdk.Call, struct{}) (struct{}, error) {
			return struct{}{}, sdk.Failf("never", "It never works.")
		}),
		sdk.Handle("probe.wait", "Waits", func(ctx context.Context, _ sdk.Call, _ struct{}) (struct{}, error) {
			<-ctx.Done()
			return struct{}{}, ctx.Err()
		}),
	)
	return p
}

func TestByHand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "settings.json")
	if err := os.WriteFile(file, []byte(`{"key":"k","zone":"north"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const key = `--settings={"key":"k"}`
	for _, tt := range []struct {
		args   string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{args: "", code: 2, stderr: "plugin of a Plugboard server"},
		{args: "--help", stdout: "probe.echo"},
		{args: "run --help", stdout: "probe.echo"},
		{args: "version", stdout: "probe 1.0.0\n"},
		{args: "describe", stdout: `"name": "probe.echo"`},
		{args: "serve", code: 2, stderr: `unknown argument "serve"`},
		{args: "run", code: 2, stderr: "want a command"},
		{args: "run --timeout -1s probe", code: 2, stderr: "positive"},
		{args: "run --colour probe", code: 2, stderr: "colour"},
		{args: "run nothing", code: 2, stderr: `no command "nothing"`},
		{args: "run --settings=@/nowhere probe", code: 2, stderr: "read the settings"},
		{args: "run probe", code: 1, stderr: "Settings refused"},
		{args: "run " + key + " probe", stdout: `{"key":"k","retries":3,"wait":"1s"}` + "\n"},
		{args: "run --settings=@" + file + " --user=bob probe.echo -", stdin: "{\"text\":\"x\"}\n", stdout: `{"text":"x"}` + "\n", stderr: `INFO Called {"user":"bob","zone":"north"}`},
		{args: "run " + key + ` probe.echo {"text":"x"}`, stdout: `{"text":"x"}` + "\n", stderr: `progress 50% "half"`},
		{args: "run " + key + ` probe.echo {"text":1}`, code: 1, stderr: "invalid_params"},
		{args: "run " + key + " probe.ask", code: 1, stderr: "there is no server"},
		{args: "run " + key + " probe.fail", code: 1, stderr: `command_failed: It never works. {"code":"never"}`},
		{args: "run --timeout=1ms " + key + " probe.wait", code: 1, stderr: "command_timeout"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code, err := sdk.RunByHand(handPlugin(), strings.Fields(tt.args), strings.NewReader(tt.stdin), &stdout, &stderr)
			if err != nil {
				t.Fatal(err)
			}
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("got status %d\nstdout %q\nstderr %q\nwant %d, %q, %q", code, &stdout, &stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}
