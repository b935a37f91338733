package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/semver"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Bounds on what a plugin may say of itself. A catalogue is held in memory and
// sent to clients.
const (
	maxCommands       = 256
	maxSummaryBytes   = 512
	maxMarkdownBytes  = 32 << 10
	maxSchemaBytes    = 256 << 10
	maxExamples       = 32
	maxExampleBytes   = 64 << 10
	maxCommandTimeout = 24 * time.Hour
)

// description is what a plugin said of itself, checked.
type description struct {
	version  string
	summary  string
	homepage string
	license  string
	needs    []string
	commands []core.Command
}

// describe checks a plugin's description. The error names everything that is
// wrong with it.
func describe(plugin string, d *pluginpb.DescribeResponse) (*description, error) {
	var c checker
	c.that(d.GetName() == plugin, "it calls itself %q, but its file is %q", clip(clean(d.GetName()), 64), plugin)
	c.that(semver.IsValid("v"+d.GetVersion()) && semver.Canonical("v"+d.GetVersion()) == "v"+withoutBuild(d.GetVersion()),
		"version %q is not a semantic version such as 1.0.0", clip(clean(d.GetVersion()), 64))
	c.line("summary", d.GetSummary())
	for _, need := range d.GetCapabilities() {
		c.that(hostsvc.ValidCapability(need), "it asks for the capability %q, which does not exist", clip(clean(need), 64))
	}
	c.that(len(d.GetSettingsSchema()) == 0 || isObject(d.GetSettingsSchema(), maxSchemaBytes), "its settings schema is not one JSON object of at most %d bytes", maxSchemaBytes)
	c.that(len(d.GetCommands()) > 0 && len(d.GetCommands()) <= maxCommands, "it has %d commands, want 1 to %d", len(d.GetCommands()), maxCommands)
	out := &description{
		version: d.GetVersion(), needs: d.GetCapabilities(), summary: clean(d.GetSummary()),
		homepage: clip(clean(d.GetHomepage()), maxSummaryBytes), license: clip(clean(d.GetLicense()), maxSummaryBytes),
	}
	seen := map[string]bool{}
	for _, cmd := range d.GetCommands() {
		c.command(plugin, cmd)
		c.that(!seen[cmd.GetName()], "command %q stands twice", clip(clean(cmd.GetName()), 130))
		seen[cmd.GetName()] = true
		out.commands = append(out.commands, commandOf(plugin, d.GetVersion(), cmd))
	}
	return out, c.result()
}

func withoutBuild(version string) string {
	version, _, _ = strings.Cut(version, "+")
	return version
}

// checker collects what is wrong.
type checker struct{ wrong []string }

func (c *checker) that(ok bool, format string, args ...any) {
	if !ok {
		c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
	}
}

func (c *checker) line(what, text string) {
	c.that(text != "" && len(text) <= maxSummaryBytes && text == clean(text), "its %s is not one line of 1 to %d bytes of plain text", what, maxSummaryBytes)
}

func (c *checker) result() error {
	if len(c.wrong) == 0 {
		return nil
	}
	if len(c.wrong) > 10 {
		c.wrong = append(c.wrong[:10], fmt.Sprintf("and %d more", len(c.wrong)-10))
	}
	return errors.New("description refused: " + strings.Join(c.wrong, "; "))
}

func (c *checker) command(plugin string, d *pluginpb.CommandDescription) {
	name := clip(clean(d.GetName()), 130)
	owner, _, _ := strings.Cut(d.GetName(), ".")
	c.that(owner == plugin && wire.ValidCommand(d.GetName()), "command name %q is neither %q nor %q followed by ^[a-z][a-z0-9_]{0,62}$", name, plugin, plugin+".")
	c.line("summary of "+name, d.GetSummary())
	c.that(len(d.GetDescription()) <= maxMarkdownBytes && utf8.ValidString(d.GetDescription()), "description of %q has more than %d bytes", name, maxMarkdownBytes)
	c.that(isObject(d.GetParamsSchema(), maxSchemaBytes), "params schema of %q is not one JSON object of at most %d bytes", name, maxSchemaBytes)
	c.that(len(d.GetResultSchema()) == 0 || isObject(d.GetResultSchema(), maxSchemaBytes), "result schema of %q is not one JSON object of at most %d bytes", name, maxSchemaBytes)
	c.that(len(d.GetExamples()) <= maxExamples, "%q has more than %d examples", name, maxExamples)
	for i, e := range d.GetExamples() {
		c.that(isObject(e.GetParams(), maxExampleBytes), "params of example %d of %q are not one JSON object", i+1, name)
		c.that(isJSON(e.GetResult(), maxExampleBytes), "result of example %d of %q is not JSON", i+1, name)
	}
	timeout := time.Duration(d.GetTimeoutMs())
	c.that(timeout >= 0 && timeout <= maxCommandTimeout/time.Millisecond, "timeout of %q is %d ms, want 0 to %v", name, d.GetTimeoutMs(), maxCommandTimeout)
}

func commandOf(plugin, version string, d *pluginpb.CommandDescription) core.Command {
	cmd := core.Command{
		Name: d.GetName(), Plugin: plugin, PluginVersion: version, Summary: d.GetSummary(), Description: d.GetDescription(),
		ParamsSchema: d.GetParamsSchema(), ResultSchema: d.GetResultSchema(),
		Streaming: d.GetStreaming(), Idempotent: d.GetIdempotent(), ReadOnly: d.GetReadOnly(), Destructive: d.GetDestructive(),
		Timeout: time.Duration(d.GetTimeoutMs()) * time.Millisecond,
	}
	for _, e := range d.GetExamples() {
		cmd.Examples = append(cmd.Examples, core.Example{Params: e.GetParams(), Result: e.GetResult()})
	}
	return cmd
}

// sameCommands reports whether two offers are one: for their callers nothing
// changes from one to the other.
func sameCommands(a, b []core.Command) bool { return reflect.DeepEqual(a, b) }

func isJSON(raw []byte, most int) bool {
	return len(raw) <= most && jsontext.Value(raw).IsValid()
}

func isObject(raw []byte, most int) bool {
	return bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) && isJSON(raw, most)
}

// grantsFor is what a plugin gets: what the operator granted, as far as the plugin
// asks for it and this server has it.
func grantsFor(needs, granted []string) []string {
	var grants []string
	for _, need := range needs {
		if slices.Contains(granted, need) && hostsvc.Offered(need) && !slices.Contains(grants, need) {
			grants = append(grants, need)
		}
	}
	return grants
}

// validGrant reports whether an operator may grant this: a capability, or something
// for the process to reach.
func validGrant(grant string) bool {
	kind, path, ok := strings.Cut(grant, ":")
	return hostsvc.ValidCapability(grant) || grant == grantNet || grant == grantObserve ||
		ok && slices.Contains([]string{"read", "write", "exec"}, kind) && filepath.IsAbs(path)
}

// Grants that are no capabilities.
const (
	grantNet     = "net"     // the process may use the network
	grantObserve = "observe" // whatever it asks for is answered, and noted
)
