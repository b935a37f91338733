package sdk

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/mod/semver"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// offer is a plugin that has been checked, and what it answers to Describe. It is
// immutable.
type offer struct {
	plugin   Plugin
	commands map[string]*offeredCommand
	settings *settings // nil: takes none
	describe *pluginpb.DescribeResponse
}

type offeredCommand struct {
	Command
	params, result *jsonschema.Resolved
}

// The bounds of a description. A server refuses a plugin that is above them.
const (
	maxCommands      = 256
	maxSummaryBytes  = 512
	maxMarkdownBytes = 32 << 10
	maxSchemaBytes   = 256 << 10
	maxExamples      = 32
	maxExampleBytes  = 64 << 10
	maxTimeout       = 24 * time.Hour
)

// oneLine reports whether s can stand in a list: something, and nothing that breaks
// the line or cannot be seen.
func oneLine(s string) bool {
	return s != "" && len(s) <= maxSummaryBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
	})
}

var (
	pluginName  = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	commandPart = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// newOffer checks a plugin and returns all that is wrong with it, joined.
func newOffer(p Plugin) (*offer, error) {
	o := &offer{plugin: p, commands: make(map[string]*offeredCommand, len(p.Commands))}
	o.describe = &pluginpb.DescribeResponse{
		Name: p.Name, Version: p.Version, Summary: p.Summary, Homepage: p.Homepage, License: p.License,
	}
	problems := checkPlugin(p)
	for _, c := range p.Needs {
		o.describe.Capabilities = append(o.describe.Capabilities, string(c))
	}
	var err error
	if o.settings, err = newSettings(p.Settings); err != nil {
		problems = append(problems, err)
	} else if o.settings != nil {
		o.describe.SettingsSchema = o.settings.schemaJSON
	}
	seen := make(map[string]bool)
	for _, c := range p.Commands {
		if seen[c.name] {
			problems = append(problems, fmt.Errorf("command %q: there are two of this name", c.name))
			continue
		}
		seen[c.name] = true
		offered, description, err := offerCommand(p.Name, c)
		if err != nil {
			problems = append(problems, fmt.Errorf("command %q: %w", c.name, err))
			continue
		}
		o.commands[c.name] = offered
		o.describe.Commands = append(o.describe.Commands, description)
	}
	return o, errors.Join(problems...)
}

func checkPlugin(p Plugin) (problems []error) {
	if !pluginName.MatchString(p.Name) {
		problems = append(problems, fmt.Errorf("name %q: want %s", p.Name, pluginName))
	}
	if v := "v" + p.Version; !semver.IsValid(v) || semver.Canonical(v)+semver.Build(v) != v {
		problems = append(problems, fmt.Errorf("version %q: want a full semantic version such as 1.0.0", p.Version))
	}
	if !oneLine(p.Summary) {
		problems = append(problems, fmt.Errorf("summary: want one line of at most %d bytes that says what the plugin is for", maxSummaryBytes))
	}
	if p.Homepage != "" && !oneLine(p.Homepage) {
		problems = append(problems, fmt.Errorf("homepage: want one line of at most %d bytes, or none", maxSummaryBytes))
	}
	if p.License != "" && !oneLine(p.License) {
		problems = append(problems, fmt.Errorf("license: want one line of at most %d bytes, or none", maxSummaryBytes))
	}
	if n := len(p.Commands); n == 0 || n > maxCommands {
		problems = append(problems, fmt.Errorf("commands: got %d, want 1 to %d", n, maxCommands))
	}
	seen := make(map[Capability]bool)
	for _, c := range p.Needs {
		switch {
		case !c.valid():
			problems = append(problems, fmt.Errorf("need %q: want server, users, commands, kv, send, broadcast or net", c))
		case seen[c]:
			problems = append(problems, fmt.Errorf("need %q: stands there twice", c))
		}
		seen[c] = true
	}
	return problems
}

func offerCommand(plugin string, c Command) (*offeredCommand, *pluginpb.CommandDescription, error) {
	part, further := strings.CutPrefix(c.name, plugin+".")
	switch {
	case c.name != plugin && (!further || !commandPart.MatchString(part)):
		return nil, nil, fmt.Errorf("want the name %q, or %q and a part %s", plugin, plugin+".", commandPart)
	case c.err != nil:
		return nil, nil, c.err
	case c.run == nil:
		return nil, nil, errors.New("want a command made by sdk.Handle or sdk.Stream")
	case !oneLine(c.summary):
		return nil, nil, fmt.Errorf("want a summary: one line of at most %d bytes that says what it does", maxSummaryBytes)
	case len(c.description) > maxMarkdownBytes, !utf8.ValidString(c.description):
		return nil, nil, fmt.Errorf("want a description of at most %d bytes of UTF-8, got %d bytes", maxMarkdownBytes, len(c.description))
	case len(c.examples) > maxExamples:
		return nil, nil, fmt.Errorf("want at most %d examples, got %d", maxExamples, len(c.examples))
	case c.timeout > maxTimeout:
		return nil, nil, fmt.Errorf("want a timeout of at most %s, got %s", maxTimeout, c.timeout)
	}
	offered := &offeredCommand{Command: c}
	var err error
	if offered.params, err = c.params.Resolve(nil); err != nil {
		return nil, nil, fmt.Errorf("resolve its params schema: %w", err)
	}
	if offered.result, err = c.result.Resolve(nil); err != nil {
		return nil, nil, fmt.Errorf("resolve its result schema: %w", err)
	}
	description, err := offered.description()
	return offered, description, err
}

func (c *offeredCommand) description() (*pluginpb.CommandDescription, error) {
	d := &pluginpb.CommandDescription{
		Name: c.name, Summary: c.summary, Description: c.Command.description,
		Streaming: c.streaming, Idempotent: c.idempotent, ReadOnly: c.readOnly, Destructive: c.destructive,
		TimeoutMs: c.timeout.Milliseconds(),
	}
	var err error
	if d.ParamsSchema, err = c.Command.params.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode its params schema: %w", err)
	}
	if d.ResultSchema, err = c.Command.result.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode its result schema: %w", err)
	}
	if n := max(len(d.GetParamsSchema()), len(d.GetResultSchema())); n > maxSchemaBytes {
		return nil, fmt.Errorf("its schema has %d bytes, want at most %d", n, maxSchemaBytes)
	}
	for i, e := range c.examples {
		out := &pluginpb.Example{}
		if out.Params, err = encode(e.params); err == nil {
			err = fits(c.params, out.GetParams())
		}
		if err != nil {
			return nil, fmt.Errorf("params of example %d: %w", i+1, err)
		}
		if out.Result, err = encode(e.result); err == nil {
			err = fits(c.result, out.GetResult())
		}
		if err != nil {
			return nil, fmt.Errorf("result of example %d: %w", i+1, err)
		}
		if n := max(len(out.GetParams()), len(out.GetResult())); n > maxExampleBytes {
			return nil, fmt.Errorf("example %d has %d bytes, want at most %d", i+1, n, maxExampleBytes)
		}
		d.Examples = append(d.Examples, out)
	}
	return d, nil
}
