package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

// lookAgain is how long to wait before the server is asked again.
const lookAgain = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newPluginsLock(o *operatorOptions) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Write plugins.lock: exactly what lies in the plugins directory may run",
		Long: `Ask every plugin in the plugins directory what it is, in the sandbox, and write name,
version, hash and grants into plugins.lock beside them. With plugins.trust: locked
the server runs nothing else. A plugin that stood there keeps its grants, a new one
has those that the configuration grants it. Review the file like go.sum.`,
		Example: `  plugboard plugins lock
  plugboard plugins lock --check         # only compare; exit code 1 where they differ`,
		Args: args(0, 0, "plugins lock"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "compare and change nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := openPluginsDir(o)
		if err != nil {
			return err
		}
		if d.lock == nil {
			d.lock = new(lockfile.File)
		}
		before := string(d.lock.Format())
		fresh, err := d.lockAll(cmd)
		if err != nil {
			return err
		}
		after := string(fresh.Format())
		for _, line := range differences(before, after) {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), line)
		}
		switch {
		case before == after:
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "plugins.lock is what lies in the directory")
			return err
		case check:
			return errors.New("plugins.lock is not what lies in the directory; plugboard plugins lock writes it")
		}
		if err := fresh.Save(d.dir); err != nil {
			return err
		}
		return d.follow(cmd, o, func(ctx context.Context, c *admin.Client) error { _, err := c.Reload(ctx); return err })
	}
	return cmd
}

// lockAll asks every plugin what it is.
func (d *pluginsDir) lockAll(cmd *cobra.Command) (*lockfile.File, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("read plugins directory: %w", err)
	}
	fresh := new(lockfile.File)
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 || !authorName.MatchString(e.Name()) {
			continue // the server ignores it, too
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "asking %s\n", e.Name())
		said, err := pluginhost.Inspect(cmd.Context(), path, e.Name(), d.mode)
		if err != nil {
			return nil, err
		}
		if err := fresh.Set(d.entryOf(said, nil, false)); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// differences are the lines that went and came, in the order of names.
func differences(before, after string) []string {
	var lines []string
	has := func(text, line string) bool { return strings.Contains("\n"+text, "\n"+line+"\n") }
	for line := range strings.Lines(before) {
		if line = strings.TrimSuffix(line, "\n"); !has(after, line) {
			lines = append(lines, "- "+line)
		}
	}
	for line := range strings.Lines(after) {
		if line = strings.TrimSuffix(line, "\n"); !has(before, line) {
			lines = append(lines, "+ "+line)
		}
	}
	return lines
}

func newPluginsRollback(o *operatorOptions) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Bring the former version of a plugin back",
		Long: `Have the running server put the version that ran before in the place of the one that
runs; no call is lost. Then its file is put back into the plugins directory, and into
plugins.lock where there is one, so that it also runs after the server's next start.
The server keeps one former version of each plugin for as long as it runs.`,
		Example: `  plugboard plugins rollback weather
  plugboard plugins rollback weather --keep-file   # until the file changes or the server stops`,
		Args: args(1, 1, "plugins rollback weather"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&keep, "keep-file", false, "leave the plugins directory as it is")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		name := given[0]
		d, err := openPluginsDir(o)
		if err != nil {
			return err
		}
		c, err := o.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
		defer cancel()
		v, err := c.Rollback(ctx, name)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s serves again\n", name, printable(v.Version))
		if keep {
			return nil
		}
		part, err := d.bring(v.Path)
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(part) }() // gone already once it is in its place
		if d.lock != nil {
			e, _ := d.lock.Find(name) // grants stay
			if err := d.lock.Set(lockfile.Entry{Name: name, Version: v.Version, SHA256: v.SHA256, Grants: e.Grants}); err != nil {
				return err
			}
			if err := d.lock.Save(d.dir); err != nil {
				return err
			}
		}
		if err := os.Rename(part, filepath.Join(d.dir, name)); err != nil {
			return fmt.Errorf("put plugin into place: %w", err)
		}
		return awaitPlugin(ctx, cmd.ErrOrStderr(), c, name)
	}
	return cmd
}
