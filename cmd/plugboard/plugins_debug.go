package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/admin"
)

const debugSteps = `A plugin under a debugger takes two steps, in two shells.

1. Start it under the debugger with the argument debug, in the directory of its
   sources. It prints the command line of the second step.

     dlv debug . -- debug

2. Have the running server attach it, with what was printed:

     plugboard plugins debug %[1]s --address /tmp/plugboard-debug-123/plugin456 --pid 789

While it is attached, the commands of %[1]s run there, and nothing is timed: a
breakpoint may stand for as long as you like. Ctrl-C in the second shell has the file
in the plugins directory serve again, where there is one.
`

func newPluginsDebug() *cobra.Command {
	var at admin.Attachment
	var file, dataDir string
	cmd := &cobra.Command{
		Use:   "debug NAME",
		Short: "Have a running server attach a plugin that runs under a debugger",
		Long: `Have a running server send the calls of a plugin to a process that you started,
under a debugger for example, until Ctrl-C or until that process ends. The plugin
prints the whole command line when it is started with the argument debug; without
--address this command explains the steps.`,
		Example: `  dlv debug ./weather -- debug
  plugboard plugins debug weather --address /tmp/plugboard-debug-123/plugin456 --pid 789`,
		Args: args(1, 1, "plugins debug weather"),
	}
	f := cmd.Flags()
	f.StringVar(&at.Address, "address", "", "socket that the plugin listens on, as it printed it")
	f.StringVar(&at.Network, "network", "unix", "network of the address; unix is the only one")
	f.IntVar(&at.PID, "pid", 0, "the plugin's process, so that its end is noticed")
	f.StringVar(&file, "config", "", "the server's configuration file, which says where its data is")
	f.StringVar(&dataDir, "data_dir", "", "the server's data directory, instead of what its configuration says")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if err := checkAuthorName(given[0]); err != nil {
			return err
		}
		if at.Address == "" {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), debugSteps, given[0]) // the error follows all the same
			return usageError{"--address is missing"}
		}
		if at.Network != "unix" {
			return usageError{fmt.Sprintf("--network must be unix, not %q", at.Network)}
		}
		if !isAlive(at) {
			return usageError{fmt.Sprintf("no plugin listens on %s; start it with the argument debug, it prints where", at.Address)}
		}
		server, err := dialOperator(file, dataDir)
		if err != nil {
			return err
		}
		defer server.Close()
		return attached(cmd, server, given[0], at)
	}
	return cmd
}

// dialOperator finds the server that has this configuration, or this data directory.
func dialOperator(file, dataDir string) (*admin.Client, error) {
	if dataDir == "" {
		loaded, err := config.Load(config.Options{File: file, Environ: os.Environ()})
		if err != nil {
			return nil, usageError{err.Error()}
		}
		dataDir = loaded.Config.DataDir
	}
	return admin.Dial(dataDir)
}

const (
	// detachTimeout is how long the file's plugin may take to be back.
	detachTimeout = 30 * time.Second
	// aliveInterval is how often the plugin's process is looked at.
	aliveInterval = 500 * time.Millisecond
)

// attached attaches the plugin and stays until it ends or the person wishes.
func attached(cmd *cobra.Command, server *admin.Client, name string, at admin.Attachment) error {
	ctx := cmd.Context()
	say := func(format string, values ...any) {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", values...) // the state is the server's, not the terminal's
	}
	if err := server.Attach(ctx, name, at); err != nil {
		return err
	}
	say("%s is attached, nothing is timed; Ctrl-C detaches it", name)
	look := time.NewTicker(aliveInterval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			detaching, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTimeout)
			defer cancel()
			if err := server.Detach(detaching, name); err != nil {
				return fmt.Errorf("%s is still attached: %w", name, err)
			}
			say("%s is detached", name)
			return nil
		case <-look.C:
			if !isAlive(at) {
				say("%s has ended, and so it is no longer attached", name)
				return nil
			}
		}
	}
}

// isAlive reports whether the plugin may still be there: its socket is, which it
// removes at its end, and its process, where that is known. Connecting would wake
// nobody up while a breakpoint stands, and pile up.
func isAlive(at admin.Attachment) bool {
	if info, err := os.Stat(at.Address); err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	return at.PID <= 0 || !errors.Is(syscall.Kill(at.PID, 0), syscall.ESRCH)
}
