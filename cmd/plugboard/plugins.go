package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/admin"
)

func newPlugins() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plugins",
		GroupID: groupServer,
		Short:   "See, add, change, lock and write plugins",
		Long: `See what the plugins of a running server do, change what lies in its plugins
directory, and write plugins.

The server is found through its data directory, so these commands take the same
configuration as serve: plugboard.yaml, PLUGBOARD_… and flags. Only root and the
server's own user can give it orders. A server writes nothing into the plugins
directory; add, remove, lock and rollback do, as whoever runs them.`,
		Example: `  plugboard plugins list                     # what runs, and what does not
  plugboard plugins describe weather         # all there is to know of one
  plugboard plugins add ./weather            # look at it, then put it into place
  plugboard plugins rollback weather         # back to the version before
  plugboard plugins new weather              # write one`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Sprintf("unknown command %q for %q", given[0], cmd.CommandPath())}
		},
	}
	cmd.AddCommand(
		newPluginsList(), newPluginsDescribe(), newPluginsAdd(), newPluginsRemove(), newPluginsLock(),
		newPluginsReload(), newPluginsReset(), newPluginsRollback(), newPluginsVerify(),
	)
	addAuthorCommands(cmd)
	return cmd
}

// operatorOptions say which server is meant.
type operatorOptions struct {
	file    string
	socket  string
	timeout time.Duration
}

// The settings that say where a server and its plugins are.
var (
	whereServer  = []string{"data_dir"}
	wherePlugins = []string{"data_dir", "plugins.dir", "plugins.trust", "plugins.sandbox"}
)

// bind adds the flags by which a server is found. Those of the other settings are
// there, too, so that the command line of serve can be taken over, but hardly
// anybody needs them here.
func (o *operatorOptions) bind(cmd *cobra.Command, shown []string) {
	f := cmd.Flags()
	f.StringVar(&o.file, "config", "", "the server's configuration file (YAML, TOML or JSON)")
	f.StringVar(&o.socket, "socket", "", "the server's socket, instead of "+admin.SocketName+" in its data directory")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait for the server and its plugins")
	settings := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	config.AddFlags(settings)
	settings.VisitAll(func(s *pflag.Flag) {
		s.Hidden = !slices.Contains(shown, s.Name)
		f.AddFlag(s)
	})
}

// load reads the configuration as serve does.
func (o *operatorOptions) load(cmd *cobra.Command) (config.Config, error) {
	loaded, err := config.Load(config.Options{File: o.file, Flags: cmd.Flags(), Environ: os.Environ()})
	if err != nil {
		return config.Config{}, usageError{err.Error()}
	}
	return loaded.Config, nil
}

// dial finds the server. It may turn out later that none runs: admin.ErrNoServer.
func (o *operatorOptions) dial(cmd *cobra.Command) (*admin.Client, error) {
	if o.socket != "" {
		if filepath.Base(o.socket) != admin.SocketName {
			return nil, usageError{fmt.Sprintf("--socket must be the path of an %s, not %q", admin.SocketName, o.socket)}
		}
		return admin.Dial(filepath.Dir(o.socket))
	}
	cfg, err := o.load(cmd)
	if err != nil {
		return nil, err
	}
	return admin.Dial(cfg.DataDir)
}

// with runs fn with the server, within the time that --timeout leaves it.
func (o *operatorOptions) with(cmd *cobra.Command, fn func(context.Context, *admin.Client) error) error {
	c, err := o.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	return fn(ctx, c)
}

// say tells a person what happens.
func say(cmd *cobra.Command, format string, values ...any) {
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", values...) // what is done is done, whether it is read or not
}

// isProblem reports whether the server refused with this code.
func isProblem(err error, code string) bool {
	p, ok := errors.AsType[*admin.Problem](err)
	return ok && p.Code == code
}

// The states that the commands tell apart (docs/plugin.md §3).
const (
	stateReady    = "ready"
	stateStarting = "starting"
	stateStopped  = "stopped"
)

// whyNot is why a plugin does not run as its file would have it.
func whyNot(p *admin.Plugin) string {
	switch {
	case p.RolledBack != "":
		return p.RolledBack
	case p.Error != "":
		return p.Error
	}
	return "it is " + p.State
}

// tellState says that a plugin runs, with this hash unless it is "", or fails with
// the reason why it does not.
func tellState(cmd *cobra.Command, p *admin.Plugin, sum string) error {
	if p.State != stateReady || sum != "" && p.SHA256 != sum {
		why := fmt.Errorf("%s is not running as its file is now: %s", p.Name, whyNot(p))
		if p.State == stateReady {
			return fmt.Errorf("%w; version %s goes on until the server stops", why, p.Version)
		}
		return why
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s is ready (pid %d, sandbox %s)\n", p.Name, printable(p.Version), p.PID, p.Sandbox)
	return err
}
