package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

func newPluginsList(o *operatorOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show how the server's plugins are",
		Example: `  plugboard plugins list
  plugboard plugins list --json | jq '.plugins[] | select(.state != "ready")'`,
		Args: args(0, 0, "plugins list"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "everything that is known, as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := o.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
		defer cancel()
		overview, err := c.Overview(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return printDocument(cmd.OutOrStdout(), overview)
		}
		if len(overview.Plugins) == 0 {
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "no plugins in %s; plugboard plugins add FILE adds one\n", overview.Dir)
			return err
		}
		return printPlugins(cmd.OutOrStdout(), overview.Plugins)
	}
	return cmd
}

// maxShownError keeps a line of the table a line.
const maxShownError = 60

// printPlugins is the table for people.
func printPlugins(out io.Writer, plugins []admin.Plugin) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tVERSION\tSTATE\tPID\tSANDBOX\tCALLS\tCRASHES\tUP\tNOTE") // Flush below tells
	for _, p := range plugins {
		pid, up := "-", "-"
		if p.PID != 0 {
			pid, up = fmt.Sprint(p.PID), time.Since(p.Since).Round(time.Second).String()
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, orDash(printable(p.Version)), stateOf(p), pid, orDash(p.Sandbox),
			p.InFlight, p.Crashes, up, shortened(printable(p.Error)))
	}
	return w.Flush()
}

func stateOf(p admin.Plugin) string {
	switch {
	case p.Attached:
		return p.State + " (debugger)"
	case p.RolledBack != "":
		return p.State + " (rolled back)"
	}
	return p.State
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func shortened(s string) string {
	if r := []rune(s); len(r) > maxShownError {
		return string(r[:maxShownError-1]) + "…"
	}
	return s
}

func newPluginsDescribe(o *operatorOptions) *cobra.Command {
	var asJSON, dump bool
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show everything about one plugin",
		Long: `Show what a plugin is, what it asks for and has been granted, how it is confined,
and how it ended before: exit status, last lines of stderr, calls in flight.`,
		Example: `  plugboard plugins describe weather
  plugboard plugins describe weather --dump     # with the goroutines of one that hung`,
		Args: args(1, 1, "plugins describe weather"),
	}
	o.bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&dump, "dump", false, "show what hung plugins said of their goroutines")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		c, err := o.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), orderTimeout)
		defer cancel()
		p, err := c.Plugin(ctx, given[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printDocument(cmd.OutOrStdout(), p)
		}
		overview, err := c.Overview(ctx)
		if err != nil {
			return err
		}
		cfg, err := o.load()
		if err != nil {
			return err
		}
		return printPlugin(cmd.OutOrStdout(), p, howToGrant(p, cfg.Plugins, overview.Trust), dump)
	}
	return cmd
}

func printPlugin(out io.Writer, p admin.Plugin, grant string, dump bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) // Flush below tells
		}
	}
	row("name", p.Name)
	row("version", p.Version)
	row("summary", p.Summary)
	row("state", stateOf(p))
	row("note", p.Error)
	row("rolled back", p.RolledBack)
	row("file", p.File)
	row("sha256", p.SHA256)
	if p.PID != 0 {
		row("process", fmt.Sprintf("%d, ready since %s", p.PID, p.Since.Local().Format(time.DateTime)))
	}
	row("starts", fmt.Sprintf("%d, of which %d ended in a crash", p.Starts, p.Crashes))
	row("sandbox", p.Sandbox)
	row("not confined", strings.Join(p.SandboxMissing, ", "))
	row("homepage", p.Homepage)
	row("license", p.License)
	row("asks for", orDash(strings.Join(p.Needs, ", ")))
	row("granted", orDash(strings.Join(p.Grants, ", ")))
	row("to grant all", grant)
	if p.Former != nil {
		row("former", p.Former.Version+" (plugboard plugins rollback "+p.Name+" brings it back)")
	}
	for _, c := range p.Commands {
		row("command "+c.Name, c.Summary+commandMarks(c))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range p.History {
		printCrash(out, c, dump)
	}
	return nil
}

// missingGrants are capabilities that it asks for, or asked the server for at work,
// and does not have.
func missingGrants(p admin.Plugin) []string {
	var missing []string
	for _, need := range append(slices.Clone(p.Needs), p.Wanted...) {
		if !slices.Contains(p.Grants, need) && !slices.Contains(missing, need) {
			missing = append(missing, need)
		}
	}
	return missing
}

// howToGrant is the line that would grant a plugin what it misses beside what it has,
// or "" where it misses nothing: in plugins.lock where that decides, else in the
// configuration, which may also grant what is no capability, such as files.
func howToGrant(p admin.Plugin, c config.Plugins, trust string) string {
	missing := missingGrants(p)
	if len(missing) == 0 {
		return ""
	}
	named := c.Grants[p.Name]
	if trust != pluginhost.TrustLocked {
		return configLine(p.Name, slices.Concat(p.Grants, named, missing))
	}
	var before lockfile.Entry
	if lock, err := lockfile.Load(c.Dir); err == nil {
		before, _ = lock.Find(p.Name)
	}
	var one lockfile.File
	line := lockfile.Entry{Name: p.Name, Version: p.Version, SHA256: p.SHA256, Grants: slices.Concat(p.Grants, before.Grants, missing)}
	if err := one.Set(line); err != nil {
		return configLine(p.Name, slices.Concat(p.Grants, named, missing)) // attached: no file, and so no line
	}
	_, text, _ := strings.Cut(strings.TrimSpace(string(one.Format())), "\n")
	text = "in " + lockfile.Name + ": " + text
	if _, ok := c.Grants[p.Name]; ok { // then both have to grant it
		text += "; in the configuration: " + configLine(p.Name, slices.Concat(named, missing))
	}
	return text
}

func configLine(name string, grants []string) string {
	slices.Sort(grants)
	return fmt.Sprintf("plugins.grants.%s: [%s]", name, strings.Join(slices.Compact(grants), ", "))
}

func commandMarks(c admin.Command) string {
	var marks []string
	for mark, is := range map[string]bool{"streaming": c.Streaming, "idempotent": c.Idempotent, "read-only": c.ReadOnly, "destructive": c.Destructive} {
		if is {
			marks = append(marks, mark)
		}
	}
	if len(marks) == 0 {
		return ""
	}
	slices.Sort(marks)
	return " (" + strings.Join(marks, ", ") + ")"
}

func printCrash(w io.Writer, c admin.Crash, dump bool) {
	_, _ = fmt.Fprintf(w, "\n%s at %s, version %s, up for %v: %s\n", c.How, c.At.Local().Format(time.DateTime), printable(c.Version),
		(time.Duration(c.UptimeMS) * time.Millisecond).Round(time.Millisecond), c.Status)
	for _, call := range c.Calls {
		_, _ = fmt.Fprintf(w, "  in flight: %s\n", printable(call))
	}
	for _, line := range c.Stderr {
		_, _ = fmt.Fprintf(w, "  | %s\n", printable(line))
	}
	switch {
	case c.Dump != "" && dump:
		for line := range strings.Lines(c.Dump) {
			_, _ = fmt.Fprintf(w, "  > %s\n", printable(strings.TrimSuffix(line, "\n")))
		}
	case c.Dump != "":
		_, _ = fmt.Fprintln(w, "  its goroutines are shown with --dump")
	}
}
