package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/sdk/sdktest/conformance"
)

func newPluginsVerify() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Hold plugins, in whatever language, against the plugin contract",
		Long: `Start plugins as a server does, in the sandbox, and hold what they do against the
plugin contract: handshake, description, schemas against real calls, cancellation,
deadlines, concurrency, large messages, signals, a clean stop. No server is needed.

Commands are called with the params of their examples or, where they are read-only,
with params made from their schema; what is marked destructive is never called. The
exit code is 1 when a check fails.`,
		Example: `  plugboard plugins verify ./weather
  plugboard plugins verify ./weather --settings '{"city":"Oslo"}' --grant net
  plugboard plugins verify ./weather --only drain,stop
  plugboard plugins verify build/* --json | jq -r '.checks[] | select(.outcome == "fail") | .id'`,
		Args: func(_ *cobra.Command, given []string) error {
			if len(given) == 0 {
				return usageError{"plugins verify takes one file or more, for example: plugboard plugins verify ./weather"}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "the plugin's name, where the file has another")
	f.StringVar(&o.settings, "settings", "", "settings for the plugin: a JSON object, or @ and a file with one")
	f.StringSliceVar(&o.grants, "grant", nil, "what its process may reach: net, read:/path, write:/path, exec:/path")
	f.StringVar(&o.mode, "sandbox", string(sandbox.Auto), "auto, require or off, as plugins.sandbox")
	f.StringSliceVar(&o.only, "only", nil, "make only these checks, for example drain,stop")
	f.BoolVar(&o.asJSON, "json", false, "one JSON object a line and file")
	f.BoolVar(&o.verbose, "verbose", false, "show what the plugins print")
	f.DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long one plugin may take")
	cmd.RunE = func(cmd *cobra.Command, given []string) error { return o.run(cmd, given) }
	return cmd
}

// verifyOptions say how plugins are held against the contract.
type verifyOptions struct {
	name, settings, mode string
	grants, only         []string
	asJSON, verbose      bool
	timeout              time.Duration
}

func (o *verifyOptions) run(cmd *cobra.Command, files []string) error {
	if o.name != "" && len(files) > 1 {
		return usageError{"--name is for one file"}
	}
	for _, id := range o.only {
		if !slices.Contains(conformance.IDs(), id) {
			return usageError{fmt.Sprintf("--only has %q, which is no check; want %s", id, strings.Join(conformance.IDs(), ", "))}
		}
	}
	var settings []byte
	if o.settings != "" {
		object, err := authorSettings(o.settings)
		if err != nil {
			return err
		}
		if settings, err = json.Marshal(object); err != nil {
			return fmt.Errorf("encode settings: %w", err)
		}
	}
	start, err := o.start()
	if err != nil {
		return err
	}
	bad := 0
	for _, file := range files {
		report, err := o.verify(cmd, conformance.Options{Path: file, Name: o.name, Settings: settings, Command: start, Only: o.only})
		if err != nil {
			return err
		}
		if !report.OK() {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d plugins do not keep the contract", bad, len(files))
	}
	return nil
}

// start is how a plugin is put into the sandbox; nil starts it plainly.
func (o *verifyOptions) start() (func(path, dir string) (*exec.Cmd, error), error) {
	support := sandbox.Detect()
	switch mode := sandbox.Mode(o.mode); {
	case mode != sandbox.Auto && mode != sandbox.Require && mode != sandbox.Off:
		return nil, usageError{fmt.Sprintf("--sandbox must be auto, require or off, not %q", o.mode)}
	case mode == sandbox.Require && support.Level != sandbox.Full:
		return nil, fmt.Errorf("--sandbox is require, but this machine cannot confine %s", strings.Join(support.Missing, ", "))
	case mode == sandbox.Off, support.Level == sandbox.None:
		return nil, nil
	}
	if _, err := sandbox.PolicyFor("/", "/", o.grants); err != nil {
		return nil, usageError{err.Error()}
	}
	return func(path, dir string) (*exec.Cmd, error) {
		policy, err := sandbox.PolicyFor(path, dir, o.grants)
		if err != nil {
			return nil, err
		}
		name := o.name
		if name == "" {
			name = path[strings.LastIndexByte(path, '/')+1:]
		}
		c, err := sandbox.Launch(policy, name)
		if err != nil {
			return nil, err
		}
		return &exec.Cmd{Path: c.Path, Args: c.Args, Env: c.Env}, nil
	}, nil
}

// verify runs the suite over one file and prints what it found.
func (o *verifyOptions) verify(cmd *cobra.Command, suite conformance.Options) (*conformance.Report, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	out := cmd.OutOrStdout()
	if o.verbose {
		suite.Output = cmd.ErrOrStderr() // the suite has made it printable
	}
	if !o.asJSON { // as it goes: a run takes a while
		suite.OnCheck = func(c conformance.Check) {
			_, _ = fmt.Fprintln(out, c) // the summary below tells of a reader that is gone
		}
	}
	report, err := conformance.Run(ctx, suite)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w; --timeout gives it longer than %v", err, o.timeout)
		}
		return nil, err
	}
	if o.asJSON {
		return report, json.NewEncoder(out).Encode(report)
	}
	_, err = fmt.Fprintln(out, report.Summary())
	return report, err
}
