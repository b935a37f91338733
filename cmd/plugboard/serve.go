package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/server"
)

func newServe() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "serve",
		GroupID: groupServer,
		Short:   "Start the server",
		Long: `Start the server. With no configuration at all it listens on 127.0.0.1:8080,
keeps its data in ./data and runs the plugins beside the executable.

Settings come from defaults, a file, the environment and flags, the later ones
winning; plugboard config show prints what is in force and where it came from.
SIGINT and SIGTERM stop it gracefully. SIGHUP reads plugins.settings,
plugins.grants and plugins.access anew and looks at the plugins directory.`,
		Example: `  plugboard serve
  plugboard serve --config /etc/plugboard/plugboard.yaml
  PLUGBOARD_LOG__LEVEL=debug plugboard serve --server.listen 127.0.0.1:9000`,
		Args: args(0, 0, "serve"),
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML, TOML or JSON)")
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := config.Load(config.Options{File: file, Flags: cmd.Flags(), Environ: os.Environ()})
		if err != nil {
			return usageError{err.Error()}
		}
		log, err := newLogger(cmd.ErrOrStderr(), loaded.Config.Log)
		if err != nil {
			return err
		}
		s, err := server.Open(cmd.Context(), loaded.Config, version, log)
		if err != nil {
			return err
		}
		reloads := make(chan os.Signal, 1) // one on its way is as good as many
		signal.Notify(reloads, syscall.SIGHUP)
		defer signal.Stop(reloads)
		ctx, cancel := context.WithCancel(cmd.Context())
		var reloading sync.WaitGroup
		err = s.Run(ctx, func(s *server.Server) {
			reloading.Go(func() {
				followReloads(ctx, reloads, log, s, func() (*config.Loaded, error) {
					return config.Load(config.Options{File: file, Flags: cmd.Flags(), Environ: os.Environ()})
				})
			})
		})
		cancel()
		reloading.Wait()
		return err
	}
	return cmd
}

// reloadTimeout bounds how long a SIGHUP may keep others waiting.
const reloadTimeout = 2 * time.Minute

// followReloads reads the configuration anew at each SIGHUP until ctx ends. One that
// does not validate changes nothing.
func followReloads(ctx context.Context, signals <-chan os.Signal, log zerolog.Logger, s *server.Server, load func() (*config.Loaded, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		loaded, err := load()
		if err == nil {
			timed, cancel := context.WithTimeout(ctx, reloadTimeout)
			err = s.Reload(timed, loaded.Config)
			cancel()
		}
		if err != nil {
			log.Error().Err(err).Msg("Configuration not reloaded, the former one stays in force")
			continue
		}
		log.Info().Msg("Plugin settings, grants, access and directory read anew")
	}
}

// newLogger writes lines for people on a terminal and JSON elsewhere, unless told
// otherwise.
func newLogger(w io.Writer, c config.Log) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("read log.level: %w", err)
	}
	if c.Format == "console" || c.Format == "auto" && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}
