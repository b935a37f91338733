package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

func newPluginsAdd(o *operatorOptions) *cobra.Command {
	var name string
	var yes bool
	var grants []string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Put a plugin into the plugins directory, or a new version in its place",
		Long: `Run a plugin in the sandbox to ask what it is, show what it asks for, and, if you
agree, put it into the plugins directory. A running server takes it up at once; a
version that runs goes on until the new one is ready, and no call is lost.

Where there is a plugins.lock, or plugins.trust is locked, the plugin is written
into it with its hash and the grants you name.`,
		Example: `  plugboard plugins add ./weather
  plugboard plugins add ./build/weather-1.3 --name weather --yes
  plugboard plugins add ./weather --grant kv,net          # into plugins.lock`,
		Args: args(1, 1, "plugins add ./weather"),
	}
	o.bind(cmd)
	cmd.Flags().StringVar(&name, "name", "", "the plugin's name, where the file has another")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringSliceVar(&grants, "grant", nil, "what plugins.lock grants it; without, what it had there before")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if name == "" {
			name = filepath.Base(given[0])
		}
		if err := checkAuthorName(name); err != nil {
			return err
		}
		d, err := openPluginsDir(o)
		if err != nil {
			return err
		}
		part, _, err := d.bring(given[0])
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(part) }() // gone already once it is in its place
		said, err := pluginhost.Inspect(cmd.Context(), part, name, d.mode)
		if err != nil {
			return err
		}
		d.show(cmd.ErrOrStderr(), said)
		d.compare(cmd.Context(), cmd.ErrOrStderr(), said)
		if err := confirm(cmd, yes, "Add it?"); err != nil {
			return err
		}
		if err := d.place(part, name, d.lineFor(said, grants, cmd.Flags().Changed("grant"))); err != nil {
			return err
		}
		return d.follow(cmd, o, func(ctx context.Context, c *admin.Client) error { return awaitPlugin(ctx, cmd.ErrOrStderr(), c, name) })
	}
	return cmd
}

func newPluginsRemove(o *operatorOptions) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a plugin out of the plugins directory",
		Long: `Delete a plugin's file and its line in plugins.lock. A running server lets its calls
in flight come to their end. What it kept in the server's store stays.`,
		Example: `  plugboard plugins remove weather`,
		Args:    args(1, 1, "plugins remove weather"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		name := given[0]
		if err := checkAuthorName(name); err != nil {
			return err
		}
		d, err := openPluginsDir(o)
		if err != nil {
			return err
		}
		path := filepath.Join(d.dir, name)
		if _, err := os.Lstat(path); err != nil {
			return fmt.Errorf("remove plugin: %w", err)
		}
		if err := confirm(cmd, yes, "Remove "+path+"?"); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove plugin: %w", err)
		}
		if d.lock != nil && d.lock.Remove(name) {
			if err := d.lock.Save(d.dir); err != nil {
				return err
			}
		}
		return d.follow(cmd, o, func(ctx context.Context, c *admin.Client) error { return awaitGone(ctx, cmd.ErrOrStderr(), c, name) })
	}
	return cmd
}

// pluginsDir is the plugins directory as an operator changes it: the server itself
// never writes there.
type pluginsDir struct {
	dir    string
	mode   sandbox.Mode
	lock   *lockfile.File // nil where there is none
	locked bool           // plugins.trust is locked
	grants map[string][]string
}

func openPluginsDir(o *operatorOptions) (*pluginsDir, error) {
	cfg, err := o.load()
	if err != nil {
		return nil, err
	}
	return pluginsDirOf(cfg)
}

func pluginsDirOf(cfg config.Config) (*pluginsDir, error) {
	d := &pluginsDir{dir: cfg.Plugins.Dir, mode: sandbox.Mode(cfg.Plugins.Sandbox), locked: cfg.Plugins.Trust == pluginhost.TrustLocked, grants: cfg.Plugins.Grants}
	info, err := os.Stat(d.dir)
	if err != nil {
		return nil, fmt.Errorf("open plugins directory: %w (plugins.dir names it)", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open plugins directory: %s is no directory (plugins.dir names it)", d.dir)
	}
	d.lock, err = lockfile.Load(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		d.lock, err = nil, nil
	}
	return d, err
}

// bring copies a file into the plugins directory, out of the server's sight, and
// hashes what it copied.
func (d *pluginsDir) bring(file string) (path, sum string, err error) {
	from, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("add plugin: %w", err)
	}
	defer func() { _ = from.Close() }() // read-only: nothing is lost
	if info, err := from.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return "", "", fmt.Errorf("add plugin: %s is not a regular, executable file", file)
	}
	part, err := os.CreateTemp(d.dir, ".add-")
	if err != nil {
		return "", "", fmt.Errorf("add plugin: %w", err)
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(part, hash), from)
	if err == nil {
		err = part.Chmod(0o755)
	}
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return "", "", errors.Join(fmt.Errorf("add plugin: %w", err), os.Remove(part.Name()))
	}
	return part.Name(), hex.EncodeToString(hash.Sum(nil)), nil
}

// place moves what bring brought to its name, and writes its line into plugins.lock,
// nil for none. The file comes first: a server with locked trust lets the version that
// runs go on beside a file that is not in the lock, but ends one that the lock no
// longer names.
func (d *pluginsDir) place(part, name string, line *lockfile.Entry) error {
	if line != nil {
		if d.lock == nil {
			d.lock = new(lockfile.File)
		}
		if err := d.lock.Set(*line); err != nil { // before anything has changed
			return err
		}
	}
	if err := os.Rename(part, filepath.Join(d.dir, name)); err != nil {
		return fmt.Errorf("put plugin into place: %w", err)
	}
	if line == nil {
		return nil
	}
	return d.lock.Save(d.dir)
}

// show says what is about to be added, and how that differs from what was reviewed.
func (d *pluginsDir) show(w io.Writer, said core.PluginDetail) {
	_, _ = fmt.Fprintf(w, "%s %s – %s\n", said.Name, printable(said.Version), printable(said.Summary))
	for _, c := range said.Commands {
		_, _ = fmt.Fprintf(w, "  command   %s – %s\n", printable(c.Name), printable(c.Summary))
	}
	_, _ = fmt.Fprintf(w, "  asks for  %s\n", orDash(printable(strings.Join(said.Needs, ", "))))
	_, _ = fmt.Fprintf(w, "  sha256    %s\n", said.SHA256)
	if d.lock != nil {
		if before, ok := d.lock.Find(said.Name); ok {
			_, _ = fmt.Fprintf(w, "  replaces  %s, which plugins.lock grants %s\n", before.Version, orDash(strings.Join(before.Grants, ", ")))
		}
	}
}

// compare tells what changes with a new version, for those who add one over another.
func (d *pluginsDir) compare(ctx context.Context, w io.Writer, said core.PluginDetail) {
	path := filepath.Join(d.dir, said.Name)
	if _, err := os.Stat(path); err != nil {
		return
	}
	former, err := pluginhost.Inspect(ctx, path, said.Name, d.mode)
	if err != nil {
		_, _ = fmt.Fprintf(w, "  in place  a file that does not say what it is: %s\n", printable(err.Error()))
		return
	}
	_, _ = fmt.Fprintf(w, "  in place  %s\n", printable(former.Version))
	for _, line := range offerChanges(former, said) {
		_, _ = fmt.Fprintf(w, "  changes   %s\n", printable(line))
	}
}

// offerChanges are the differences between two versions that an operator decides on.
func offerChanges(former, next core.PluginDetail) []string {
	if former.SHA256 == next.SHA256 {
		return []string{"none: it is the same file"}
	}
	names := func(d core.PluginDetail) []string {
		all := make([]string, 0, len(d.Commands))
		for _, c := range d.Commands {
			all = append(all, c.Name)
		}
		return all
	}
	var lines []string
	tell := func(what string, from, in []string) {
		for _, s := range from {
			if !slices.Contains(in, s) {
				lines = append(lines, what+" "+s)
			}
		}
	}
	tell("newly asks for", next.Needs, former.Needs)
	tell("no longer asks for", former.Needs, next.Needs)
	tell("adds command", names(next), names(former))
	tell("drops command", names(former), names(next))
	return lines
}

// lineFor is a plugin's line in plugins.lock, nil where there is none to be.
func (d *pluginsDir) lineFor(said core.PluginDetail, grants []string, given bool) *lockfile.Entry {
	if d.lock == nil && !d.locked && !given {
		return nil
	}
	line := d.entryOf(said, grants, given)
	return &line
}

// find is a plugin's line, where there is a lock and it stands there.
func (d *pluginsDir) find(name string) (lockfile.Entry, bool) {
	if d.lock == nil {
		return lockfile.Entry{}, false
	}
	return d.lock.Find(name)
}

// entryOf is a plugin's line. Without a word on grants it keeps those of the line
// before, or takes from the configuration what the plugin asks for.
func (d *pluginsDir) entryOf(said core.PluginDetail, grants []string, given bool) lockfile.Entry {
	if !given {
		if before, ok := d.find(said.Name); ok {
			grants = before.Grants
		} else {
			for _, g := range d.grants[said.Name] {
				if slices.Contains(said.Needs, g) || strings.Contains(g, ":") || g == "net" {
					grants = append(grants, g)
				}
			}
		}
	}
	return lockfile.Entry{Name: said.Name, Version: said.Version, SHA256: said.SHA256, Grants: grants}
}

// follow has a running server take up what was changed.
func (d *pluginsDir) follow(cmd *cobra.Command, o *operatorOptions, await func(context.Context, *admin.Client) error) error {
	c, err := o.serverOf()
	if err != nil {
		return err
	}
	if c == nil {
		_, err := fmt.Fprintln(cmd.ErrOrStderr(), "no server runs; it takes effect at the next start")
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
	defer cancel()
	err = await(ctx, c)
	if errors.Is(err, admin.ErrNoServer) {
		_, err = fmt.Fprintln(cmd.ErrOrStderr(), "no server runs; it takes effect at the next start")
	}
	return err
}

// awaitGone waits until the server has let go of a plugin. A file counts as removed
// after a moment only, so the server is asked more than once.
func awaitGone(ctx context.Context, w io.Writer, c *admin.Client, name string) error {
	for {
		if _, err := c.Reload(ctx); err != nil {
			return err
		}
		_, err := c.Plugin(ctx, name)
		if p, ok := errors.AsType[*admin.Problem](err); ok && p.Code == "not_found" {
			_, err := fmt.Fprintf(w, "%s is gone\n", name)
			return err
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, lookAgain); err != nil {
			return err
		}
	}
}

// confirm asks a person; who cannot be asked has to say --yes.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usageError{"there is nobody to ask; --yes goes ahead"}
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	if word := strings.ToLower(strings.TrimSpace(line)); word != "y" && word != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
