package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/admin"
)

func newPlugins() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plugins",
		GroupID: groupServer,
		Short:   "See, change, write and test plugins",
		Long: `Plugins are executables in the plugins directory. A running server follows what
happens there by itself; these commands show how its plugins are, change the
directory with care, and help to write plugins.

Those that need a running server find it by its data directory, which they learn
as the server does: from --config, the environment, or the default ./data.`,
		Example: `  plugboard plugins list
  plugboard plugins add ./weather        # shows what it asks for first
  plugboard plugins describe weather
  plugboard plugins rollback weather
  plugboard plugins new weather          # begin one of your own`,
		Args: func(_ *cobra.Command, given []string) error {
			if len(given) > 0 {
				return usageError{fmt.Sprintf("plugins has no command %q; plugboard plugins --help shows them", given[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var o operatorOptions
	cmd.AddCommand(
		newPluginsList(&o), newPluginsDescribe(&o), newPluginsAdd(&o), newPluginsRemove(&o), newPluginsLock(&o),
		newPluginsReload(&o), newPluginsReset(&o), newPluginsRollback(&o), newPluginsVerify(),
	)
	addAuthorCommands(cmd)
	return cmd
}

// operatorOptions say whose operator this is.
type operatorOptions struct {
	file    string
	dataDir string
}

// bind adds the flags by which a server is found.
func (o *operatorOptions) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.file, "config", "", "configuration file of the server")
	cmd.Flags().StringVar(&o.dataDir, "data-dir", "", "data directory of the server (data_dir)")
}

// load reads the server's configuration as the server does.
func (o *operatorOptions) load() (config.Config, error) {
	environ := os.Environ()
	if o.dataDir != "" {
		environ = append(environ, "PLUGBOARD_DATA_DIR="+o.dataDir)
	}
	loaded, err := config.Load(config.Options{File: o.file, Environ: environ})
	if err != nil {
		return config.Config{}, usageError{err.Error()}
	}
	return loaded.Config, nil
}

// connect finds the running server; admin.ErrNoServer where none runs.
func (o *operatorOptions) connect() (*admin.Client, error) {
	cfg, err := o.load()
	if err != nil {
		return nil, err
	}
	return admin.Dial(cfg.DataDir)
}

// orderTimeout bounds an order to the server, with the starts and drains that follow
// from it.
const orderTimeout = 2 * time.Minute

// printDocument is for programs.
func printDocument(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newPluginsReload(o *operatorOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server look at the plugins directory now",
		Long: `Have the server look at the plugins directory now, and wait until what it found
serves or has failed. It looks by itself whenever something changes; this is for
being sure, and for trying a file again that did not start.`,
		Example: `  plugboard plugins reload`,
		Args:    args(0, 0, "plugins reload"),
	}
	o.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := o.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
		defer cancel()
		overview, err := c.Reload(ctx)
		if err != nil {
			return err
		}
		return printPlugins(cmd.OutOrStdout(), overview.Plugins)
	}
	return cmd
}

func newPluginsReset(o *operatorOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Give a plugin a clean slate and a new process",
		Long: `Take a plugin out of quarantine, failure or a roll-back and start it from its file
as it is now. What runs goes on until the new process is ready.`,
		Example: `  plugboard plugins reset weather`,
		Args:    args(1, 1, "plugins reset weather"),
	}
	o.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		c, err := o.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
		defer cancel()
		if err := c.Reset(ctx, given[0]); err != nil {
			return err
		}
		return awaitPlugin(ctx, cmd.ErrOrStderr(), c, given[0])
	}
	return cmd
}

// awaitPlugin has the server look at the directory, and tells how a plugin is when
// nothing is under way any more. One that is not as its file would have it is an error.
func awaitPlugin(ctx context.Context, w io.Writer, c *admin.Client, name string) error {
	if _, err := c.Reload(ctx); err != nil {
		return err
	}
	p, err := c.Plugin(ctx, name)
	if err != nil {
		return err
	}
	if p.State != "ready" {
		return fmt.Errorf("plugin %s is %s: %s", name, p.State, p.Error)
	}
	if p.Error != "" {
		return fmt.Errorf("plugin %s: %s", name, p.Error)
	}
	_, err = fmt.Fprintf(w, "%s %s serves, %d commands, sandbox %s\n", name, printable(p.Version), len(p.Commands), p.Sandbox)
	return err
}

// serverOf is the running server, or nil where none runs: then what is changed in
// the directory takes effect at the next start.
func (o *operatorOptions) serverOf() (*admin.Client, error) {
	c, err := o.connect()
	if errors.Is(err, admin.ErrNoServer) {
		return nil, nil
	}
	return c, err
}
