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
The server keeps one former version of each plugin for as long as it runs.

With plugins.trust: locked the file and its line in plugins.lock decide what runs, so
there they are what is changed, and --keep-file cannot be.`,
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
		v, err := d.switchBack(ctx, c, name, keep)
		if err != nil {
			return err
		}
		if keep {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s serves again\n", name, printable(v.Version))
			return err
		}
		if err := d.putBack(name, v); err != nil {
			return fmt.Errorf("put the file of %s %s back: %w", name, v.Version, err)
		}
		if err := awaitPlugin(ctx, cmd.ErrOrStderr(), c, name); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s serves again\n", name, printable(v.Version))
		return err
	}
	return cmd
}

// switchBack has the server run the former version, and says which that is. With
// locked trust it only says which: there the server would refuse what the lock does
// not name, and ends what the lock no longer names, so the file has to change first.
func (d *pluginsDir) switchBack(ctx context.Context, c *admin.Client, name string, keep bool) (v admin.Version, err error) {
	overview, err := c.Overview(ctx)
	if err != nil {
		return v, err
	}
	if overview.Trust != pluginhost.TrustLocked {
		return c.Rollback(ctx, name)
	}
	if keep {
		return v, usageError{"--keep-file cannot be with plugins.trust: locked, where the file and its line in plugins.lock decide what runs"}
	}
	p, err := c.Plugin(ctx, name)
	if err != nil {
		return v, err
	}
	if p.Former == nil {
		return v, fmt.Errorf("roll plugin %q back: no former version is kept", name)
	}
	return *p.Former, nil
}

// putBack puts the server's copy of a version into the plugins directory, and into
// plugins.lock, with its grants as they were. The hash is compared because whoever
// runs this may read more than the server may.
func (d *pluginsDir) putBack(name string, v admin.Version) error {
	part, sum, err := d.bring(v.Path)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part) }() // gone already once it is in its place
	if sum != v.SHA256 {
		return fmt.Errorf("%s has sha256 %s, want %s", v.Path, sum, v.SHA256)
	}
	var line *lockfile.Entry
	if d.lock != nil {
		e, _ := d.lock.Find(name) // grants stay
		line = &lockfile.Entry{Name: name, Version: v.Version, SHA256: v.SHA256, Grants: e.Grants}
	}
	return d.place(part, name, line)
}
