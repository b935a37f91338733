package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func newPluginsRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run DIR",
		Short: "Run a plugin on a scratch server, built anew with every change",
		Long: `Build the plugin in DIR and run it on a server of its own, which listens on loopback
and keeps nothing. Whenever a file below DIR is saved the plugin is built again and
takes the place of the version before, without a call being lost; when it does not
build, or the server refuses it, the version before goes on.

DIR is a Go package, an executable file, or with --build anything that a shell
command makes a plugin of; that command finds in $PLUGIN_OUT where to put it. Files
of tests and what looks like the output of a build are not watched.

Lines on stdin run a command and print its result: weather {"city":"Oslo"}. The end
of the input or Ctrl-C ends, and leaves nothing behind.

Without --grant the plugin gets every capability that it asks for; with it, exactly
these. Go packages are built with CGO_ENABLED=0, unless the environment says
otherwise.`,
		Example: `  plugboard plugins run .
  plugboard plugins run ./weather --settings '{"max_days":3}' --grant kv,net
  plugboard plugins run ./rain --build 'cargo build && cp target/debug/rain "$PLUGIN_OUT"'`,
		Args: args(1, 1, "plugins run ."),
	}
	f := cmd.Flags()
	f.StringVar(&o.settings, "settings", "", "the plugin's settings, a JSON object or @FILE")
	f.StringSliceVar(&o.grants, "grant", nil, "what it may ask for and reach, instead of all that it asks for")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback address of the server; port 0 takes a free one")
	f.BoolVar(&o.observe, "observe", false, "let it reach what its sandbox would refuse, and tell")
	f.StringVar(&o.build, "build", "", "shell command, run in DIR, that writes the plugin to $PLUGIN_OUT")
	f.StringVar(&o.name, "name", "", "the plugin's name, where neither it nor DIR tells")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		o.granted = cmd.Flags().Changed("grant")
		return o.run(cmd, given[0])
	}
	return cmd
}

// runOptions are the flags of plugins run.
type runOptions struct {
	settings, listen, build, name string
	grants                        []string
	granted, observe              bool
}

// run checks what was asked for, and works in a directory that it removes.
func (o runOptions) run(cmd *cobra.Command, path string) (err error) {
	if err := checkLoopback(o.listen); err != nil {
		return err
	}
	if o.name != "" {
		if err := checkAuthorName(o.name); err != nil {
			return err
		}
	}
	settings, err := authorSettings(o.settings)
	if err != nil {
		return err
	}
	src, err := findSource(path, o.build)
	if err != nil {
		return err
	}
	// Short: sockets lie in it.
	dir, err := os.MkdirTemp("", "plugboard-run-")
	if err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("find scratch directory: %w", err)
	}
	l := &editLoop{
		o: o, source: src, dir: dir, settings: settings,
		console: &console{out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr()}, in: cmd.InOrStdin(),
	}
	return l.run(cmd.Context())
}

// checkLoopback keeps others away: a scratch server lets everybody register.
func checkLoopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	addr, notIP := netip.ParseAddr(host)
	if err != nil || host != "localhost" && (notIP != nil || !addr.IsLoopback()) {
		return usageError{fmt.Sprintf("--listen must be a loopback address such as 127.0.0.1:8080, not %q: a scratch server lets everybody in", listen)}
	}
	return nil
}

// authorSettings is a JSON object, or that of a file after an @. Numbers stay as they
// are written.
func authorSettings(text string) (map[string]any, error) {
	raw := []byte(text)
	if file, ok := strings.CutPrefix(text, "@"); ok {
		var err error
		if raw, err = os.ReadFile(file); err != nil {
			return nil, usageError{fmt.Sprintf("--settings: %v", err)}
		}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var settings map[string]any
	if err := decoder.Decode(&settings); err != nil || settings == nil || decoder.More() {
		return nil, usageError{`--settings must be one JSON object such as {"max_days":3}, or @ and a file that holds one`}
	}
	return settings, nil
}
