package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		GroupID: groupServer,
		Short:   "Show, check or start a configuration",
		Example: `  plugboard config show                      # every value and where it came from
  plugboard config check plugboard.yaml      # exit code 2 and all problems when it is wrong
  plugboard config example > plugboard.yaml  # every setting, explained`,
	}
	cmd.AddCommand(newConfigShow(), newConfigCheck(), newConfigExample())
	return cmd
}

func newConfigShow() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "show", Short: "Print every value in force and where it came from",
		Example: "  plugboard config show\n  plugboard config show --config /etc/plugboard/plugboard.yaml",
		Args:    args(0, 0, "config show"),
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML, TOML or JSON)")
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := config.Load(config.Options{File: file, Flags: cmd.Flags(), Environ: os.Environ()})
		if err != nil {
			return usageError{err.Error()}
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, v := range loaded.Values() {
			if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", v.Key, v.Value, v.Origin); err != nil {
				return fmt.Errorf("print configuration: %w", err)
			}
		}
		return w.Flush()
	}
	return cmd
}

func newConfigCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Check a configuration file and name every problem",
		Example: "  plugboard config check plugboard.yaml",
		Args:    args(1, 1, "config check plugboard.yaml"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := config.CheckFile(given[0]); err != nil {
				return usageError{err.Error()}
			}
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is good\n", given[0])
			return err
		},
	}
}

func newConfigExample() *cobra.Command {
	return &cobra.Command{
		Use: "example", Short: "Print a file with every setting, its default and its meaning",
		Example: "  plugboard config example > plugboard.yaml",
		Args:    args(0, 0, "config example"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		},
	}
}
